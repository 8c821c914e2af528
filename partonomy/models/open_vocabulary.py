"""Open-vocabulary segmenters that receive the names of the true parts: the paper's "(gt)" rows of Table 2.

A segmenter is a class with three methods (`OpenVocabularySegmenter`): one that has a name (`segmenter_options.py`), or
your own; `saliency.py` is a working example. Such models neither choose nor write answers: the text metrics are null.
Paper: "As they do not understand question-based prompts, we provide them with the ground truth (gt) parts to segment
individually" (section 4).
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from partonomy.models.contract import (
    AnswerRequest,
    ChoiceRequest,
    Generation,
    MaskRequest,
    ReplyRequest,
    Turn,
)
from partonomy.models.segmenter_options import (
    NAMED_SEGMENTERS,
    find_models,
    parse_named_options,
    parse_options,
)
from partonomy.structures import CharSpan, ChoiceScore

if TYPE_CHECKING:
    from partonomy.models.stock_segmenters import ReadImage, StockSegmenter

NO_CHOICES = "an open-vocabulary segmenter does not answer questions"
NO_ANSWERS = "an open-vocabulary segmenter does not write answers"
METHODS = ("load", "set_image", "segment_phrases")


class OpenVocabularySegmenter(Protocol):
    """The class that `--segmenter package.module:Class` names.

    Its constructor takes the members of `--segmenter_options` as keyword arguments, or none.

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
        raise NotImplementedError(NO_CHOICES)

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
        raise NotImplementedError(NO_ANSWERS)


class StockOpenVocabularyModel(OpenVocabularyModel):
    """Adapts a segmenter that has a name: the phrases of all questions about an image are segmented together.

    Args:
        segmenter: A loaded segmenter.
        name: Shown in results.
        device: Device of the segmenter.
    """

    def __init__(self, segmenter: "StockSegmenter", name: str, device: str) -> None:
        super().__init__(segmenter, name, device)
        self.dtype = segmenter.dtype
        self._stock = segmenter

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError(NO_ANSWERS)

    def read_image(self, image: np.ndarray) -> object:
        """Preprocess an image, uint8 RGB (H, W, 3), without using the device."""
        return self._stock.read_image(image)

    def open_batch(self, images: Sequence[Any]) -> "PhraseBatch":
        """Start a batch of images from `read_image`."""
        return PhraseBatch(self._stock, images)


class PhraseBatch:
    """Several images with all phrases that are asked about them; see `ImageBatch`.

    Args:
        segmenter: A loaded segmenter.
        images: From its `read_image`.
    """

    def __init__(self, segmenter: "StockSegmenter", images: Sequence["ReadImage"]) -> None:
        self._segmenter = segmenter
        self._images = images

    def score_choices(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError(NO_CHOICES)

    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]:
        """Return the masks of each request; a phrase that several requests share is segmented once per image.

        Raises:
            ModelUnavailable: The model's values are not finite.
        """
        phrases_of = [tuple(one.answer[span.start : span.end] for span in one.spans) for one in requests]
        found: list[np.ndarray] = [np.zeros((0, *self._images[one.image].size), dtype=bool) for one in requests]
        for image, read in enumerate(self._images):
            own = [place for place, request in enumerate(requests) if request.image == image]
            distinct = list(dict.fromkeys(phrase for place in own for phrase in phrases_of[place]))
            if not distinct:
                continue
            masks = self._segmenter.segment(read, distinct)
            for place in own:
                if phrases_of[place]:
                    found[place] = masks[[distinct.index(phrase) for phrase in phrases_of[place]]]
        return found

    def generate(self, requests: Sequence[AnswerRequest]) -> list[Generation]:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError(NO_ANSWERS)

    def reply(self, requests: Sequence[ReplyRequest]) -> list[str]:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError(NO_ANSWERS)


def check_segmenter(segmenter: str, options: str | None) -> None:
    """Check `--segmenter` and `--segmenter_options` before anything is written.

    Args:
        segmenter: A name, or "package.module:Class".
        options: JSON object; None is an empty one.

    Raises:
        ValueError: There is no such segmenter, or it does not take these options.
        FileNotFoundError: A model folder does not exist.
    """
    if segmenter in NAMED_SEGMENTERS:
        find_models(segmenter, parse_named_options(segmenter, options))
    else:
        _find_class(segmenter, parse_options(options, "--segmenter_options"))


def load_open_vocabulary_model(
    segmenter: str, device: str, options: str | None = None, dtype: str = "auto"
) -> OpenVocabularyModel:
    """Build and load a segmenter.

    Args:
        segmenter: A name, or "package.module:Class".
        device: "cpu", "cuda:0", ...
        options: JSON object: the named segmenter's options, or the arguments of the class's constructor.
        dtype: A named segmenter's type of weights: "auto" (float32), or torch's name of a dtype.

    Raises:
        ValueError: There is no such segmenter, it does not take these options, it lacks one of the three methods, or
            its weights are incomplete.
        FileNotFoundError: A model folder does not exist.
    """
    name = f"open_vocabulary:{segmenter.rpartition(':')[2]}"
    if segmenter in NAMED_SEGMENTERS:
        from partonomy.models.stock_segmenters import SEGMENTERS  # noqa: PLC0415  (torch)

        chosen = parse_named_options(segmenter, options)
        stock = SEGMENTERS[segmenter](find_models(segmenter, chosen), chosen, dtype)
        stock.load(device)
        return StockOpenVocabularyModel(stock, name, device)
    arguments = parse_options(options, "--segmenter_options")
    made: OpenVocabularySegmenter = _find_class(segmenter, arguments)(**arguments)
    missing = [method for method in METHODS if not callable(getattr(made, method, None))]
    if missing:
        raise ValueError(f"--segmenter {segmenter}: the class lacks the methods {', '.join(missing)}")
    made.load(device)
    return OpenVocabularyModel(made, name, device)


def _find_class(segmenter: str, options: Mapping[str, Any]) -> Any:
    """Import a segmenter's class and check that its constructor takes the options."""
    module_name, _, class_name = segmenter.partition(":")
    if not class_name:
        raise ValueError(
            f"--segmenter {segmenter!r} is none of {', '.join(NAMED_SEGMENTERS)}; for a class of your own write it as "
            "package.module:Class"
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--segmenter: {segmenter!r} cannot be imported, so it does not name an importable class ({error}); write "
            "it as package.module:Class"
        ) from error
    if not callable(found):
        raise ValueError(f"--segmenter {segmenter} is not a class")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        given = f"the arguments {', '.join(sorted(options))}" if options else "no arguments"
        raise ValueError(
            f"--segmenter {segmenter} cannot be built with {given} ({error}); see --segmenter_options"
        ) from error
    return found
