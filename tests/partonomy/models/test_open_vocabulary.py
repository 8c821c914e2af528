from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.models.contract import Role, Turn
from partonomy.models.open_vocabulary import OpenVocabularyModel, load_open_vocabulary_model
from partonomy.models.saliency import SaliencySegmenter, salient_region
from partonomy.structures import CharSpan, QuestionType
from tests.partonomy.conftest import write_questions
from validate_partonomy import main

TURNS = (Turn(Role.USER, "Which parts?"),)
SALIENCY = "partonomy.models.saliency:SaliencySegmenter"


def red_square() -> np.ndarray:
    """A red square on rows 10 to 29 and columns 12 to 31 of a grey image of 40 x 50 pixels."""
    image = np.full((40, 50, 3), 128, dtype=np.uint8)
    image[10:30, 12:32] = (220, 20, 20)
    return image


class NotingSegmenter:
    """Notes its calls; every mask is one pixel, that of the phrase's length."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._shape = (0, 0)

    def load(self, device: str) -> None:
        """Note the device."""
        self.calls.append(f"load {device}")

    def set_image(self, image: np.ndarray) -> None:
        """Note the image."""
        self.calls.append(f"image {image.mean():.0f}")
        self._shape = image.shape[:2]

    def segment_phrases(self, phrases: Sequence[str]) -> np.ndarray:
        """Note the phrases."""
        self.calls.append(", ".join(phrases))
        masks = np.zeros((len(phrases), *self._shape), dtype=bool)
        for mask, phrase in zip(masks, phrases, strict=True):
            mask[0, len(phrase)] = True
        return masks


def test_phrases_reach_the_segmenter_and_an_image_is_taken_up_once() -> None:
    segmenter = NotingSegmenter()
    model = OpenVocabularyModel(segmenter, "noting", "cpu")
    answer = "It has a wing, a tail fin."
    spans = (CharSpan(9, 13), CharSpan(17, 25))
    image = np.full((4, 12, 3), 7, dtype=np.uint8)
    masks = model.segment(image, TURNS, answer, spans)
    assert masks[:, 0].argmax(-1).tolist() == [4, 8]
    model.segment(image.copy(), TURNS, answer, spans[:1])
    model.segment(image + 1, TURNS, answer, spans[:1])
    assert model.segment(image, TURNS, answer, ()).shape == (0, 4, 12)
    assert segmenter.calls == ["image 7", "wing, tail fin", "wing", "image 8", "wing"]
    for ask in (lambda: model.score_choices(image, TURNS, ["a"]), lambda: model.generate(image, TURNS)):
        with pytest.raises(NotImplementedError):
            ask()


def test_saliency_finds_what_differs_from_the_border() -> None:
    region = salient_region(red_square())
    expected = np.zeros((40, 50), dtype=bool)
    expected[10:30, 12:32] = True
    assert (region & expected).sum() / (region | expected).sum() > 0.8  # blurred edges
    assert not salient_region(np.full((40, 50, 3), 90, dtype=np.uint8)).any()


def test_place_words_cut_the_region() -> None:
    segmenter = SaliencySegmenter()
    segmenter.load("cpu")
    segmenter.set_image(red_square())
    whole, left, right, corner = segmenter.segment_phrases(["wing", "left wing", "Right wing", "upper left wing"])
    np.testing.assert_array_equal(left | right, whole)
    assert not (left & right).any()
    assert left.any(0).nonzero()[0].max() < 23 < right.any(0).nonzero()[0].max()
    assert corner.sum() == pytest.approx(whole.sum() / 4, rel=0.1)
    assert corner[:20, :22].sum() == corner.sum()


def test_run_has_masks_and_no_text_metrics(tmp_path: Path) -> None:
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION_WITH_LABEL,), num_images=2)
    flags = ["--model", "open_vocabulary", "--segmenter", SALIENCY, "--questions", str(questions), "--device", "cpu"]
    summary = main([*flags, "--output", str(tmp_path / "run")])
    assert summary is not None
    assert summary.provenance["config"]["model"]["segmenter"] == SALIENCY
    assert summary.provenance["model"] == "open_vocabulary:SaliencySegmenter"
    entry = summary.groups["identification_with_label"]
    assert entry.num_failed == 0
    for name, estimate in entry.metrics.items():
        is_mask = name.startswith(("giou", "ciou", "authors_giou"))
        assert (estimate.value is None) != is_mask, name


class Incomplete:
    """Lacks two of the three methods."""

    def load(self, device: str) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("segmenter", "message"),
    [
        ("nowhere.at.all:Class", "does not name an importable class .*nowhere"),
        ("partonomy.masks:Nothing", "does not name an importable class .*Nothing"),
        ("saliency", "write it as package.module:Class"),
        ("partonomy.models.saliency:salient_region", "cannot be built with no arguments"),
        (f"{Incomplete.__module__}:Incomplete", "lacks the methods set_image, segment_phrases"),
    ],
)
def test_unusable_segmenters_say_what_is_missing(segmenter: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_open_vocabulary_model(segmenter, "cpu")
