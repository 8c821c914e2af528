"""One HTML page over the predictions of a folder: a thumbnail per answer that leads to its overlay."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from partonomy.visualize import part_colours
from plum.folder_prediction.records import Json

PAGE_FILE = "index.html"


@dataclass(frozen=True)
class Phrase:
    """A segmented phrase: its colour in the overlay as CSS writes it, and its mask's confidence."""

    text: str
    colour: str
    confidence: float


@dataclass(frozen=True)
class Card:
    """One answer; `overlay` and `thumbnail` are links."""

    image: str
    question: str
    answer: str
    overlay: str
    thumbnail: str
    phrases: tuple[Phrase, ...]


def write_page(output: Path, model_name: str, records: Iterable[Json], failures: Sequence[tuple[str, str]]) -> Path:
    """Write the page.

    Args:
        output: folder of the predictions; links are relative to it.
        model_name: shown.
        records: lines of predictions.
        failures: images that failed, with reasons.

    Returns:
        Its path.
    """
    environment = Environment(
        loader=PackageLoader("plum.folder_prediction", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = [card for record in records for card in _cards(record)]
    page = environment.get_template("page.html.j2").stream(model_name=model_name, cards=cards, failures=failures)
    temporary = output / f".{PAGE_FILE}.partial"
    page.dump(str(temporary), encoding="utf-8")
    temporary.replace(output / PAGE_FILE)
    return output / PAGE_FILE


def _cards(record: Json) -> list[Card]:
    return [
        Card(
            record["image"],
            answer["question"],
            answer["text"],
            quote(answer["overlay"]),
            quote(answer["thumbnail"]),
            tuple(
                Phrase(span["phrase"], "rgb({}, {}, {})".format(*colour), span["mask_confidence"])
                for span, colour in zip(answer["spans"], part_colours(len(answer["spans"])), strict=True)
            ),
        )
        for answer in record["answers"]
    ]
