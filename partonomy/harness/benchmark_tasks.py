"""A benchmark beyond Partonomy as the runner sees it: items, how one is asked and scored, and the metrics of all."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from partonomy.benchmarks.gqa import gqa_prediction, gqa_prompt, gqa_ratios, gqa_score
from partonomy.benchmarks.pope import (
    MEAN_F1,
    pope_compat_ratios,
    pope_estimates,
    pope_prediction,
    pope_prompt,
    pope_score,
)
from partonomy.benchmarks.segmentation import (
    SegmentationItem,
    SegmentationMode,
    Wording,
    count_outcome,
    describe_mode,
    forced_answer,
    missed_outcome,
    outcome_iou,
    segmentation_prompt,
    segmentation_ratios,
    unite,
)
from partonomy.benchmarks.textvqa import textvqa_prediction, textvqa_prompt, textvqa_ratios, textvqa_score
from partonomy.benchmarks.vqa import VqaItem, VqaProtocol, process_answer
from partonomy.harness.item_records import ItemRecord
from partonomy.images import image_size, load_image
from partonomy.metrics.bootstrap import Estimate, ImageRatio, bootstrap_ratios
from partonomy.models.contract import Generation, Role, Turn
from partonomy.structures import CharSpan

REFCOCO_NAMES = ("refcoco", "refcoco+", "refcocog")
REASON_SEG = "reasonseg"
REFCOCOM = "refcocom"
ACCURACY = "accuracy"


class BenchmarkModel(Protocol):
    """What a model must offer: answers in words and masks. PLUM's adapter of the Partonomy contract does."""

    name: str
    dtype: str
    device: str

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the model's own answer to `turns`, in words alone."""
        ...

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return one mask per span of the given answer, bool (len(spans), H, W)."""
        ...

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return the model's own answer, its tagged spans and their masks."""
        ...


class BenchmarkItem(Protocol):
    """What the runner needs to know of an item."""

    @property
    def item_id(self) -> str:
        """Unique within the run."""
        ...

    @property
    def image_id(self) -> str:
        """The same for all items of one image."""
        ...

    @property
    def image_path(self) -> Path:
        """The image file."""
        ...


ItemT = TypeVar("ItemT", bound=BenchmarkItem)


class BenchmarkTask(Protocol[ItemT]):
    """What is run: a benchmark's split under one protocol.

    Attributes:
        protocol: In words, as it stands beside every score.
        headline: The metric by which the benchmark is usually quoted.
    """

    @property
    def benchmark(self) -> str: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def protocol(self) -> str: ...  # noqa: D102
    @property
    def headline(self) -> str: ...  # noqa: D102
    @property
    def items(self) -> Sequence[ItemT]: ...  # noqa: D102

    def load(self, item: ItemT) -> np.ndarray:
        """Read the item's image, uint8 RGB (H, W, 3)."""
        ...

    def ask(self, model: BenchmarkModel, item: ItemT, image: np.ndarray) -> ItemRecord:
        """Ask one item and score it."""
        ...

    def fail(self, item: ItemT, reason: str) -> ItemRecord:
        """The record of an item that could not be asked: score 0."""
        ...

    def estimate(self, records: Sequence[ItemRecord], generator: np.random.Generator) -> dict[str, Estimate]:
        """Every metric with its 95% interval over images."""
        ...

    def notes(self, records: Sequence[ItemRecord]) -> tuple[str, ...]:
        """What a reader of the scores has to know besides, a line each."""
        ...

    def content_hash(self) -> str:
        """sha256 of everything asked and its truth, wherever the files lie."""
        ...


@dataclass(frozen=True)
class VqaBenchmark:
    """The functions of one benchmark of short answers."""

    prompt: Callable[[VqaItem, VqaProtocol], str]
    prediction: Callable[[str], str]
    score: Callable[[str, VqaItem, VqaProtocol], float]
    ratios: Callable[[Sequence[ItemRecord]], dict[str, ImageRatio]]


VQA_BENCHMARKS = {
    "textvqa": VqaBenchmark(textvqa_prompt, textvqa_prediction, textvqa_score, textvqa_ratios),
    "gqa": VqaBenchmark(gqa_prompt, gqa_prediction, gqa_score, gqa_ratios),
    "pope": VqaBenchmark(pope_prompt, pope_prediction, pope_score, pope_compat_ratios),
}


@dataclass(frozen=True)
class VqaTask:
    """Questions with short answers."""

    benchmark: str
    split: str
    vqa_protocol: VqaProtocol
    items: tuple[VqaItem, ...]

    @property
    def protocol(self) -> str:
        """The protocol, and whether OCR tokens were shown where that is a question."""
        is_plain = self.benchmark == "textvqa" and self.items[0].ocr_tokens is None
        return f"{self.vqa_protocol.value}, no OCR tokens" if is_plain else self.vqa_protocol.value

    @property
    def headline(self) -> str:
        """LLaVA quotes POPE by its mean F1, the others by accuracy."""
        is_official_pope = self.benchmark == "pope" and self.vqa_protocol is VqaProtocol.LLAVA_OFFICIAL
        return MEAN_F1 if is_official_pope else ACCURACY

    def load(self, item: VqaItem) -> np.ndarray:
        """Read the image upright."""
        return load_image(item.image_path, *image_size(item.image_path))

    def ask(self, model: BenchmarkModel, item: VqaItem, image: np.ndarray) -> ItemRecord:
        """Ask for the model's own words."""
        functions = VQA_BENCHMARKS[self.benchmark]
        prompt = functions.prompt(item, self.vqa_protocol)
        reply = model.reply(image, (Turn(Role.USER, prompt),))
        is_official = self.vqa_protocol is VqaProtocol.LLAVA_OFFICIAL
        return ItemRecord(
            item.item_id,
            item.image_id,
            item.group,
            prompt,
            item.answers,
            reply=reply,
            prediction=(functions.prediction if is_official else process_answer)(reply),
            score=functions.score(reply, item, self.vqa_protocol),
        )

    def fail(self, item: VqaItem, reason: str) -> ItemRecord:
        """A record without a reply."""
        prompt = VQA_BENCHMARKS[self.benchmark].prompt(item, self.vqa_protocol)
        return ItemRecord(item.item_id, item.image_id, item.group, prompt, item.answers, reason=reason)

    def estimate(self, records: Sequence[ItemRecord], generator: np.random.Generator) -> dict[str, Estimate]:
        """POPE's official scores are its own; the rest are means."""
        if self.headline == MEAN_F1:
            return pope_estimates(records, generator)
        return estimate_ratios(VQA_BENCHMARKS[self.benchmark].ratios(records), generator)

    def notes(self, records: Sequence[ItemRecord]) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def content_hash(self) -> str:
        """Over prompts and answers."""
        prompt = VQA_BENCHMARKS[self.benchmark].prompt
        return hash_rows(
            [[i.item_id, i.image_path.name, prompt(i, self.vqa_protocol), list(i.answers)] for i in self.items]
        )


@dataclass(frozen=True)
class SegmentationTask:
    """Expressions or instructions, one mask each."""

    benchmark: str
    split: str
    mode: SegmentationMode
    items: tuple[SegmentationItem, ...]
    wording: Wording = Wording.PLUM

    @property
    def protocol(self) -> str:
        """The mode, and the wording where it is not PLUM's own."""
        return describe_mode(self.mode, self.wording)

    @property
    def headline(self) -> str:
        """RefCOCO is quoted by cIoU; ReasonSeg by gIoU, since large masks rule its cIoU; RefCOCOm too ("mIoU")."""
        return "giou" if self.benchmark in (REASON_SEG, REFCOCOM) else "ciou"

    def load(self, item: SegmentationItem) -> np.ndarray:
        """Read the image in the annotation's frame."""
        return load_image(item.image_path, item.height, item.width)

    def ask(self, model: BenchmarkModel, item: SegmentationItem, image: np.ndarray) -> ItemRecord:
        """Segment the forced phrase, or all that the model's own answer tags."""
        prompt = segmentation_prompt(item, self.wording)
        turns, reply = (Turn(Role.USER, prompt),), None
        if self.mode is SegmentationMode.FORCED:
            forced = forced_answer(item)
            masks = model.segment(image, turns, forced.text, [forced.span])
        else:
            generation = model.generate(image, turns)
            reply, masks = generation.text, generation.masks
        outcome = count_outcome(item, unite(masks, item.height, item.width))
        return ItemRecord(
            item.item_id,
            item.image_id,
            "",
            prompt,
            (item.text,),
            reply=reply,
            score=outcome_iou(outcome),
            mask=outcome,
        )

    def fail(self, item: SegmentationItem, reason: str) -> ItemRecord:
        """IoU 0, the target's pixels in the union."""
        prompt = segmentation_prompt(item, self.wording)
        return ItemRecord(
            item.item_id, item.image_id, "", prompt, (item.text,), mask=missed_outcome(item), reason=reason
        )

    def estimate(self, records: Sequence[ItemRecord], generator: np.random.Generator) -> dict[str, Estimate]:
        """The two ratios, cIoU and gIoU."""
        return estimate_ratios(segmentation_ratios(records), generator)

    def notes(self, records: Sequence[ItemRecord]) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def content_hash(self) -> str:
        """Over words and masks."""
        return hash_rows(
            [
                [
                    i.item_id,
                    i.image_path.name,
                    i.text,
                    i.is_sentence,
                    vars(i.mask),
                    i.ignore_mask and vars(i.ignore_mask),
                ]
                for i in self.items
            ]
        )


def estimate_ratios(ratios: dict[str, ImageRatio], generator: np.random.Generator) -> dict[str, Estimate]:
    """The 95% interval of every metric, from the same resamples."""
    return dict(zip(ratios, bootstrap_ratios(tuple(ratios.values()), generator), strict=True))


def hash_rows(rows: Sequence[object]) -> str:
    """sha256 of JSON values in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode("ascii"))
    return digest.hexdigest()
