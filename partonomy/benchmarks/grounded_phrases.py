"""Records and metrics of benchmarks whose answers are lists of phrases with masks, in one image or several.

A record keeps, for each image of its item, the true labels, the predictions with their masks, and their IoUs; every
metric of `partonomy.metrics.grounded_phrases` is computed from these. An image may occur in many items, so that images
are told apart by item and number, not by file. Resamples draw whole items.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from partonomy.benchmarks.cases import Case, CaseLabel, CasePicture, CaseText
from partonomy.benchmarks.imported import Entry
from partonomy.benchmarks.task import Record
from partonomy.datasets.grounded_text import clean_label
from partonomy.files import is_integer, shorten
from partonomy.masks import encode_mask, rle_area
from partonomy.metrics.bootstrap import ImageRatio, RankedHits
from partonomy.metrics.grounded_phrases import (
    LabelSimilarity,
    assigned_sum,
    best_sum,
    count_found,
    count_found_glamm,
    find_hits,
    greedy_ious,
    word_overlaps,
)
from partonomy.metrics.iou import count_pixels
from partonomy.models.contract import GroundedPhrase
from partonomy.structures import RLE
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent
from partonomy.visualize import Colour, part_colours

METRICS = ("ap50", "miou", "miou_all", "recall", "recall_glamm", "ss", "ss_best", "siou", "siou_best")
"""Names of the metrics, in the order of tables."""
FREQUENCY_BINS = (1, 3, 10, 30, 100, 300, 1000)
"""Smallest number of targets of a label in each bin of the table of recalls."""


@dataclass(frozen=True)
class TrueMask:
    """A thing to be found: its label, its mask, and whether it is a target rather than a thing named on the way."""

    label: str
    mask: RLE
    is_target: bool = True


@dataclass(frozen=True)
class FoundMask:
    """A prediction.

    Attributes:
        label: Its phrase, cleaned (`clean_label`).
        mask: Its mask.
        ious: IoU with each true mask of its image.
        is_target: Whether it counts among the answers, rather than among the things named on the way.
    """

    label: str
    mask: RLE
    ious: tuple[float, ...]
    is_target: bool = True


@dataclass(frozen=True)
class ImageOutcome:
    """What was to be found in an image, and what was found.

    Attributes:
        true_labels: Label of each true mask.
        true_are_targets: Whether each true mask is a target.
        found: The predictions, in the order of the answer.
    """

    true_labels: tuple[str, ...]
    true_are_targets: tuple[bool, ...]
    found: tuple[FoundMask, ...] = ()

    def __post_init__(self) -> None:
        if len(self.true_labels) != len(self.true_are_targets):
            raise ValueError(f"{len(self.true_labels)} true labels need as many marks, got {self.true_are_targets}")
        for one in self.found:
            if len(one.ious) != len(self.true_labels) or not all(0 <= iou <= 1 for iou in one.ious):
                raise ValueError(f"a prediction needs one IoU in [0, 1] for each true label, got {one.ious}")

    @property
    def targets(self) -> "ImageOutcome":
        """The outcome of the targets alone."""
        kept = [place for place, is_target in enumerate(self.true_are_targets) if is_target]
        found = tuple(
            replace(one, ious=tuple(one.ious[place] for place in kept)) for one in self.found if one.is_target
        )
        return ImageOutcome(tuple(self.true_labels[place] for place in kept), (True,) * len(kept), found)

    @property
    def ious(self) -> np.ndarray:
        """IoUs, float64 (P, M)."""
        return np.array([one.ious for one in self.found], dtype=np.float64).reshape(
            len(self.found), len(self.true_labels)
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each prediction."""
        return tuple(one.label for one in self.found)


@dataclass(frozen=True, kw_only=True)
class PhrasesRecord(Record):
    """The outcome of an item whose answer is a list of phrases with masks.

    Attributes:
        images: The outcome in each of its images.
        reply: The model's words; None if the item failed or the answer was not in words.
        truth: The right answer in words.
        is_cut: The limit on new tokens ended the answer.
    """

    images: tuple[ImageOutcome, ...]
    reply: str | None = None
    truth: str = ""
    is_cut: bool = False

    @property
    def subject(self) -> str:
        """The labels of the targets, each once."""
        targets = (label for image in self.images for label in image.targets.true_labels)
        return ", ".join(dict.fromkeys(targets))

    @property
    def quality(self) -> float | None:
        """The mean IoU over the targets, each paired with at most one prediction."""
        outcomes = [image.targets for image in self.images]
        number = sum(len(one.true_labels) for one in outcomes)
        total = sum(sum(greedy_ious(one.ious)) for one in outcomes)
        return min(1.0, total / number) if number else None

    @property
    def said(self) -> str:
        """The reply, or an empty string."""
        return self.reply or ""

    def masks(self) -> Iterable[RLE]:
        """Return all predicted masks, image by image."""
        return [one.mask for image in self.images for one in image.found]


def compare_phrases(
    true: Sequence[TrueMask], predicted: Sequence[GroundedPhrase], is_target: Callable[[Sequence[str]], Sequence[bool]]
) -> ImageOutcome:
    """Compare the predictions of an image with its true masks.

    Args:
        true: The true masks, at least one.
        predicted: The predictions of this image.
        is_target: Given the predictions' cleaned labels, returns which of them count among the answers.

    Raises:
        ValueError: A predicted mask is not bool or not of the image's size.
    """
    height, width = true[0].mask.height, true[0].mask.width
    for one in predicted:
        if one.mask.dtype != np.bool_ or one.mask.shape != (height, width):
            raise ValueError(
                f"the mask of {one.phrase!r} must be bool ({height}, {width}), the size of its image, got "
                f"{one.mask.dtype} {one.mask.shape}"
            )
    masks = [encode_mask(one.mask) for one in predicted]
    ious = count_pixels(masks, [one.mask for one in true]).ious
    labels = [clean_label(one.phrase) for one in predicted]
    found = tuple(
        FoundMask(label, mask, tuple(row), kind)
        for label, mask, row, kind in zip(labels, masks, ious.tolist(), is_target(labels), strict=True)
    )
    return ImageOutcome(tuple(one.label for one in true), tuple(one.is_target for one in true), found)


def phrases_to_json(record: PhrasesRecord) -> list[dict[str, Any]]:
    """Return the label and the image of each mask of a record, in the order of `masks`, for exported predictions."""
    return [
        {"label": one.label, "image": number, "is_target": one.is_target}
        for number, image in enumerate(record.images)
        for one in image.found
    ]


def read_phrases(entry: Entry, true: Sequence[Sequence[TrueMask]]) -> tuple[GroundedPhrase, ...]:
    """Read the masks of an imported entry and the phrases that belong to them.

    Args:
        entry: The entry; `masks` has the masks, and `phrases` as many objects with the keys `label` and `image`.
        true: The true masks of each image, of the image's size.

    Raises:
        ValueError: The lists are malformed or of different lengths.
    """
    phrases, masks = entry.content.get("phrases"), entry.content.get("masks")
    if not isinstance(phrases, list) or not isinstance(masks, list) or len(phrases) != len(masks):
        raise ValueError("'masks' and 'phrases' must be lists of one length: each mask needs its label and image")
    found = []
    for number, (phrase, mask) in enumerate(zip(phrases, masks, strict=True)):
        where = f"'phrases'[{number}]"
        if not isinstance(phrase, Mapping) or not isinstance(phrase.get("label"), str):
            raise ValueError(f"{where} must be an object with a 'label', got {shorten(phrase)}")
        image = phrase.get("image", 0)
        if not is_integer(image) or not 0 <= image < len(true):
            raise ValueError(f"{where}: 'image' must be an index from 0 to {len(true) - 1}, got {shorten(image)}")
        size = true[image][0].mask
        found.append(
            GroundedPhrase(phrase["label"], image, entry.mask(mask, size.height, size.width, f"'masks'[{number}]"))
        )
    return tuple(found)


def nothing_found(true: Sequence[TrueMask]) -> ImageOutcome:
    """Return the outcome of an image without predictions."""
    return ImageOutcome(tuple(one.label for one in true), tuple(one.is_target for one in true))


def labels_note(embedding_model: str) -> str:
    """Return the note that names the model that compares labels."""
    return f"labels are compared by {embedding_model} (recall, recall_glamm, ss)"


def cut_notes(records: Sequence[PhrasesRecord]) -> tuple[str, ...]:
    """Return the note that counts the answers that the limit on new tokens ended; nothing if there is none."""
    num_cut = sum(record.is_cut for record in records)
    num_answers = sum(record.reply is not None for record in records)
    if num_cut == 0:
        return ()
    return (
        f"{num_cut} of {num_answers} answers were cut at the limit on new tokens (--max_new_tokens); phrases after the "
        "cut are missing",
    )


def labels_of(records: Iterable[PhrasesRecord]) -> set[str]:
    """Return all labels of records, true and predicted ones."""
    found: set[str] = set()
    for record in records:
        for image in record.images:
            found.update(image.true_labels, image.labels)
    return found


class PhraseTotals:
    """Sums of the metrics over the items of a run that are added one after another.

    Args:
        similarity: Similarity of all labels.
    """

    def __init__(self, similarity: LabelSimilarity) -> None:
        self._similarity = similarity
        self._tops = {name: array("d") for name in METRICS}
        self._num_true, self._num_images = array("d"), array("d")
        self._rows, self._hits = array("q"), array("b")

    def add(self, outcomes: Sequence[ImageOutcome]) -> None:
        """Add an item; without outcomes, it counts nothing, but stays one of the items that are drawn."""
        row, tops = len(self._num_true), dict.fromkeys(METRICS, 0.0)
        for image in outcomes:
            for hit in find_hits(image.ious):
                self._rows.append(row)
                self._hits.append(hit)
            for name, value in self._score(image).items():
                tops[name] += value
        for name, value in tops.items():
            self._tops[name].append(value)
        self._num_true.append(sum(len(image.true_labels) for image in outcomes))
        self._num_images.append(sum(bool(image.true_labels) for image in outcomes))

    def _score(self, image: ImageOutcome) -> dict[str, float]:
        paired = greedy_ious(image.ious)
        similarities = self._similarity.matrix(image.labels, image.true_labels)
        overlaps = word_overlaps(image.labels, image.true_labels)
        return {
            "miou": sum(paired) / len(paired) if paired else 0.0,
            "miou_all": sum(paired),
            "recall": count_found(image.ious, similarities),
            "recall_glamm": count_found_glamm(image.ious, similarities),
            "ss": assigned_sum(similarities),
            "ss_best": best_sum(similarities),
            "siou": assigned_sum(overlaps),
            "siou_best": best_sum(overlaps),
        }

    def metrics(self) -> dict[str, ImageRatio | RankedHits]:
        """Return the metrics over all items, in the order of `METRICS`.

        mIoU is a mean over images with a target, and all others are means over targets.
        """
        num_true, num_images = np.array(self._num_true), np.array(self._num_images)
        found: dict[str, ImageRatio | RankedHits] = {
            "ap50": RankedHits(
                np.array(self._rows, dtype=np.int64), np.array(self._hits, dtype=bool), num_true.astype(np.int64)
            )
        }
        for name in METRICS[1:]:
            below = num_images if name == "miou" else num_true
            found[name] = ImageRatio(np.array(self._tops[name]), below, int(below.sum()))
        return found


def recall_by_frequency(records: Iterable[PhrasesRecord], similarity: LabelSimilarity) -> Table:
    """Return the recall of the targets by the number of targets with the same label (CALICO's Figure 7).

    Args:
        records: Records of a run; they are iterated twice.
        similarity: Similarity of all labels.
    """
    frequencies = Counter(label for record in records for image in record.images for label in image.targets.true_labels)
    found, number, labels = Counter[int](), Counter[int](), Counter[int]()
    for count in frequencies.values():
        labels[_bin_of(count)] += 1
        number[_bin_of(count)] += count
    for record in records:
        for outcome in (image.targets for image in record.images):
            for label in _labels_found(outcome, similarity):
                found[_bin_of(frequencies[label])] += 1
    rows = [
        TableRow(
            (_bin_name(start), str(labels[start]), str(number[start]), format_percent(found[start] / number[start])), ""
        )
        for start in FREQUENCY_BINS
        if number[start]
    ]
    headings = ("Targets per label", "Labels", "Targets", "Recall")
    return Table("Recall by frequency of the label in the benchmark (%)", (ColumnGroup("", headings),), tuple(rows), "")


def _labels_found(outcome: ImageOutcome, similarity: LabelSimilarity) -> Iterator[str]:
    """Yield the labels of the targets that are found."""
    similarities = similarity.matrix(outcome.labels, outcome.true_labels)
    for label in set(outcome.true_labels):
        kept = [place for place, name in enumerate(outcome.true_labels) if name == label]
        ious = np.zeros_like(outcome.ious)
        ious[:, kept] = outcome.ious[:, kept]
        yield from [label] * count_found(ious, similarities)


def _bin_of(count: int) -> int:
    return max(start for start in FREQUENCY_BINS if start <= count)


def _bin_name(start: int) -> str:
    place = FREQUENCY_BINS.index(start)
    if place == len(FREQUENCY_BINS) - 1:
        return f"{start} or more"
    return f"{start} to {FREQUENCY_BINS[place + 1] - 1}"


def show_phrases(record: PhrasesRecord, true: Sequence[Sequence[TrueMask]] | None) -> Case:
    """Describe the page of an item: its images beside each other, one colour per label in all of them.

    Args:
        record: The item's outcome.
        true: The true masks of each image; None if the item is no longer available.
    """
    names = [label for image in record.images for label in (*image.true_labels, *image.labels)]
    labels = list(dict.fromkeys(names))
    colour_of = dict(zip(labels, part_colours(len(labels)), strict=True))
    pictures: list[CasePicture] = []
    if true is not None:
        for title, found in (
            ("true", [[(one.label, one.mask) for one in of_image] for of_image in true]),
            ("predicted", [[(one.label, one.mask) for one in image.found] for image in record.images]),
        ):
            for number, of_image in enumerate(found):
                name = f"{title}, image {number + 1}" if len(found) > 1 else title
                pictures.append(_picture(name, of_image, colour_of, number))
    chips = tuple(CaseLabel(label or "(no phrase)", colour_of[label], _label_iou(record, label)) for label in labels)
    texts = [CaseText("Question", record.prompt), CaseText("Correct", record.truth)]
    if record.reply is not None:
        texts.append(CaseText("Reply", record.reply or "(no text)"))
    return Case(record.subject, tuple(pictures), chips, tuple(texts))


def _picture(title: str, masks: Sequence[tuple[str, RLE]], colour_of: Mapping[str, Colour], number: int) -> CasePicture:
    note = "" if any(rle_area(mask) for _, mask in masks) else "no mask"
    colours = tuple(colour_of[label] for label, _ in masks)
    return CasePicture(title, tuple(mask for _, mask in masks), colours, note=note, image=number)


def _label_iou(record: PhrasesRecord, label: str) -> float | None:
    """Return the mean over the label's true masks of the best IoU of a prediction with the same label."""
    values = []
    for image in record.images:
        for place, name in enumerate(image.true_labels):
            if name == label:
                values.append(max((one.ious[place] for one in image.found if one.label == label), default=0.0))
    return sum(values) / len(values) if values else None
