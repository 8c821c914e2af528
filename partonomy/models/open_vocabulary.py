"""Open-vocabulary segmenters that receive the names of the true parts: the paper's "(gt)" rows of Table 2.

A segmenter is a class with three methods (`OpenVocabularySegmenter`); `saliency.py` is a working example. Such models
neither choose nor write answers: the text metrics are null. Paper: "As they do not understand question-based prompts,
we provide them with the ground truth (gt) parts to segment individually" (section 4).
"""

import importlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from partonomy.models.contract import Generation, Turn
from partonomy.structures import CharSpan, ChoiceScore


class OpenVocabularySegmenter(Protocol):
    """The class that `--segmenter package.module:Class` names; its constructor takes no arguments.

    A segmenter sees one image at a time and only phrases, never the question, its answer choices or the truth.
    """

    def load(self, device: str) -> None:
        """Load weights; called once, before anything else.

        Args:
            device: "cpu", "cuda:0", ...
        """
        ...

    def set_image(self, image: np.ndarray) -> None:
        """Set the current image; do costly work that is independent of the phrases here.

        Args:
            image: uint8 RGB (H, W, 3), original-image pixels; not to be changed.
        """
        ...

    def segment_phrases(self, phrases: Sequence[str]) -> np.ndarray:
        """Segment each phrase in the current image.

        Args:
            phrases: part names such as "tail fin", at least one.

        Returns:
            bool (len(phrases), H, W), original-image pixels; the mask of a phrase that is not found is empty.
        """
        ...


class OpenVocabularyModel:
    """Adapts an open-vocabulary segmenter to the model contract.

    Args:
        segmenter: A loaded segmenter.
        name: Shown in results.
        device: Device of the segmenter.
    """

    def __init__(self, segmenter: OpenVocabularySegmenter, name: str, device: str) -> None:
        self.name = name
        self.device = device
        self._segmenter = segmenter
        self._image: np.ndarray | None = None

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError("an open-vocabulary segmenter does not answer questions")

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return one mask per phrase of the given answer; each phrase is segmented separately."""
        if not spans:
            return np.zeros((0, *image.shape[:2]), dtype=bool)
        if self._image is None or not np.array_equal(self._image, image):
            self._segmenter.set_image(image)
            self._image = image.copy()
        return self._segmenter.segment_phrases([answer[span.start : span.end] for span in spans])

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError("an open-vocabulary segmenter does not write answers")


def load_open_vocabulary_model(segmenter: str, device: str) -> OpenVocabularyModel:
    """Import, construct and load a segmenter.

    Args:
        segmenter: "package.module:Class".
        device: "cpu", "cuda:0", ...

    Raises:
        ValueError: There is no such class, or it lacks one of the three methods.
    """
    module_name, _, class_name = segmenter.partition(":")
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"--segmenter {segmenter!r} does not name an importable class whose constructor takes "
            "no arguments; write it as "
            f"package.module:Class ({error})"
        ) from error
    missing = [name for name in ("load", "set_image", "segment_phrases") if not callable(getattr(made, name, None))]
    if missing:
        raise ValueError(f"--segmenter {segmenter}: the class lacks the methods {', '.join(missing)}")
    made.load(device)
    return OpenVocabularyModel(made, f"open_vocabulary:{class_name}", device)
