"""Chooses the cases of a report, and prepares their pictures and texts for the page."""

import html
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from partonomy.benchmarks.cases import Case, CaseChoices, CaseLabel, CasePicture
from partonomy.benchmarks.task import Item, Picture, Record, pictures_of
from partonomy.images import draw_box
from partonomy.masks import decode_mask
from partonomy.reporting.loaded_run import AnyRun, DataChangedError
from partonomy.structures import CharSpan
from partonomy.visualize import Colour, colour_parts, encode_base64, resize

PANEL_SIDE = 300
"""Length of the longer side of a case's pictures, pixels."""
RANDOM, BEST, WORST = "Random cases", "Best cases", "Worst cases"


@dataclass(frozen=True)
class Panel:
    """One picture: its caption, a JPEG in base64, and what the caption adds; see `CasePicture`."""

    title: str
    data: str
    note: str = ""


@dataclass(frozen=True)
class MarkedText:
    """A text under its heading; `content` is escaped HTML with the spans marked."""

    heading: str
    content: str


@dataclass(frozen=True)
class DrawnCase:
    """One item in the form that the report shows."""

    item_id: str
    group: str
    title: str
    quality: float | None
    status: str
    reason: str
    panels: tuple[Panel, ...]
    labels: tuple[CaseLabel, ...]
    texts: tuple[MarkedText, ...]
    choices: tuple[CaseChoices, ...]


@dataclass(frozen=True)
class CaseItems:
    """The run's items by id, or the reason why they can no longer be read."""

    by_id: Mapping[str, Item]
    problem: str


class _Ranked:
    """The places of the records that come first by a key, one per image; only so many are held at a time.

    Args:
        count: The number of records.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._of_image: dict[int | str, tuple[Any, int]] = {}

    def add(self, key: Any, image_id: int | str, place: int) -> None:
        """Offer a record; smaller keys come first.

        Whatever is dropped comes after the records of `count` other images, and would do so at the end, too.
        """
        held = self._of_image.get(image_id)
        if held is None or key < held[0]:
            self._of_image[image_id] = (key, place)
            if len(self._of_image) > self._count:
                del self._of_image[max(self._of_image, key=lambda one: self._of_image[one][0])]

    @property
    def places(self) -> tuple[int, ...]:
        """The places, best first."""
        return tuple(place for _, place in sorted(self._of_image.values(), key=lambda pair: pair[0]))


class _Reversed(str):
    """An id that sorts in reverse."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)

    def __gt__(self, other: str) -> bool:
        return str.__lt__(self, other)


def load_case_items(run: AnyRun) -> CaseItems:
    """Read the run's items, which provide the pictures and true masks."""
    try:
        task = run.load_task()
    except DataChangedError:
        return CaseItems({}, f"No pictures: {run.config.root} has changed since the run.")
    except (OSError, ValueError) as error:
        return CaseItems({}, f"No pictures: the {run.task.WORDS.items} can no longer be read ({error}).")
    return CaseItems({item.item_id: item for item in task.items}, "")


def choose_cases(
    run: AnyRun, num_each: int, generator: np.random.Generator
) -> tuple[tuple[str, tuple[Record, ...]], ...]:
    """Choose random items and the scored items with the highest and the lowest quality, one per image and heading.

    Args:
        run: The run; entries of its data that could not be asked are left out.
        num_each: Cases per heading.
        generator: Draws the random items.
    """
    usable, best, worst = array("q"), _Ranked(num_each), _Ranked(num_each)
    for place, record in enumerate(run.task.settle(run.records)):
        if not record.prompt:
            continue
        usable.append(place)
        if record.is_scored and record.quality is not None:
            best.add((-record.quality, record.item_id), record.image_id, place)
            worst.add((record.quality, _Reversed(record.item_id)), record.image_id, place)
    shuffled = (run.records[usable[index]] for index in generator.permutation(len(usable)))
    chosen = {
        RANDOM: _distinct_images(shuffled, num_each),
        BEST: tuple(run.records[place] for place in best.places),
        WORST: tuple(run.records[place] for place in worst.places),
    }
    return tuple(chosen.items())


def draw_case(run: AnyRun, record: Record, item: Item | None) -> DrawnCase:
    """Return everything that the report shows for one item; without `item` there are no pictures."""
    case: Case = run.task.show(record, item)
    return DrawnCase(
        item_id=record.item_id,
        group=record.group,
        title=case.title,
        quality=record.quality,
        status=record.status.value,
        reason=record.reason,
        panels=() if item is None else _panels(case.pictures, pictures_of(item)),
        labels=case.labels,
        texts=tuple(MarkedText(one.heading, mark_spans(one.text, one.spans, one.colours)) for one in case.texts),
        choices=case.choices,
    )


def mark_spans(text: str, spans: Sequence[CharSpan], colours: Sequence[Colour]) -> str:
    """Return text as escaped HTML with each span in its colour; a span that overlaps an earlier one is not marked."""
    pieces, position = [], 0
    order = sorted(range(len(spans)), key=lambda index: spans[index].start)
    for index in order:
        span = spans[index]
        if span.start < position:
            continue
        pieces.append(html.escape(text[position : span.start]))
        inner = html.escape(text[span.start : span.end])
        pieces.append(f'<mark style="--c:{css_colour(colours[index])}">{inner}</mark>')
        position = span.end
    pieces.append(html.escape(text[position:]))
    return "".join(pieces)


def css_colour(colour: Colour) -> str:
    """Return a colour in CSS notation."""
    return f"rgb({colour[0]},{colour[1]},{colour[2]})"


def _distinct_images(records: Iterable[Record], count: int) -> tuple[Record, ...]:
    """Return the first records of different images."""
    chosen: dict[int | str, Record] = {}
    for record in records:
        if len(chosen) == count:
            break
        chosen.setdefault(record.image_id, record)
    return tuple(chosen.values())


def _panels(pictures: Sequence[CasePicture], places: Sequence[Picture]) -> tuple[Panel, ...]:
    try:
        images = [place.load() for place in places]
    except (OSError, ValueError):
        return ()  # the record's own reason already names the unreadable image
    boxed = [
        image if place.box is None else draw_box(image, place.box) for image, place in zip(images, places, strict=True)
    ]
    return tuple(_panel(picture, (boxed if picture.has_box else images)[picture.image]) for picture in pictures)


def _panel(picture: CasePicture, image: np.ndarray) -> Panel:
    decoded = [decode_mask(rle) for rle in picture.masks]
    masks = np.stack(decoded) if decoded else np.zeros((0, *image.shape[:2]), dtype=bool)
    scaled, scaled_masks = resize(image, masks, 2 * PANEL_SIDE / max(image.shape[:2]))  # twice, for sharp screens
    drawn = colour_parts(scaled, scaled_masks, picture.colours[: len(masks)])
    return Panel(picture.title, encode_base64(drawn, "JPEG"), picture.note)
