"""What is asked on a benchmark beyond Partonomy, as a run records it, so that its items can be read again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from partonomy.benchmarks.gqa import read_gqa
from partonomy.benchmarks.mmr import MMR, MultiTargetMode, MultiTargetTask, read_mmr_items
from partonomy.benchmarks.multi_referring import MULTI_REFERRING_NAMES, read_multi_referring
from partonomy.benchmarks.pope import ALL_CATEGORIES, read_pope
from partonomy.benchmarks.reason_seg import read_reason_seg
from partonomy.benchmarks.refcocom import read_refcocom
from partonomy.benchmarks.referring import read_referring
from partonomy.benchmarks.segmentation import SegmentationItem, SegmentationMode, Wording
from partonomy.benchmarks.textvqa import read_textvqa
from partonomy.benchmarks.vqa import VqaItem, VqaProtocol
from partonomy.harness.benchmark_tasks import (
    REASON_SEG,
    REFCOCO_NAMES,
    REFCOCOM,
    VQA_BENCHMARKS,
    BenchmarkTask,
    SegmentationTask,
    VqaTask,
)
from partonomy.harness.run_directory import CONFIG_FILE

TEXTVQA = "textvqa"
MULTI_TARGET_NAMES = (MMR, *MULTI_REFERRING_NAMES)
BENCHMARKS = (*REFCOCO_NAMES, REASON_SEG, REFCOCOM, *MULTI_TARGET_NAMES, *VQA_BENCHMARKS)
Mode = SegmentationMode | MultiTargetMode
MODES: tuple[Mode, ...] = (*SegmentationMode, *MultiTargetMode)
DEFAULT_SPLITS = {TEXTVQA: "val", "gqa": "testdev", "pope": ALL_CATEGORIES}
COMPAT_GQA_SPLIT = "val"
SETTINGS_KEY = "settings"
"""In config.json; runs of validate_partonomy.py have none."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is asked, of which items.

    Attributes:
        benchmark: Its name.
        split: Its part.
        mode, wording: Of segmentation, of one target or of several; None for questions.
        vqa_protocol: Of questions; None for segmentation.
        with_ocr: Whether TextVQA's OCR tokens are shown, where the protocol shows them at all.
        limit: At most so many items (of each POPE category); None for all.
        annotations: A file in the place of the split's own (MMR, RefCOCOm).
    """

    benchmark: str
    split: str
    mode: Mode | None = None
    wording: Wording | None = None
    vqa_protocol: VqaProtocol | None = None
    with_ocr: bool = True
    limit: int | None = None
    annotations: str | None = None

    def __post_init__(self) -> None:
        is_vqa = self.benchmark in VQA_BENCHMARKS
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit must be at least 1, got {self.limit}")
        if is_vqa and (self.mode is not None or self.wording is not None):
            raise ValueError(f"--mode and --wording are for segmentation; {self.benchmark} takes --protocol")
        if not is_vqa and self.vqa_protocol is not None:
            raise ValueError(f"--protocol is for questions; {self.benchmark} takes --mode")
        if self.mode is not None and self.mode not in modes_of(self.benchmark):
            known = ", ".join(mode.value for mode in modes_of(self.benchmark))
            raise ValueError(f"--mode of {self.benchmark} is one of {known}, not {self.mode.value}")
        if self.annotations is not None and self.benchmark not in (MMR, REFCOCOM):
            raise ValueError(f"--annotations is for {MMR} and {REFCOCOM}, not {self.benchmark}")
        if not self.with_ocr and self.benchmark != TEXTVQA:
            raise ValueError(f"--no_ocr is for textvqa, not {self.benchmark}")


@dataclass(frozen=True)
class BenchmarkConfig:
    """What determines the numbers of a run; a resumed run must have the same.

    Attributes:
        settings: What is asked.
        protocol: How, in the words that stand beside every score.
        is_base: Whether the checkpoint's adapters were off: the LLaVA underneath.
        conversation: The checkpoint's conversation template.
        max_new_tokens: Longest answer.
        root: Where the data lie.
        content_hash: Of all that is asked and its truth, in all shards.
        num_trained_on: How many of the photographs asked about the model was trained on; None: unknown.
        shard: The part of the images that is asked, e.g. "2/8"; None for all.
    """

    settings: BenchmarkSettings
    protocol: str
    checkpoint: str
    checkpoint_hash: str
    is_base: bool
    conversation: str
    max_new_tokens: int
    root: str
    content_hash: str
    num_trained_on: int | None = None
    shard: str | None = None
    seed: int = 0


_ADAPTER = TypeAdapter(BenchmarkConfig)


def default_split(benchmark: str, protocol: VqaProtocol | None) -> str:
    """The split that is asked where none is named."""
    if benchmark == "gqa" and protocol is VqaProtocol.PARTONOMY_COMPAT:
        return COMPAT_GQA_SPLIT
    return DEFAULT_SPLITS.get(benchmark, "val")


def modes_of(benchmark: str) -> tuple[Mode, ...]:
    """The modes of a benchmark, that of the paper it comes from first; none of questions."""
    if benchmark in VQA_BENCHMARKS:
        return ()
    return tuple(MultiTargetMode) if benchmark in MULTI_TARGET_NAMES else tuple(SegmentationMode)


def default_mode(benchmark: str) -> Mode | None:
    """The mode where none is named."""
    return next(iter(modes_of(benchmark)), None)


def read_task(settings: BenchmarkSettings, root: Path) -> BenchmarkTask[Any]:
    """Read what is to be asked.

    Raises:
        FileNotFoundError, ValueError: Files are missing or broken.
    """
    name, split = settings.benchmark, settings.split
    if name in VQA_BENCHMARKS:
        protocol = settings.vqa_protocol or VqaProtocol.LLAVA_OFFICIAL
        return VqaTask(name, split, protocol, _read_questions(settings, protocol, root))
    mode, wording = settings.mode or default_mode(name), settings.wording or Wording.PLUM
    annotations = None if settings.annotations is None else Path(settings.annotations)
    if isinstance(mode, MultiTargetMode):
        questions = read_mmr_items(root, split, annotations) if name == MMR else read_multi_referring(root, name, split)
        return MultiTargetTask(name, split, mode, questions[: settings.limit], wording)
    assert mode is not None  # only questions with short answers have none
    items = _read_expressions(name, split, root, annotations)
    return SegmentationTask(name, split, mode, items[: settings.limit], wording)


def is_benchmark_run(output: Path) -> bool:
    """Whether a folder's config.json is of a run on a benchmark beyond Partonomy."""
    path = output / CONFIG_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return isinstance(content, dict) and SETTINGS_KEY in content


def benchmark_config_to_json(config: BenchmarkConfig) -> dict[str, Any]:
    """What `config.json` holds."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return content


def read_benchmark_config(output: Path) -> BenchmarkConfig:
    """Read `config.json`.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: The file is of something else.
    """
    path = output / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is {output} the output folder of `plum validate`?")
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        raise ValueError(f"{path}: not the configuration of `plum validate` ({place}: {first['msg']})") from error


def _read_expressions(name: str, split: str, root: Path, annotations: Path | None) -> tuple[SegmentationItem, ...]:
    if name == REASON_SEG:
        return read_reason_seg(root, split)
    return read_refcocom(root, split, annotations) if name == REFCOCOM else read_referring(root, name, split)


def _read_questions(settings: BenchmarkSettings, protocol: VqaProtocol, root: Path) -> tuple[VqaItem, ...]:
    if settings.benchmark == TEXTVQA:
        with_ocr = protocol is VqaProtocol.LLAVA_OFFICIAL and settings.with_ocr
        return read_textvqa(root, settings.split, with_ocr)[: settings.limit]
    if settings.benchmark == "gqa":
        return read_gqa(root, settings.split, protocol)[: settings.limit]
    return _first_of_each_group(read_pope(root, settings.split), settings.limit)


def _first_of_each_group(items: Sequence[VqaItem], limit: int | None) -> tuple[VqaItem, ...]:
    counts: dict[str, int] = {}
    kept = []
    for item in items:
        counts[item.group] = counts.get(item.group, 0) + 1
        if limit is None or counts[item.group] <= limit:
            kept.append(item)
    return tuple(kept)
