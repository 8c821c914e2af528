"""All items of a run for the report's browser: texts, outlines of masks, and pictures, in the page or in a folder."""

import base64
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from markupsafe import Markup

from partonomy.benchmarks.cases import Case, CasePicture
from partonomy.benchmarks.task import Item, Picture, Record, pictures_of
from partonomy.masks import RLE, decode_mask, rle_area
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.report_cases import CaseItems, css_colour, mark_spans
from partonomy.visualize import encode_base64, resize

MAX_EMBEDDED = 3_000
"""Runs with more items write their browser into a folder beside the report."""
MAX_PICTURES = 300
"""Default number of images whose pictures and masks the browser shows."""
PAGE_SIZE = 250
"""Items in one file of the folder."""
SIDE = 512
"""Longer side of a picture and of the frame of its outlines, pixels."""
TOLERANCE = 1.0
"""Greatest distance of an outline from the mask's border, in pixels of the frame."""
MAX_SEARCHED = 400
"""Characters of an item's texts that the search of a run in a folder covers."""
RIGHT, WRONG, FAILED, UNJUDGED = "right", "wrong", "failed", ""
INDEX_FILE = "index.js"


@dataclass(frozen=True)
class Browser:
    """The browser's data for the template.

    Attributes:
        content: JSON for the page, safe inside a script element.
        num_items: Number of items, all of which can be browsed.
        num_images: Number of images of the run.
        num_pictures: Number of images that are drawn.
        folder: Name of the folder beside the report; empty if everything is in the page.
        max_searched: Characters of an item's texts that the search covers if there is a folder.
    """

    content: Markup
    num_items: int
    num_images: int
    num_pictures: int
    folder: str
    max_searched: int = MAX_SEARCHED


@dataclass
class _Pictures:
    """Encodes each picture once and gives it a number.

    Attributes:
        wanted: Ids of the images that are drawn.
        folder: Where the files are written; None keeps them in `embedded`.
    """

    wanted: frozenset[int | str]
    folder: Path | None
    embedded: list[str] = field(default_factory=list)
    _numbers: dict[tuple[str, int | None, int | None], tuple[int, int, int] | None] = field(default_factory=dict)

    def number(self, picture: Picture) -> tuple[int, int, int] | None:
        """Return a picture's number and its original height and width; None if the image is unreadable."""
        key = (str(picture.path), picture.height, picture.width)
        if key not in self._numbers:
            self._numbers[key] = self._encode(picture)
        return self._numbers[key]

    def _encode(self, picture: Picture) -> tuple[int, int, int] | None:
        try:
            image = picture.load()
        except (OSError, ValueError):
            return None  # the record's own reason already names the unreadable image
        height, width = image.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        if scale < 1:
            image, _ = resize(image, np.zeros((0, height, width), dtype=bool), scale)
        encoded = encode_base64(image, "JPEG")
        number = sum(one is not None for one in self._numbers.values())
        if self.folder is None:
            self.embedded.append(encoded)
        else:
            (self.folder / f"{number}.jpg").write_bytes(base64.b64decode(encoded))
        return number, height, width


def make_browser(run: AnyRun, items: CaseItems, output: Path, max_pictures: int = MAX_PICTURES) -> Browser:
    """Prepare every item of a run for the browser; a large run is streamed into a folder beside the report.

    Args:
        run: The run.
        items: Its items by id; empty if they can no longer be read.
        output: The report's file, which names the folder.
        max_pictures: Number of images to draw; the others are shown without pictures.
    """
    image_ids = dict.fromkeys(record.image_id for record in run.records)
    wanted = _choose_images(image_ids, max_pictures) if items.by_id else frozenset()
    counts = (len(run.records), len(image_ids), len(wanted))
    if len(run.records) <= MAX_EMBEDDED:
        pictures = _Pictures(wanted, None)
        entries = list(_entries(run, items.by_id, pictures))
        outlines = _share_outlines(entries)
        content = {**_settings(""), "entries": entries, "outlines": outlines, "pictures": pictures.embedded}
        return Browser(_script(content), *counts, "")
    folder = output.with_name(f"{output.stem}_cases")
    _write_folder(run, items.by_id, wanted, folder)
    return Browser(_script(_settings(folder.name)), *counts, folder.name)


def outline(mask: RLE) -> str:
    """Return a mask's border as an SVG path in the frame of the picture; empty for an empty mask.

    Args:
        mask: A mask of H x W pixels; the longer side becomes `SIDE`.
    """
    decoded = decode_mask(mask)
    scale = SIDE / max(decoded.shape)
    contours, _ = cv2.findContours(decoded.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    pieces = []
    for contour in contours:
        points = (contour.astype(np.float32) + 0.5) * scale
        points = cv2.approxPolyDP(points, TOLERANCE, closed=True).reshape(-1, 2).round().astype(int)
        # A single point has no line to stroke; one step of a pixel makes it visible.
        steps = np.diff(points, axis=0) if len(points) > 1 else np.array([[1, 0]])
        pieces.append(f"M{points[0, 0]} {points[0, 1]}l" + " ".join(f"{x} {y}" for x, y in steps) + "Z")
    return "".join(pieces)


def verdict_of(record: Record) -> str:
    """Return whether every choice of an item is right; empty if the item has none."""
    if not record.is_scored:
        return FAILED
    verdicts = record.verdicts()
    if not verdicts:
        return UNJUDGED
    return RIGHT if all(verdict.credit == 1 for verdict in verdicts) else WRONG


def _choose_images(image_ids: Iterable[int | str], count: int) -> frozenset[int | str]:
    """Draw images by the hash of their ids, so that two runs on the same data show the same ones."""
    ordered = sorted(image_ids, key=lambda one: hashlib.sha256(str(one).encode()).digest())
    return frozenset(ordered[:count])


def _settings(folder: str) -> dict[str, Any]:
    return {"folder": folder, "pageSize": PAGE_SIZE, "side": SIDE, "type": "image/jpeg"}


def _entries(run: AnyRun, items: Mapping[str, Item], pictures: _Pictures) -> Iterator[dict[str, Any]]:
    for record in run.records:
        yield _entry(run, record, items.get(record.item_id) if record.image_id in pictures.wanted else None, pictures)


def _entry(run: AnyRun, record: Record, item: Item | None, pictures: _Pictures) -> dict[str, Any]:
    """Return an item with the fields of the index (the first nine) and its details."""
    case: Case = run.task.show(record, item)
    panels = [] if item is None else _panels(case, pictures_of(item), pictures)
    return {
        "id": record.item_id,
        "group": record.group,
        "title": case.title,
        "quality": None if record.quality is None else round(record.quality, 4),
        "verdict": verdict_of(record),
        "parts": list(dict.fromkeys(label.name for label in case.labels)),
        "image": record.image_id,
        "text": " ".join([*(text.text for text in case.texts), record.reason]),
        "drawn": bool(panels),
        "reason": record.reason,
        "panels": panels,
        "labels": [[one.name, css_colour(one.colour), one.iou] for one in case.labels],
        "texts": [[one.heading, mark_spans(one.text, one.spans, one.colours)] for one in case.texts],
        "choices": [
            [
                question.heading,
                [[one.text, one.is_correct, one.is_chosen, one.log_prob, one.is_tied] for one in question.choices],
            ]
            for question in case.choices
        ],
    }


def _panels(case: Case, places: tuple[Picture, ...], pictures: _Pictures) -> list[dict[str, Any]]:
    panels = []
    for picture in case.pictures:
        place = places[picture.image]
        found = pictures.number(place)
        if found is not None:
            panels.append(_panel(picture, place, *found))
    return panels


def _panel(picture: CasePicture, place: Picture, number: int, height: int, width: int) -> dict[str, Any]:
    scale = SIDE / max(height, width)
    box = place.box if picture.has_box else None
    return {
        "title": picture.title,
        "note": picture.note,
        "picture": number,
        "size": [round(width * scale), round(height * scale)],
        "box": None if box is None else [round(value * scale) for value in box],
        # Large masks first, so that small parts stay on top and can be pointed at.
        "masks": [
            [outline(mask), css_colour(colour)]
            for mask, colour in sorted(
                zip(picture.masks, picture.colours, strict=True), key=lambda pair: -rle_area(pair[0])
            )
        ],
    }


def _write_folder(run: AnyRun, items: Mapping[str, Item], wanted: frozenset[int | str], folder: Path) -> None:
    """Write the index, the pages of items and the pictures; one page is held at a time.

    Raises:
        FileExistsError: The folder exists and is not a report's.
    """
    if folder.exists() and not (folder / INDEX_FILE).is_file():
        raise FileExistsError(f"{folder}: exists and is not the folder of a report; move it or choose another --output")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pictures = _Pictures(wanted, partial)
    page: list[dict[str, Any]] = []
    number = 0
    with (partial / INDEX_FILE).open("w", encoding="ascii") as index:
        index.write("reportIndex([\n")
        for entry in _entries(run, items, pictures):
            _write_index_entry(index, entry)
            page.append(entry)
            if len(page) == PAGE_SIZE:
                _write_page(partial, number, page)
                page, number = [], number + 1
        index.write("]);\n")
    if page:
        _write_page(partial, number, page)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def _write_index_entry(index: TextIO, entry: dict[str, Any]) -> None:
    index.write(json.dumps({**dict(list(entry.items())[:9]), "text": entry["text"][:MAX_SEARCHED]}) + ",\n")
    del entry["text"]


def _write_page(folder: Path, number: int, page: list[dict[str, Any]]) -> None:
    outlines = _share_outlines(page)
    content = f"reportPage({number},{json.dumps(page)},{json.dumps(outlines)});\n"
    (folder / f"{number}.js").write_text(content, encoding="ascii")


def _share_outlines(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Replace outlines by their places in the returned list: the items of an image repeat its true masks."""
    places: dict[str, int] = {}
    for entry in entries:
        for panel in entry["panels"]:
            panel["masks"] = [[places.setdefault(path, len(places)), colour] for path, colour in panel["masks"]]
    return list(places)


def _script(content: Mapping[str, Any]) -> Markup:
    """Return JSON that cannot end the script element around it."""
    return Markup(json.dumps(content).replace("<", "\\u003c"))  # noqa: S704
