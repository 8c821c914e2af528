"""Build sources from downloads in LISA's folder layout (`DataConfig.dataset_dir`), by kind."""

from collections.abc import Container
from pathlib import Path

from partonomy.benchmarks.reason_seg import TargetNames, read_explanations, read_reason_seg, split_folder
from partonomy.benchmarks.refcoco import REFERRING_SETS, read_referring, reference_file
from partonomy.datasets.sources.mmr import mmr_file, read_mmr
from partonomy.suggestions import unknown_names
from plum.data.readers.label_maps import LabelMaps, find_layout
from plum.data.readers.llava_instruct import DIALOGUE_FILE, Dialogues
from plum.data.sources.base import Source
from plum.data.sources.llava_instruct import LlavaInstructSource
from plum.data.sources.mmr import MmrSource
from plum.data.sources.reasoning import ReasoningSource
from plum.data.sources.referring import ReferringSource
from plum.data.sources.semantic import SemanticSource
from plum.data.sources.targets import AskedTargets
from plum.inputs.encoding import ConversationEncoder
from plum.train_config import SourceConfig

TRAIN = "train"


def build_download(
    source: SourceConfig,
    root: Path,
    conversations_per_image: int,
    *,
    excluded: Container[Path],
    encoder: ConversationEncoder | None,
    asked: AskedTargets,
    has_marks: bool,
) -> Source:
    """Build the training split of a source of kind `semantic`, `referring`, `reasoning`, `llava_instruct` or `mmr`.

    Args:
        source: its configuration.
        root: `DataConfig.dataset_dir`.
        conversations_per_image: maximum number of conversations about one image in a sample.
        excluded: image files that may not be trained on.
        encoder: the run's encoder; `llava_instruct` needs it.
        asked: targets of a question and wordings of `semantic`, `referring` and `reasoning`.
        has_marks: whether the run's system writes marks such as [SEG] into answers.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: the data set is unknown, a file is broken, or nothing is left to train on.
    """
    if source.kind == "semantic":
        return SemanticSource(LabelMaps(root, source.dataset, excluded), conversations_per_image, asked)
    if source.kind == "referring":
        items = read_referring(root, source.dataset, TRAIN)
        return ReferringSource(source.dataset, items, conversations_per_image, excluded, asked)
    if source.kind == "reasoning":
        items = read_reason_seg(root, TRAIN, texts="all", names=TargetNames(source.answers))
        return ReasoningSource(items, read_explanations(root), conversations_per_image, excluded, asked.wordings)
    if source.kind == "mmr":
        images = read_mmr(mmr_file(root, TRAIN))
        is_unaligned = source.legacy_unaligned_qa
        return MmrSource(
            root, images, conversations_per_image, excluded, has_marks=has_marks, is_unaligned=is_unaligned
        )
    assert source.kind == "llava_instruct", source.kind
    if encoder is None:
        raise ValueError("llava_instruct cuts dialogues to the run's token limit: build its mixture with an encoder")
    return LlavaInstructSource(Dialogues(root, excluded), encoder)


def find_marker(source: SourceConfig, dataset_dir: str | None) -> Path:
    """Return the file or folder without which a source counts as missing.

    Raises:
        ValueError: the data set is unknown.
    """
    if source.path:
        return Path(source.path)
    root = Path(dataset_dir or "")
    if source.kind == "semantic":
        return root / find_layout(source.dataset).labels
    if source.kind == "referring":
        if source.dataset not in REFERRING_SETS:
            raise ValueError(unknown_names("referring data set", [source.dataset], REFERRING_SETS))
        return reference_file(root, source.dataset)
    if source.kind == "mmr":
        return mmr_file(root, TRAIN)
    return split_folder(root, TRAIN) if source.kind == "reasoning" else root / DIALOGUE_FILE
