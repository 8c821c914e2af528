"""RefCOCOm as M2SA's code reads it: `refer_seg/RefCOCOm/{annotations/SPLIT.json, masks/SEGMENT.png}`.

An annotation file is a list of `img_name`, `segment_id` and `sentences`. Choose the file to ask for parts alone or for
objects and parts. The photographs are RefCOCO's. In a mask, only the value 255 counts.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partonomy.benchmarks.refcoco import COCO_FOLDER, check_files_exist, read_identifier
from partonomy.benchmarks.segmentation import SegmentationItem, define_segmentation
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, iterate_records, reason_of, shorten
from partonomy.images import image_size, load_image
from partonomy.masks import encode_mask

logger = logging.getLogger(__name__)

FOLDERS = ("refer_seg/RefCOCOm", "refer_seg/Refcocom")
"""Names of the folder: M2SA's README has the first spelling, and its code looks for masks in the second."""
TARGET_VALUE = 255


def read_refcocom(
    root: Path, split: str, annotations: Path | None = None, *, needs_images: bool = True
) -> tuple[SegmentationItem, ...]:
    """Read one file, one item per sentence in file order; empty sentences are left out and counted.

    Args:
        root: Folder of the downloads.
        split: Name of the annotation file without its ending.
        annotations: Path of another file in that format.
        needs_images: See `read_referring`.

    Raises:
        FileNotFoundError: A file or images are missing.
        ValueError: A file or a record is broken; the message names both.
    """
    path = annotations or _find_annotations(root, split)
    items: list[SegmentationItem] = []
    num_empty = 0
    for number, record in enumerate(iterate_records(path)):
        try:
            texts = [_read_sentence(sentence) for sentence in record["sentences"]]
            made = _read_record(root, record, f"refcocom/{number}", [text for text in texts if text])
        except RECORD_ERRORS as error:
            shown = shorten(record.get("segment_id") if isinstance(record, Mapping) else record)
            raise ValueError(f"{path}, record {number} (segment {shown}): {reason_of(error)}") from error
        num_empty += texts.count("")
        items += made
    if not items:
        raise ValueError(f"{path}: the file contains no sentences; download it again")
    if num_empty:
        logger.warning("%s: %d sentences have no words and are left out", path, num_empty)
    if needs_images:
        check_files_exist(sorted({item.image_path for item in items}), f"refcocom {split}")
    return tuple(items)


def _find_annotations(root: Path, split: str) -> Path:
    folders = [root / folder / "annotations" for folder in FOLDERS]
    paths = [folder / f"{check_relative_path(split, 'the split')}.json" for folder in folders]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        there = sorted(path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.json"))
        raise FileNotFoundError(
            f"{paths[0]}: not found; {'choose --split from ' + ', '.join(there) if there else 'download RefCOCOm'}"
        )
    return found


def _read_sentence(sentence: Any) -> str:
    text = sentence["sent"]
    return "" if text == "" else " ".join(check_text(text, "'sent'").split()).lower()


def _read_record(root: Path, record: Any, name: str, texts: list[str]) -> list[SegmentationItem]:
    image_name = check_relative_path(record["img_name"], "'img_name'")
    mask_name = check_relative_path(f"{read_identifier(record, 'segment_id')}.png", "'segment_id'")
    paths = [root / folder / "masks" / mask_name for folder in FOLDERS]
    target = _read_mask(next((path for path in paths if path.is_file()), paths[0]))
    mask = encode_mask(target)
    height, width = target.shape
    return [
        SegmentationItem(
            item_id=f"{name}/{place}",
            image_id=image_name,
            image_path=root / COCO_FOLDER / image_name,
            height=height,
            width=width,
            text=text,
            is_sentence=False,
            mask=mask,
        )
        for place, text in enumerate(texts)
    ]


def _read_mask(path: Path) -> np.ndarray:
    """Return the pixels of value 255, bool (H, W), as M2SA's code counts them."""
    values = load_image(path, *image_size(path))
    target: np.ndarray = (values == TARGET_VALUE).all(axis=2)
    if values.any() and not target.any():
        raise ValueError(
            f"{path}: no pixel has the value {TARGET_VALUE}, which marks the target; the largest is {values.max()}"
        )
    return target


BENCHMARK = define_segmentation(
    "refcocom",
    "Referring segmentation of parts and objects",
    "name of an annotation file",
    lambda source: read_refcocom(source.root, str(source.split), source.annotations, needs_images=False),
    quoted_by="giou",
    takes_annotations=True,
)
