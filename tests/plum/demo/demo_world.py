"""A demo whose tiny model always writes the same answer, and photos to send to it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.models.contract import Turn
from partonomy.structures import CharSpan
from plum.demo.session import Demo, Session
from plum.inference.predictor import WrittenAnswer
from tests.plum.predictor_world import ANSWER, WRITTEN, make_image, make_predictor

QUESTION = "What visible parts does the biplane have?"


def make_demo(monkeypatch: pytest.MonkeyPatch) -> Demo:
    predictor = make_predictor()

    def write_about(images: Sequence[np.ndarray], turns: Sequence[Turn], limit: int | None = None) -> WrittenAnswer:
        predictor.answers.prompt(
            turns, predictor.slots(images)
        )  # a full conversation is refused, as by the model itself
        return WRITTEN

    monkeypatch.setattr(predictor, "write_about", write_about)
    return Demo(predictor)


def write_photo(folder: Path, name: str = "biplane.png", seed: int = 0) -> Path:
    path = folder / name
    Image.fromarray(make_image(seed)).save(path)
    return path


def asked(demo: Demo, folder: Path, num_photos: int = 1) -> Session:
    """A session whose question the model has answered."""
    paths = [write_photo(folder, f"photo_{number}.png", number) for number in range(num_photos)]
    return demo.ask(demo.add_photos(Session(), paths), QUESTION)


def select(demo: Demo, session: Session, words: str) -> Session:
    """Segment the first occurrence of some words in the shown answer."""
    assert session.shown is not None
    start = session.shown.text.index(words)
    return demo.segment(session, start, start + len(words))


def span_of(words: str, text: str = ANSWER) -> CharSpan:
    start = text.index(words)
    return CharSpan(start, start + len(words))
