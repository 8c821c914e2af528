"""ReasonSeg in its download layout: `reason_seg/ReasonSeg/{train,val,test}/NAME.{jpg,json}` and `explanatory/`.

A JSON file holds `text` (instructions), `is_sentence` and `shapes` (labelme's polygons, rectangles
and circles of the target and of regions to ignore).
`explanatory/` holds the explanations of the training images.

The paper does not say how PLUM answers an instruction that does not name its target. The authors' code answers with a
label that a chat model wrote for it beforehand (`SPLIT/SPLIT_reformulated_responses.json`, not published) or, for a
training image without an explanation, with the instruction itself; the whole answer is the phrase to segment, in
training and in evaluation. `TargetNames.AUTHORS` follows that; see `name_target`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from partonomy.benchmarks.segmentation import (
    END_MARKS,
    SegmentationItem,
    SegmentationMode,
    SegmentationOptions,
    SegmentationTask,
)
from partonomy.benchmarks.task import Source, define_benchmark
from partonomy.datasets.sources.annotation_tools.regions import labelme_mask
from partonomy.files import RECORD_ERRORS, check_text, parse_json, reason_of, shorten
from partonomy.images import image_size
from partonomy.masks import check_mask_size, encode_mask

logger = logging.getLogger(__name__)

FOLDER = "reason_seg/ReasonSeg"
BACKGROUND, TARGET, IGNORED = 0, 1, 255
MAX_COORDINATE = 1_000_000
FLAG = "flag"
UNNAMED = ("target", FLAG)
"""Labels of shapes that name nothing, besides those with "ignore"."""


class TargetNames(StrEnum):
    """The name of an instruction's target in a given answer.

    `authors`: see `name_target`. `the_target`: this project's former answers, "It is the target." for a sentence and
    "It is the red cup." for an expression.
    """

    AUTHORS = "authors"
    THE_TARGET = "the_target"


POLYGON = "polygon"
NUM_POINTS = {"rectangle": 2, "circle": 2, "oriented_rectangle": 4}
"""The points of labelme's other shapes: two corners; the centre and a point of the rim; four corners."""


@dataclass(frozen=True)
class Shape:
    """A labelled shape of labelme.

    Attributes:
        label: its label.
        points: float64 (N, 2) as x, y in pixels.
        kind: a polygon, or a key of `NUM_POINTS`.
    """

    label: str
    points: np.ndarray
    kind: str = POLYGON

    def extent(self) -> np.ndarray:
        """Return the largest x and y that the shape reaches, float64 (2,)."""
        if self.kind == "circle":
            return self.points[0] + np.hypot(*(self.points[1] - self.points[0]))
        return self.points.max(axis=0)


def read_reason_seg(
    dataset_dir: Path,
    split: str,
    texts: Literal["first", "all"] = "first",
    names: TargetNames = TargetNames.AUTHORS,
    *,
    needs_images: bool = True,
) -> tuple[SegmentationItem, ...]:
    """Read one split, sorted by file name.

    Args:
        dataset_dir: Root of the LISA-style layout.
        split: Folder below `FOLDER`.
        texts: "first": one item per image, as the benchmark is scored; "all": one per instruction (training images
            have several wordings).
        names: How answers name targets.
        needs_images: Whether a JSON file without a readable image is an error. An evaluation passes False: the shapes
            are known without the image, so its item scores 0 and the target's pixels count.

    Raises:
        FileNotFoundError: There is no image, an image lacks its JSON file, or a JSON file the image that it needs.
        ValueError: A file is broken; the message names it.
    """
    folder = split_folder(dataset_dir, split)
    images = set(folder.glob("*.jpg"))
    if not images:
        raise FileNotFoundError(f"{folder} contains no *.jpg; finish the download, or choose another split")
    records = set(folder.glob("*.json")) - {labels_file(dataset_dir, split)}
    paths = sorted(images | {path.with_suffix(".jpg") for path in records})
    items: list[SegmentationItem] = []
    labels = read_labels(dataset_dir, split) if names is TargetNames.AUTHORS else {}
    for path in tqdm(paths, desc=f"ReasonSeg {split}", unit="image", disable=None):
        items += _read_image(path, split, texts, names, labels.get(path.stem, ()), needs_image=needs_images)
    return tuple(items)


def read_labels(dataset_dir: Path, split: str) -> dict[str, tuple[str, ...]]:
    """Map the stems of a split's images to labels of their targets, one per instruction or one for all.

    The file is a JSON object of lists, as the authors' code reads it (at the label's place of the instruction; they
    draw at random in evaluation). Empty without the file.

    Raises:
        ValueError: The file or an entry is broken; the message names both.
    """
    path = labels_file(dataset_dir, split)
    if not path.is_file():
        return {}
    content = _parse(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object of lists of labels by image, got {shorten(content)}")
    labels = {}
    for stem, entries in content.items():
        try:
            if not isinstance(entries, list) or not entries:
                raise ValueError(f"expected a list of labels, got {shorten(entries)}")
            labels[stem] = tuple(_tidy(check_text(entry, "a label")) for entry in entries)
            if not all(labels[stem]):
                raise ValueError("a label has no words")
        except RECORD_ERRORS as error:
            raise ValueError(f"{path}, image {stem!r}: {reason_of(error)}") from error
    return labels


def labels_file(dataset_dir: Path, split: str) -> Path:
    """Return the file of labels that the authors' code reads."""
    return split_folder(dataset_dir, split) / f"{split}_reformulated_responses.json"


def name_target(text: str, shape_labels: Sequence[str], labels: Sequence[str], number: int, is_sentence: bool) -> str:
    """Return the name of an instruction's target: the first of these that there is.

    1. The label that the split's file of labels has for it.
    2. The names of its shapes, if they are more than "target" (ReasonSeg's own shapes have no other label).
    3. The instruction's own words, without the stop or question mark.

    Args:
        text: The instruction.
        shape_labels: Labels of all shapes of the image.
        labels: Labels of the image, one per instruction or one for all; empty for none.
        number: The instruction's place among those of the image.
        is_sentence: Whether it is a whole instruction rather than an expression, which is lower-cased.

    Raises:
        ValueError: There are several labels, but fewer than instructions.
    """
    if labels:
        if len(labels) > 1 and number >= len(labels):
            raise ValueError(f"there are {len(labels)} labels; give one for each instruction, or one for all")
        return labels[number if len(labels) > 1 else 0]
    named = [label.strip() for label in shape_labels]
    named = [label for label in named if label and label.lower() not in UNNAMED and "ignore" not in label.lower()]
    if named:
        return " and ".join(dict.fromkeys(named))
    return _tidy(text) if is_sentence else _tidy(text).lower()


def _tidy(text: str) -> str:
    words = " ".join(text.split())
    return words.rstrip(END_MARKS) or words


def split_folder(dataset_dir: Path, split: str) -> Path:
    """Return the folder of a split."""
    return dataset_dir / FOLDER / split


def read_explanations(dataset_dir: Path) -> dict[str, str]:
    """Map the file names of the training images to explanations of their targets; empty if there is no file.

    Raises:
        ValueError: A file or a record is broken; the message names both.
    """
    path = dataset_dir / FOLDER / "explanatory" / "train.json"
    if not path.is_file():
        logger.info("%s does not exist; ReasonSeg is read without explanations", path)
        return {}
    content = _parse(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of records, got {shorten(content)}")
    explanations = {}
    for number, record in enumerate(content):
        try:
            words = " ".join(check_text(record["outputs"], "'outputs'").split())
            explanations[check_text(record["image"], "'image'")] = words
        except RECORD_ERRORS as error:
            raise ValueError(f"{path}, record {number}: {reason_of(error)}") from error
    return explanations


def paint_shapes(shapes: Sequence[Shape], height: int, width: int) -> np.ndarray:
    """Paint outlines, large ones first, so that small ones stay visible on top.

    Outlines are filled and stroked one pixel wide at integer coordinates (fractions are truncated); rectangles and
    circles are drawn as labelme draws them. Labels with
    "ignore" give `IGNORED`, those with "flag" are not painted, and all others give `TARGET`. Among equal areas, the
    first in the file is painted last.

    Args:
        shapes: The outlines, in pixels of the image.
        height: Height of the image, pixels.
        width: Width of the image, pixels.

    Returns:
        uint8 (height, width) of `BACKGROUND`, `TARGET`, `IGNORED`.
    """
    kept = [shape for shape in shapes if shape.label.lower() != FLAG]
    areas = [int(_paint(np.zeros((height, width), np.uint8), shape, 1).sum()) for shape in kept]
    canvas = np.full((height, width), BACKGROUND, np.uint8)
    for position in sorted(range(len(kept)), key=lambda i: (-areas[i], -i)):
        _paint(canvas, kept[position], IGNORED if "ignore" in kept[position].label.lower() else TARGET)
    return canvas


def _paint(canvas: np.ndarray, shape: Shape, value: int) -> np.ndarray:
    if shape.kind != POLYGON:
        canvas[labelme_mask(shape.kind, [(x, y) for x, y in shape.points.tolist()], *canvas.shape)] = value
        return canvas
    points = [shape.points.astype(np.int32)]
    cv2.polylines(canvas, points, isClosed=True, color=value, thickness=1)
    cv2.fillPoly(canvas, points, color=value)
    return canvas


def _read_image(
    path: Path,
    split: str,
    texts: Literal["first", "all"],
    names: TargetNames,
    labels: Sequence[str],
    *,
    needs_image: bool,
) -> list[SegmentationItem]:
    record_path = path.with_suffix(".json")
    if not record_path.is_file():
        raise FileNotFoundError(f"{record_path}: not found; every image of ReasonSeg needs a JSON file next to it")
    record = _parse(record_path)
    try:
        words = [check_text(text, "'text'").strip() for text in record["text"]]
        shapes = [_read_shape(shape, number) for number, shape in enumerate(record["shapes"])]
        is_sentence = bool(record["is_sentence"])
        if not words or not all(words) or isinstance(record["text"], str):
            raise ValueError("'text' must be a non-empty list of non-empty strings")
        asked = words[:1] if texts == "first" else words
        target_names = [""] * len(asked)
        if names is TargetNames.AUTHORS:
            of_shapes = [shape.label for shape in shapes]
            target_names = [name_target(t, of_shapes, labels, i, is_sentence) for i, t in enumerate(asked)]
    except RECORD_ERRORS as error:
        raise ValueError(f"{record_path}: {reason_of(error)}") from error
    try:
        height, width = image_size(path)
    except (OSError, ValueError):
        if needs_image:
            raise
        height, width = _least_frame(shapes, record_path)
    try:
        regions = paint_shapes(shapes, height, width)
    except ValueError as error:
        raise ValueError(f"{record_path}: {error}") from error
    ignored = regions == IGNORED
    mask = encode_mask(regions == TARGET)
    ignore_mask = encode_mask(ignored) if ignored.any() else None
    return [
        SegmentationItem(
            item_id=f"reason_seg/{split}/{path.stem}/{number}",
            image_id=f"reason_seg/{split}/{path.stem}",
            image_path=path,
            height=height,
            width=width,
            text=text,
            is_sentence=is_sentence,
            mask=mask,
            ignore_mask=ignore_mask,
            target_name=target_name,
        )
        for number, (text, target_name) in enumerate(zip(asked, target_names, strict=True))
    ]


def _least_frame(shapes: Sequence[Shape], record_path: Path) -> tuple[int, int]:
    """Return the height and width of the smallest image that contains the shapes; the record itself states no size.

    Shapes that leave the real image have more pixels in this frame.

    Raises:
        ValueError: The frame is larger than any image may be; the message names the record.
    """
    corners = [shape.extent().astype(np.int64) for shape in shapes]
    width, height = (int(end) + 1 for end in np.max([*corners, np.zeros(2, dtype=np.int64)], axis=0))
    check_mask_size(height, width, f"{record_path}: the frame of the shapes")
    return height, width


def _read_shape(record: Mapping[str, Any], number: int) -> Shape:
    points = np.asarray(record["points"], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not points.size or not np.isfinite(points).all():
        raise ValueError(f"shape {number}: 'points' must be a non-empty list of [x, y]")
    if np.abs(points).max() > MAX_COORDINATE:
        raise ValueError(f"shape {number}: the coordinate {np.abs(points).max():.0f} is far outside any image")
    label = check_text(record["label"], f"the label of shape {number}")
    kind = record.get("shape_type") or POLYGON
    if label.lower() == FLAG:  # it is not painted, so it may be of any type
        kind = POLYGON
    if kind != POLYGON and kind not in NUM_POINTS:
        raise ValueError(
            f"shape {number} has the 'shape_type' {shorten(kind)}; draw it as a polygon, a rectangle or a circle"
        )
    if kind in NUM_POINTS and len(points) != NUM_POINTS[kind]:
        raise ValueError(f"shape {number}: a {kind} has {NUM_POINTS[kind]} points, got {len(points)}")
    return Shape(label, points, kind)


def _parse(path: Path) -> Any:
    """Parse JSON in UTF-8 or in the Windows code page that some of the files were saved in."""
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        content = content.decode("cp1252", errors="replace").encode("utf-8")
    return parse_json(content, f"{path}: not valid JSON")


@dataclass(frozen=True)
class ReasonSegOptions(SegmentationOptions):
    """How instructions are asked.

    Attributes:
        mode: forced segments the phrase of a given answer; generated unites all masks of the model's own answer.
        wording: the question in the words that PLUM is trained on (plum), or in those of LISA's validation (lisa).
        answers: the given answer is the target's name, where the data have one, else the instruction's own words
            (authors), or "It is the target." (the_target); as the model was trained (data.sources.answers).
    """

    answers: TargetNames = TargetNames.AUTHORS


@dataclass(frozen=True)
class ReasonSegTask(SegmentationTask):
    """ReasonSeg; see the module."""

    options: ReasonSegOptions
    quoted_by: str = "giou"

    @property
    def protocol(self) -> str:
        """The mode and the wording, and whether given answers name the target."""
        is_named = self.options.mode is SegmentationMode.FORCED and self.options.answers is TargetNames.AUTHORS
        return f"{super().protocol}, target named" if is_named else super().protocol


def _read_items(source: Source, options: ReasonSegOptions) -> Sequence[SegmentationItem]:
    return read_reason_seg(source.root, str(source.split), names=options.answers, needs_images=False)


BENCHMARK = define_benchmark(
    "reasonseg",
    "Reasoning segmentation",
    "val, test",
    options=ReasonSegOptions,
    read_items=_read_items,
    make_task=ReasonSegTask,
    earlier_options={"answers": TargetNames.THE_TARGET},
)
