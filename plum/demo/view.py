"""HTML of the demo page's view: photos under their masks, the conversation, and the answer with coloured phrases."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import jinja2
import numpy as np
from markupsafe import Markup, escape

from partonomy.structures import CharSpan
from partonomy.visualize import Colour
from plum.demo.pictures import Picture, draw_picture
from plum.demo.session import Answer, Session, Source
from plum.inference.folder_prediction import cut_mark, phrase_colours
from plum.inputs.conversation import image_name

HEADINGS = {
    Source.MODEL: "Phrases that the model tagged",
    Source.SELECTION: "Words that you selected",
    Source.SENTENCE: "Words of your sentence that you selected",
}


@dataclass(frozen=True)
class Phrase:
    """A segmented phrase in the list below the answer.

    Attributes:
        number: index of the phrase among the phrases of all photos.
        text: its words.
        colour: of its mask.
        places: per photo in which it is segmented, the mean probability inside its mask and the share that it covers.
    """

    number: int
    text: str
    colour: Colour
    places: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """Characters of the answer that the same phrases cover.

    Attributes:
        text: the characters.
        number: the shortest phrase that covers them; None: no phrase does.
        colour: of that phrase.
    """

    text: str
    number: int | None = None
    colour: Colour = (0, 0, 0)


@dataclass(frozen=True)
class Shot:
    """A photo on the page.

    Attributes:
        caption: its name in texts, if there are several, and the name of the file.
        picture: the photo and its masks.
        numbers: per mask, the number of its phrase.
    """

    caption: str
    picture: Picture
    numbers: tuple[int, ...]


def render_view(session: Session, error: str = "") -> str:
    """Return the HTML of a state of the page; every text of the user and of the model is escaped.

    Args:
        session: the state.
        error: one sentence that says why the last action failed; it takes the place of the state's notice.
    """
    shown = session.shown
    numbered = {} if shown is None else number_phrases(shown)
    colours = phrase_colours(shown.predictions) if shown is not None and shown.predictions else []
    return _template().render(
        session=session,
        error=error,
        shown=shown,
        earlier=_earlier_turns(session),
        shots=_draw_shots(session, numbered, colours),
        pieces=[] if shown is None else cut_into_pieces(shown.text, numbered, _colour_of(shown, colours)),
        phrases=[] if shown is None else _list_phrases(shown, numbered, colours),
        heading="" if shown is None else HEADINGS[shown.source],
        cut=_cut_mark(shown),
        is_own=shown is not None and shown is session.own,
    )


def _cut_mark(shown: Answer | None) -> str:
    if shown is None or not shown.predictions:
        return ""
    return cut_mark(shown.predictions[0].finish_reason, shown.predictions[0].num_tokens)


def number_phrases(answer: Answer) -> dict[CharSpan, int]:
    """Number the phrases of an answer in reading order; a phrase that is segmented in several photos counts once."""
    spans = {span for prediction in answer.predictions for span in prediction.spans}
    ordered = sorted(spans, key=lambda span: (span.start, span.end))
    return {span: number for number, span in enumerate(ordered)}


def cut_into_pieces(text: str, numbered: dict[CharSpan, int], colour_of: dict[CharSpan, Colour]) -> list[Piece]:
    """Cut an answer where phrases begin and end; phrases may overlap.

    Args:
        text: the answer.
        numbered: number of each phrase.
        colour_of: colour of each phrase.

    Returns:
        Pieces that make up the text.
    """
    places = sorted({0, len(text), *(place for span in numbered for place in (span.start, span.end))})
    pieces = []
    for start, end in zip(places, places[1:], strict=False):
        covering = [span for span in numbered if span.start <= start and end <= span.end]
        if covering:
            shortest = min(covering, key=lambda span: (span.end - span.start, span.start))
            pieces.append(Piece(text[start:end], numbered[shortest], colour_of[shortest]))
        else:
            pieces.append(Piece(text[start:end]))
    return pieces


def _colour_of(answer: Answer, colours: Sequence[tuple[Colour, ...]]) -> dict[CharSpan, Colour]:
    return {
        span: colour
        for prediction, own in zip(answer.predictions, colours, strict=True)
        for span, colour in zip(prediction.spans, own, strict=True)
    }


def _list_phrases(answer: Answer, numbered: dict[CharSpan, int], colours: Sequence[tuple[Colour, ...]]) -> list[Phrase]:
    colour_of = _colour_of(answer, colours)
    places: dict[CharSpan, list[str]] = {span: [] for span in numbered}
    for photo, prediction in enumerate(answer.predictions):
        name = f"{image_name(photo)}: " if len(answer.predictions) > 1 else ""
        for index, span in enumerate(prediction.spans):
            share = float(prediction.masks[index].mean())
            probability = f"{prediction.mask_confidences[index]:.2f} · {share:.1%}" if share else "empty mask"
            places[span].append(f"{name}{probability}")
    return [
        Phrase(number, answer.text[span.start : span.end], colour_of[span], tuple(places[span]))
        for span, number in numbered.items()
    ]


def _draw_shots(session: Session, numbered: dict[CharSpan, int], colours: Sequence[tuple[Colour, ...]]) -> list[Shot]:
    predictions = () if session.shown is None else session.shown.predictions
    shots = []
    for number, photo in enumerate(session.photos):
        masks = np.zeros((0, *photo.pixels.shape[:2]), dtype=bool)
        own: tuple[Colour, ...] = ()
        numbers: tuple[int, ...] = ()
        if predictions:
            masks, own = predictions[number].masks, colours[number]
            numbers = tuple(numbered[span] for span in predictions[number].spans)
        # Small masks are drawn last, so that they stay visible on top of large ones.
        order = sorted(range(len(masks)), key=lambda index: -int(masks[index].sum()))
        picture = draw_picture(photo.pixels, masks[order], tuple(own[index] for index in order))
        name = f"{image_name(number)} " if len(session.photos) > 1 else ""
        shots.append(Shot(f"{name}{photo.name}", picture, tuple(numbers[index] for index in order)))
    return shots


def _earlier_turns(session: Session) -> list[tuple[str, str]]:
    """Return questions and answers before the one that is shown."""
    end = len(session.turns) if session.shown is None else len(session.shown.turns) - 1
    texts = [turn.text for turn in session.turns[:end]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _as_text(text: str) -> Markup:
    """Escape a text for HTML, and for the page's own templates, which read braces and dollar signs."""
    return Markup(str(escape(text)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;"))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["text"] = _as_text
    source = (files("plum.demo") / "view.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)
