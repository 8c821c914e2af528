"""The PLUM family behind Partonomy's model contract (`partonomy.models.contract.GroundedModel`)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from partonomy.models.contract import Generation, GroundedModel, ImageBatch, Turn
from partonomy.structures import CharSpan, ChoiceScore
from plum.checkpoints.store import load_pretrained
from plum.data.sam_feature_cache import SamFeatureCache, SamPreprocessing, hash_weights
from plum.inference.image_store import EncodedImage
from plum.inference.question_batch import QuestionBatch
from plum.predictor import Predictor


class PlumModel:
    """A Predictor that speaks the benchmark's contract; implements `model_api.MarkingModel` too."""

    def __init__(self, predictor: Predictor, name: str) -> None:
        self.predictor = predictor
        self.name = name
        self.protocol_note = predictor.notation.protocol_note
        self.has_mask_per_phrase = predictor.notation.has_mask_per_phrase
        parameter = next(predictor.model.parameters())
        self.dtype, self.device = str(parameter.dtype).removeprefix("torch."), str(parameter.device)

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return one score per choice."""
        return self.predictor.score_choices(image, turns, choices)

    def score_marked_choices(
        self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str], phrases: Sequence[Sequence[CharSpan]]
    ) -> list[ChoiceScore]:
        """Return one score per choice, with [SEG] tokens after its phrases where the system writes them."""
        return self.predictor.score_choices(image, turns, choices, phrases)

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return one mask per span of the given answer, bool (len(spans), H, W)."""
        return self.predictor.segment(image, turns, answer, spans).masks

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return the model's own answer, its tagged spans and their masks."""
        prediction = self.predictor.generate(image, turns)
        return Generation(prediction.text, prediction.spans, prediction.masks, prediction.mask_confidences)

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the model's own answer in words alone (listwise questions)."""
        return self.predictor.generate_text(image, turns)


class BatchedPlum(PlumModel):
    """The same, and many questions about several images at once (`model_api.BatchedModel`): what a run uses."""

    def read_image(self, image: np.ndarray) -> EncodedImage:
        """Resize an image for both towers; needs no device."""
        return self.predictor.images.read(image)

    def open_batch(self, images: Sequence[object]) -> ImageBatch:
        """Begin a batch of images from `read_image`."""
        return QuestionBatch(self.predictor, [image for image in images if isinstance(image, EncodedImage)])


def resolve_device(device: str) -> torch.device:
    """Resolve "auto" to the first GPU, else the CPU; anything else is taken as torch names it.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is none of auto, cpu, cuda, cuda:N") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices; pass --device cpu")
    return place


def load_predictor(checkpoint: str, device: str = "auto", sam_cache: str | None = None) -> Predictor:
    """Load a saved model for inference: bfloat16 on a GPU, float32 on the CPU.

    Args:
        checkpoint: folder written by `save_pretrained`.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        sam_cache: folder of SAM's embeddings, read and filled; None: SAM is asked every time.
    """
    place = resolve_device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    loaded = load_pretrained(Path(checkpoint), place, dtype)
    cache = None
    if sam_cache is not None:
        if not loaded.model.sam.can_keep_embeddings:
            raise ValueError(f"{checkpoint} adds early features to SAM's embedding, which --sam_cache does not hold")
        weights = hash_weights(loaded.model.sam.image_encoder, dtype)
        preprocessing = SamPreprocessing(loaded.config.sam.image_size, str(dtype).removeprefix("torch."))
        cache = SamFeatureCache(sam_cache, weights, preprocessing)
    return Predictor(loaded.model, loaded.tokenizer, loaded.config, cache)


def load_grounded_model(checkpoint: str, device: str = "auto", sam_cache: str | None = None) -> GroundedModel:
    """Load a saved model behind the benchmark's contract.

    Args:
        checkpoint: folder written by `save_pretrained`.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        sam_cache: folder of SAM's embeddings, read and filled; None: SAM is asked once per image and run.
    """
    predictor = load_predictor(checkpoint, device, sam_cache)
    system = predictor.model.config.system
    return BatchedPlum(predictor, name=f"{system}:{Path(checkpoint).name}")
