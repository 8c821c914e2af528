import base64
import io
import json
import re
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.masks import decode_mask, rle_from_coco
from partonomy.structures import CharSpan
from partonomy.visualize import part_colours
from plum.demo.downloads import write_downloads
from plum.demo.pictures import MAX_SIDE, MIN_SIDE, draw_picture
from plum.demo.session import Answer, Demo, Photo, Session, Source
from plum.demo.view import Piece, cut_into_pieces, render_view
from plum.inference.predictor import Prediction
from tests.plum.demo.demo_world import QUESTION, asked, make_demo, select
from tests.plum.predictor_world import ANSWER

RED, BLUE = part_colours(2)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Demo:
    return make_demo(monkeypatch)


def decode(address: str) -> np.ndarray:
    """The pixels of a data address, RGBA."""
    data = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


class Reader(HTMLParser):
    """Reads what a browser would: the text of the elements of a class, and the attributes of all elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[dict[str, str]] = []
        self.text_of: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append({"tag": tag, **attributes})
        if tag not in ("img", "br"):
            self._open.append(attributes.get("class", ""))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for classes in set(self._open):
            self.text_of[classes] = self.text_of.get(classes, "") + data

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [one for one in self.elements if name in one.get("class", "").split()]


def test_a_layer_is_coloured_inside_the_mask_and_transparent_elsewhere() -> None:
    masks = np.zeros((2, 600, 800), dtype=bool)
    masks[0, 100:300, 200:500] = True
    picture = draw_picture(np.zeros((600, 800, 3), dtype=np.uint8), masks, (RED, BLUE))
    layer, empty = map(decode, picture.layers)
    assert layer.shape[:2] == (picture.height, picture.width) == (600, 800)
    assert tuple(layer[200, 350, :3]) == RED
    assert 100 < layer[200, 350, 3] < 155
    assert tuple(layer[100, 350]) == (*RED, 255)  # the contour
    far_off = ~masks[0].copy()
    far_off[95:305, 195:505] = False
    assert not layer[far_off, 3].any()
    assert not empty[..., 3].any()


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(20, 28, (MIN_SIDE, 672)), (2000, 4000, (512, MAX_SIDE)), (700, 900, (700, 900)), (10, 900, (10, 900))],
)
def test_photo_and_layers_have_the_size_that_a_page_can_show(height: int, width: int, shown: tuple[int, int]) -> None:
    masks = np.ones((1, height, width), dtype=bool)
    picture = draw_picture(np.zeros((height, width, 3), dtype=np.uint8), masks, (RED,))
    assert (picture.height, picture.width) == shown
    assert decode(picture.photo).shape[:2] == decode(picture.layers[0]).shape[:2] == shown


def test_an_answer_is_cut_where_phrases_begin_and_end() -> None:
    whole, inner, last = CharSpan(9, 20), CharSpan(15, 20), CharSpan(36, 45)
    numbered = {whole: 0, inner: 1, last: 2}
    green = (0, 255, 0)
    pieces = cut_into_pieces(ANSWER, numbered, {whole: RED, inner: BLUE, last: green})
    assert pieces == [
        Piece("It has a "),
        Piece("front ", 0, RED),
        Piece("wheel", 1, BLUE),  # the shorter phrase, which would otherwise be out of reach
        Piece(", a wheel and a "),
        Piece("propeller", 2, green),
        Piece("."),
    ]
    assert cut_into_pieces("", {}, {}) == []


@pytest.mark.parametrize("num_photos", [1, 2])
def test_phrases_masks_and_entries_belong_together(demo: Demo, tmp_path: Path, num_photos: int) -> None:
    session = select(demo, select(demo, asked(demo, tmp_path, num_photos), "propeller"), "front wheel")
    assert session.shown is not None
    page = Reader(render_view(session))
    assert page.text_of["plum-answer"] == ANSWER
    phrases, entries, masks = (page.of_class(name) for name in ("plum-phrase", "plum-entry", "plum-mask"))
    assert [one["data-phrase"] for one in phrases] == [one["data-phrase"] for one in entries] == ["0", "1"]
    assert sorted(one["data-phrase"] for one in masks) == sorted(["0", "1"] * num_photos)
    assert len(page.of_class("plum-photo")) == num_photos
    for number, colour in enumerate((RED, BLUE)):
        assert f"rgb{colour}" in phrases[number]["style"]
        assert f"rgb{colour}" in entries[number]["style"]
    shown = iter(masks)
    for prediction in session.shown.predictions:
        sizes = prediction.masks.sum((1, 2)).tolist()
        order = sorted(range(2), key=lambda index: -sizes[index])  # large masks below small ones
        for index in order:
            mask = next(shown)
            assert mask["data-phrase"] == str(index)
            layer = decode(mask["src"])
            is_drawn = layer[..., 3] > 0
            assert is_drawn.any() == (sizes[index] > 0)
            assert {tuple(pixel) for pixel in layer[is_drawn][:, :3]} <= {(RED, BLUE)[index]}
    assert bool(page.of_class("plum-clear"))
    assert not Reader(render_view(demo.show_own_phrases(session))).of_class("plum-clear")


def test_texts_cannot_become_markup_or_templates(demo: Demo, tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)> {{value}} ${value} & \"quoted\" 'too'"
    session = demo.use_sentence(asked(demo, tmp_path), nasty)
    session = replace(session, photos=(Photo(f"{nasty}.png", session.photos[0].pixels),))
    html = render_view(session, error=f"error: {nasty}")
    page = Reader(html)
    assert page.text_of["plum-answer"] == nasty
    assert page.text_of["plum-notice plum-error"] == f"error: {nasty}"
    assert not [one for one in page.elements if "onerror" in one]
    assert page.of_class("plum-photo")[0]["alt"] == f"{nasty}.png"
    assert "{" not in html
    assert "$" not in html


def test_earlier_turns_an_empty_answer_and_a_cut_one_are_shown(demo: Demo, tmp_path: Path) -> None:
    session = demo.ask(asked(demo, tmp_path), "And the tail?")
    page = Reader(render_view(session))
    assert page.text_of["plum-question"] == f"{QUESTION}And the tail?"
    assert ANSWER in page.text_of["plum-turn plum-past"]
    assert session.own is not None
    no_masks = np.zeros((0, 20, 28), dtype=bool)
    for text, reason, note in (("", "stop", "(no answer)"), ("It", "length", "[cut at 7 tokens]")):
        prediction = Prediction(text, (), (), no_masks, (), reason, 7)  # type: ignore[arg-type]
        answer = Answer(session.own.turns, text, (prediction,), Source.MODEL)
        assert note in render_view(replace(session, own=answer, shown=answer))
    assert "Send a photo" in render_view(Session())


@pytest.mark.parametrize("num_photos", [1, 2])
def test_downloads_hold_the_overlay_and_the_masks(demo: Demo, tmp_path: Path, num_photos: int) -> None:
    session = select(demo, select(demo, asked(demo, tmp_path, num_photos), "propeller"), "wheel")
    assert session.shown is not None
    overlay, masks = write_downloads(session.photos, session.shown, tmp_path / "files")
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == sorted([overlay.name, "masks.json"])
    content = json.loads(masks.read_text())
    assert (content["question"], content["source"]) == (QUESTION, "selection")
    assert [record["name"] for record in content["images"]] == [f"photo_{n}.png" for n in range(num_photos)]
    for record, prediction in zip(content["images"], session.shown.predictions, strict=True):
        assert [tuple(one["characters"]) for one in record["spans"]] == [(15, 20), (36, 45)]
        assert [one["phrase"] for one in record["spans"]] == ["wheel", "propeller"]
        for one, mask in zip(record["spans"], prediction.masks, strict=True):
            rle = rle_from_coco(one["segmentation"], record["height"], record["width"], "masks.json")
            np.testing.assert_array_equal(decode_mask(rle), mask)
    if num_photos == 1:
        assert overlay.name == "overlay.png"
        pictures = [np.asarray(Image.open(overlay))]
    else:
        with zipfile.ZipFile(overlay) as file:
            assert file.namelist() == ["overlay_image1.png", "overlay_image2.png"]
            pictures = [np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in file.namelist()]
    for picture, prediction in zip(pictures, session.shown.predictions, strict=True):
        is_red = (picture == RED).all(-1).any()  # the contour of the first phrase, or its square in the legend
        assert is_red
        assert picture.shape[0] > 320 or not prediction.masks.any()


def test_the_script_and_the_page_name_the_same_classes_and_events() -> None:
    folder = Path(__file__).parents[3] / "plum" / "demo"
    script, style, template, page = (
        (folder / name).read_text(encoding="utf-8") for name in ("view.js", "view.css", "view.html.j2", "page.py")
    )
    written = set(re.findall(r"plum-[a-z]+", template))
    set_by_script = {"plum-active", "plum-ready"}
    assert set(re.findall(r"plum-[a-z]+", script)) <= written | set_by_script
    assert set(re.findall(r"plum-[a-z]+", style)) <= written | set_by_script | {"plum-quiet"}
    events = set(re.findall(r'trigger\("(\w+)"', script))
    assert events == set(re.findall(r"controls\.view\.(\w+)\]", page))
