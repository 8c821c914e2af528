"""ReasonSeg in its download layout: `reason_seg/ReasonSeg/{train,val,test}/NAME.{jpg,json}` and `explanatory/`.

A JSON file holds `text` (instructions), `is_sentence` and `shapes` (polygons of the target and of regions to ignore).
`explanatory/` holds the explanations of the training images.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from partonomy.benchmarks.segmentation import SegmentationItem, define_segmentation
from partonomy.files import RECORD_ERRORS, check_text, parse_json, reason_of, shorten
from partonomy.images import image_size
from partonomy.masks import check_mask_size, encode_mask

logger = logging.getLogger(__name__)

FOLDER = "reason_seg/ReasonSeg"
BACKGROUND, TARGET, IGNORED = 0, 1, 255
MAX_COORDINATE = 1_000_000


@dataclass(frozen=True)
class Shape:
    """A labelled outline; points float64 (N, 2) as x, y in pixels."""

    label: str
    points: np.ndarray


def read_reason_seg(
    dataset_dir: Path, split: str, texts: Literal["first", "all"] = "first", *, needs_images: bool = True
) -> tuple[SegmentationItem, ...]:
    """Read one split, sorted by file name.

    Args:
        dataset_dir: Root of the LISA-style layout.
        split: Folder below `FOLDER`.
        texts: "first": one item per image, as the benchmark is scored; "all": one per instruction (training images
            have several wordings).
        needs_images: Whether a JSON file without a readable image is an error. An evaluation passes False: the shapes
            are known without the image, so its item scores 0 and the target's pixels count.

    Raises:
        FileNotFoundError: There is no image, an image lacks its JSON file, or a JSON file the image that it needs.
        ValueError: A file is broken; the message names it.
    """
    folder = split_folder(dataset_dir, split)
    images = set(folder.glob("*.jpg"))
    if not images:
        raise FileNotFoundError(f"{folder} contains no *.jpg")
    paths = sorted(images | {path.with_suffix(".jpg") for path in folder.glob("*.json")})
    items: list[SegmentationItem] = []
    for path in tqdm(paths, desc=f"ReasonSeg {split}", unit="image", disable=None):
        items += _read_image(path, split, texts, needs_images)
    return tuple(items)


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

    Outlines are filled and stroked one pixel wide at integer coordinates (fractions are truncated). Labels with
    "ignore" give `IGNORED`, those with "flag" are not painted, and all others give `TARGET`. Among equal areas, the
    first in the file is painted last.

    Returns:
        uint8 (height, width) of `BACKGROUND`, `TARGET`, `IGNORED`.
    """
    kept = [shape for shape in shapes if shape.label.lower() != "flag"]
    areas = [int(_paint(np.zeros((height, width), np.uint8), shape, 1).sum()) for shape in kept]
    canvas = np.full((height, width), BACKGROUND, np.uint8)
    for position in sorted(range(len(kept)), key=lambda i: (-areas[i], -i)):
        _paint(canvas, kept[position], IGNORED if "ignore" in kept[position].label.lower() else TARGET)
    return canvas


def _paint(canvas: np.ndarray, shape: Shape, value: int) -> np.ndarray:
    points = [shape.points.astype(np.int32)]
    cv2.polylines(canvas, points, isClosed=True, color=value, thickness=1)
    cv2.fillPoly(canvas, points, color=value)
    return canvas


def _read_image(path: Path, split: str, texts: Literal["first", "all"], needs_image: bool) -> list[SegmentationItem]:
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
    except RECORD_ERRORS as error:
        raise ValueError(f"{record_path}: {reason_of(error)}") from error
    try:
        height, width = image_size(path)
    except (OSError, ValueError):
        if needs_image:
            raise
        height, width = _least_frame(shapes, record_path)
    regions = paint_shapes(shapes, height, width)
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
        )
        for number, text in enumerate(words[:1] if texts == "first" else words)
    ]


def _least_frame(shapes: Sequence[Shape], record_path: Path) -> tuple[int, int]:
    """Return the height and width of the smallest image that contains the shapes; the record itself states no size.

    Shapes that leave the real image have more pixels in this frame.

    Raises:
        ValueError: The frame is larger than any image may be; the message names the record.
    """
    corners = [shape.points.astype(np.int64).max(axis=0) for shape in shapes]
    width, height = (int(end) + 1 for end in np.max([*corners, np.zeros(2, dtype=np.int64)], axis=0))
    check_mask_size(height, width, f"{record_path}: the frame of the shapes")
    return height, width


def _read_shape(record: Mapping[str, Any], number: int) -> Shape:
    points = np.asarray(record["points"], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not points.size or not np.isfinite(points).all():
        raise ValueError(f"shape {number}: 'points' must be a non-empty list of [x, y]")
    if np.abs(points).max() > MAX_COORDINATE:
        raise ValueError(f"shape {number}: the coordinate {np.abs(points).max():.0f} is far outside any image")
    return Shape(check_text(record["label"], f"the label of shape {number}"), points)


def _parse(path: Path) -> Any:
    """Parse JSON in UTF-8 or in the Windows code page that some of the files were saved in."""
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        content = content.decode("cp1252", errors="replace").encode("utf-8")
    return parse_json(content, f"{path}: not valid JSON")


BENCHMARK = define_segmentation(
    "reasonseg",
    "Reasoning segmentation",
    "val, test",
    lambda source: read_reason_seg(source.root, str(source.split), needs_images=False),
    quoted_by="giou",
)
