"""The demo page in a real browser: a photo is sent, a question asked, words selected, and their mask seen."""

import io
import json
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from partonomy.masks import decode_mask, rle_from_coco
from plum.inference.image_store import EncodedImage
from plum.inputs.bio_labels import TokenSpan
from tests.plum.demo.demo_world import QUESTION, make_demo, write_photo
from tests.plum.predictor_world import ANSWER

gradio = pytest.importorskip("gradio", reason="gradio is missing: pip install -r requirements-demo.txt")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: pip install -r requirements-demo.txt"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

SELECT = """words => {
    const answer = document.querySelector(".plum-answer");
    const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT);
    const start = answer.textContent.indexOf(words), end = start + words.length;
    const range = document.createRange();
    for (let at = 0, node; (node = walker.nextNode()); at += node.length) {
        if (at <= start && start < at + node.length) range.setStart(node, start - at);
        if (at < end && end <= at + node.length) range.setEnd(node, end - at);
    }
    document.getSelection().removeAllRanges();
    document.getSelection().addRange(range);
}"""
"""Selects words of the answer, as dragging over them does."""


@dataclass(frozen=True)
class Site:
    """A served page. files: the folder of its users' files."""

    address: str
    files: Path


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    from plum.demo.page import build_page, launch, users_files

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch, users_files() as folder:
        demo = make_demo(patch)
        patch.setattr(demo.predictor, "low_mask_logits", draw_stripes)
        page = build_page(demo, "tiny <model>", folder)
        yield Site(launch(page, "127.0.0.1", port), folder)
        page.close(verbose=False)
    assert not folder.exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(site: Site, browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    elsewhere: list[str] = []
    faults: list[str] = []
    opened.on("request", lambda request: elsewhere.append(request.url))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(site.address)
    opened.wait_for_selector(".plum-empty")
    yield opened
    opened.close()
    own = (site.address, "data:", "blob:")
    assert [url for url in elsewhere if not url.startswith(own)] == []  # nothing is loaded from other servers
    assert faults == []


def draw_stripes(
    entries: Sequence[EncodedImage], states: Tensor, spans: Sequence[TokenSpan], image_of: Tensor
) -> Tensor:
    """Mask logits in place of the tiny model's, whose masks are a few pixels: one vertical stripe for each span."""
    side = 16
    logits = torch.full((len(spans), side, side), -9.0)
    for number in range(len(spans)):
        left = 1 + 5 * (number % 3)
        logits[number, :, left : left + 4] = 9.0
    return logits


def send(page: Any, *paths: Path) -> None:
    page.set_input_files("#photos input[type=file]", [str(path) for path in paths])


def ask(page: Any, question: str) -> None:
    page.fill("#question textarea", question)
    page.click("#ask")
    page.wait_for_function(
        "question => [...document.querySelectorAll('.plum-question')].some(one => one.textContent === question)",
        arg=question,
    )


def segment(page: Any, words: str) -> None:
    page.evaluate(SELECT, words)
    page.wait_for_selector(".plum-segment.plum-ready")
    assert page.text_content(".plum-segment") == f"Segment “{words}”"
    page.click(".plum-segment")
    page.wait_for_function(
        "words => document.querySelector('.plum-clear') "  # these are not the model's own phrases
        "&& [...document.querySelectorAll('.plum-entry b')].some(one => one.textContent === words)",
        arg=words,
    )


def picture(page: Any) -> np.ndarray:
    """The photo with its masks, as the browser shows it."""
    page.wait_for_timeout(400)  # masks fade in
    return np.asarray(Image.open(io.BytesIO(page.locator(".plum-picture").screenshot())).convert("RGB")).astype(float)


def downloaded(page: Any, button: str) -> Path:
    page.wait_for_selector(f"{button} >> visible=true")
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path())


def test_selected_words_are_seen_on_the_photo(page: Any, site: Site, tmp_path: Path) -> None:
    send(page, write_photo(tmp_path))
    page.wait_for_selector(".plum-photo")
    photo = picture(page)
    ask(page, QUESTION)
    assert page.text_content(".plum-answer") == ANSWER
    segment(page, "propeller")
    segment(page, "front wheel")
    assert page.locator(".plum-phrase").all_text_contents() == ["front wheel", "propeller"]
    page.hover(".plum-phrase >> nth=1")
    shown = picture(page)
    screenshot = tmp_path / "demo.png"
    page.screenshot(path=screenshot, full_page=True)
    sys.stdout.write(f"screenshot of the demo page: {screenshot}\n")

    (record,) = json.loads(downloaded(page, "#masks").read_text(encoding="utf-8"))["images"]
    assert [span["phrase"] for span in record["spans"]] == ["front wheel", "propeller"]
    rle = rle_from_coco(record["spans"][1]["segmentation"], record["height"], record["width"], "masks.json")
    size = shown.shape[1::-1]
    inside = np.asarray(Image.fromarray(decode_mask(rle)).resize(size)) > 0
    assert 0.02 < inside.mean() < 0.98
    changed = np.abs(shown - photo).max(-1) > 12
    assert changed[inside].mean() > 0.8  # where the mask is, its colour is
    assert changed[~inside].mean() < 0.2  # elsewhere the photo is as it was, but for the contour

    page.mouse.move(1, 1)
    both = picture(page)
    assert (np.abs(both - shown).max(-1) > 12).any()  # without the pointer, the other phrase's mask shows, too
    overlay = np.asarray(Image.open(downloaded(page, "#overlay")))
    assert overlay.shape[1] >= 320
    page.click(".plum-clear")
    page.wait_for_selector(".plum-clear", state="detached")
    left = [path.name for path in site.files.rglob("*") if path.is_file() and path.stat().st_size]
    assert sorted(left) == ["masks.json", "overlay.png"]  # the photo's file is gone


def test_several_turns_ones_own_sentence_and_a_new_start(page: Any, tmp_path: Path) -> None:
    send(page, write_photo(tmp_path, "a.png"), write_photo(tmp_path, "b.png", seed=1))
    page.wait_for_selector(".plum-shot >> nth=1")
    assert page.locator("figcaption").all_text_contents() == ["(IMAGE1) a.png", "(IMAGE2) b.png"]
    ask(page, QUESTION)
    ask(page, "And <b>the</b> tail?")
    assert page.locator(".plum-question").all_text_contents() == [QUESTION, "And <b>the</b> tail?"]
    sentence = "A 😀😀😀😀😀 {{value}} ${value} <b>tail</b>."
    page.fill("#sentence textarea, #sentence input", sentence)
    page.click("#use-sentence")
    page.wait_for_function("sentence => document.querySelector('.plum-answer').textContent === sentence", arg=sentence)
    segment(
        page, "tail"
    )  # characters are counted alike in the browser and on the server, though an emoji is two in JavaScript
    assert page.locator(".plum-phrase").all_text_contents() == ["tail"]
    page.click("#start-again")
    page.wait_for_selector(".plum-answer", state="detached")
    assert page.locator(".plum-shot").count() == 2
    page.click("#remove-photos")
    page.wait_for_selector(".plum-empty")


def test_mistakes_are_one_sentence_on_the_page(page: Any, tmp_path: Path) -> None:
    def notice(words: str) -> str:
        page.wait_for_selector(f".plum-error:has-text('{words}')")
        assert page.locator(".plum-error").is_visible()
        return str(page.text_content(".plum-error"))

    page.click("#ask")
    notice("Send a photo first")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no image")
    send(page, broken)
    assert notice("broken.jpg").startswith("broken.jpg: ")
    send(page, write_photo(tmp_path))
    page.wait_for_selector(".plum-photo")
    assert page.locator(".plum-error").count() == 0
    ask(page, QUESTION)
    page.click(".plum-segment")
    notice("Select words of the answer first")
    page.fill("#question textarea", "wheel " * 2000)
    page.click("#ask")
    assert "Traceback" not in notice("The conversation is full")
    assert page.text_content(".plum-answer") == ANSWER  # nothing is lost
