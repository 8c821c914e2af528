"""The valid files that are damaged: small, with the quirks of real ones, and with non-ASCII names."""

import io
import json
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from partonomy.datasets.record_exchange import export_records, import_records
from partonomy.masks import encode_mask, rle_to_json
from partonomy.structures import QuestionType
from tests.partonomy.conftest import make_record

HEIGHT, WIDTH = 24, 32
IMAGE_NAME = "Träger 漢.png"
OWN_FILES = ("dataset.json", "annotations.json", "questions.jsonl", "build.json")


def box_mask(left: int, top: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def valid_segmentations() -> list[object]:
    """The same rectangle in every form that a segmentation can have."""
    mask = box_mask(4, 3, 6, 5)
    changes = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False, append=False))
    runs = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    polygon = [4, 3, 10, 3, 10, 8, 4.0, 8.0]
    return [
        rle_to_json(encode_mask(mask)),
        {"size": [HEIGHT, WIDTH], "counts": runs},
        [polygon],
        polygon,
        {"size": [HEIGHT, WIDTH], "polygon": polygon},
        {"segmentation": {"size": [HEIGHT, WIDTH], "polygon": polygon}},
        [polygon, [20, 2, 26, 2, 26, 9]],
    ]


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / IMAGE_NAME)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels.swapaxes(0, 1).copy()).save(folder / "b.jpg", exif=exif)


def coco_document() -> dict[str, Any]:
    """Linked and unlinked parts, all forms of masks, a crowd, a box alone, background, an unused category."""
    forms = valid_segmentations()
    categories = [
        {"id": 1, "name": "_background_"},
        {"id": 2, "name": "car", "supercategory": "OBJECT"},
        {"id": 3, "name": "car:wheel", "supercategory": "PART"},
        {"id": 4, "name": "car:side_door", "supercategory": "PART"},
        {"id": 5, "name": "dog:leg", "supercategory": "PART"},
    ]
    whole = [[1, 1, 30, 1, 30, 20, 1, 20]]
    annotations: list[dict[str, Any]] = [
        {"id": 10, "image_id": 1, "category_id": 2, "segmentation": whole, "bbox": [1, 1, 29, 19]},
        {"id": 11, "image_id": 1, "category_id": 3, "segmentation": forms[0], "obj_ann_id": 10, "iscrowd": False},
        {"id": 12, "image_id": 1, "category_id": 3, "segmentation": forms[1], "obj_ann_id": 10, "area": 30},
        {"id": 13, "image_id": 1, "category_id": 4, "segmentation": forms[6]},
        {"id": 20, "image_id": 2, "category_id": 2, "segmentation": [], "bbox": [0.4, 0.6, 31.0, 20.2], "iscrowd": 0},
        {"id": 21, "image_id": 2, "category_id": 3, "segmentation": forms[4]},
        {"id": 22, "image_id": 2, "category_id": 2, "segmentation": forms[2], "iscrowd": 1},
    ]  # fmt: skip
    images = [
        {"id": 1, "file_name": IMAGE_NAME, "height": HEIGHT, "width": WIDTH, "license": 3},
        {"id": 2, "file_name": "b.jpg"},
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def record_document() -> list[dict[str, Any]]:
    """Records of all kinds; one of them names a part by another word than its mask."""
    types = (QuestionType.IDENTIFICATION, QuestionType.POSITIVE_WITH_LABEL, QuestionType.PART_TO_WHOLE)
    records = [make_record(IMAGE_NAME, number, question_type) for number, question_type in enumerate(types)]
    renamed = json.loads(json.dumps(records[1]))
    correct = renamed["answer_types"].index("correct")
    renamed["answer_choices"][correct] = "It has in common with a ship: tyre, and sail."  # of wheel, wing
    records.append(renamed)
    return records


def write_own_form(folder: Path) -> None:
    """A data set folder and, beside its images, its export as a record file with annotations."""
    write_images(folder / "images")
    record_file = folder / "images" / "published.json"
    record_file.write_text(json.dumps(record_document()))
    import_records(record_file, folder / "set")
    build = folder / "set" / "build.json"  # without the hashes, which would refuse every damaged file unread
    build.write_text(json.dumps({key: value for key, value in json.loads(build.read_text()).items() if key != "files"}))
    export_records(folder / "set", record_file)


@cache
def image_contents() -> dict[str, bytes]:
    """Files of the kinds of pixels and containers that cameras and tools write, by name."""
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures: dict[str, Image.Image] = {
        "rgb.png": colour,
        "palette.png": colour.convert("P"),
        "bits.png": colour.convert("1"),
        "alpha.png": colour.convert("LA"),
        "deep.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "float.tiff": Image.fromarray(pixels[..., 0].astype(np.float32)),
        "photo.jpg": colour,
        "ink.jpg": colour.convert("CMYK"),
        "grey.jpg": grey,
        "lossy.webp": colour,
        "plain.bmp": colour,
    }
    contents = {}
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, format=Image.registered_extensions()[Path(name).suffix])
        contents[name] = buffer.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(pixels.swapaxes(0, 1).copy()).save(buffer, format="JPEG", exif=exif)
    contents["turned.jpg"] = buffer.getvalue()
    for name, container in (("moving.gif", "GIF"), ("moving.webp", "WEBP")):
        buffer = io.BytesIO()
        colour.save(buffer, format=container, save_all=True, append_images=[grey.convert("RGB")])
        contents[name] = buffer.getvalue()
    return contents


def claim_size(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header claims another size, with a right checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
