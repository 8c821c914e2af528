"""Adapter of PLUM and its sister systems to the benchmarks' model contract (`partonomy.models.contract`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from partonomy.models.contract import (
    AnswerRequest,
    ChoiceRequest,
    ChoiceScore,
    Generation,
    GroundedPhrase,
    GroundedReply,
    ImageBatch,
    MaskRequest,
    ReplyRequest,
    Role,
    Turn,
)
from partonomy.structures import CharSpan
from plum.checkpoints.hub import find_checkpoint
from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.store import load_pretrained
from plum.data.sam_feature_cache import open_cache
from plum.inference.image_store import EncodedImage
from plum.inference.predictor import MAX_NEW_TOKENS, Predictor
from plum.inference.question_batch import QuestionBatch
from plum.inputs.image_transforms import segmenter_input
from plum.models.backbones.lora import adapters_off

KEPT_IMAGES = 16
"""Images that stay encoded between questions about several of them: an image of pairs is in many pairs."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PlumModel:
    """A Predictor that implements the contract, marked answers included (`contract.MarkingModel`).

    Args:
        predictor: the loaded model.
        name: name in the results.
        is_base: switch the adapters off. Tagger and mask decoder stay as trained, so the masks then show what these
            alone achieve.
        max_new_tokens: maximum length of the model's own answer.
    """

    def __init__(
        self, predictor: Predictor, name: str, *, is_base: bool = False, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> None:
        self.predictor = predictor
        self.name = name
        self.is_base = is_base
        self.max_new_tokens = max_new_tokens
        self.protocol_note = predictor.notation.protocol_note
        self.has_mask_per_phrase = predictor.notation.has_mask_per_phrase
        parameter = next(predictor.model.parameters())
        self.dtype, self.device = str(parameter.dtype).removeprefix("torch."), str(parameter.device)

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return one score per choice."""
        with self.adapters():
            return self.predictor.score_choices(image, turns, choices)

    def score_marked_choices(
        self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str], phrases: Sequence[Sequence[CharSpan]]
    ) -> list[ChoiceScore]:
        """Return one score per choice, with [SEG] tokens after its phrases if the system writes them."""
        with self.adapters():
            return self.predictor.score_choices(image, turns, choices, phrases)

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return one mask per span of the given answer, bool (len(spans), H, W)."""
        with self.adapters():
            return self.predictor.segment(image, turns, answer, spans).masks

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return the model's own answer, its tagged spans and their masks."""
        with self.adapters():
            found = self.predictor.generate(image, turns, self.max_new_tokens)
        is_cut = found.finish_reason == "length"
        return Generation(found.text, found.spans, found.masks, found.mask_confidences, is_cut)

    def answer_images(self, images: Sequence[np.ndarray], question: str) -> GroundedReply:
        """Return the model's own answer to a question about several images, with masks in reading order."""
        self.predictor.images.reserve(KEPT_IMAGES)
        with self.adapters():
            found = self.predictor.generate_about(images, (Turn(Role.USER, question),), self.max_new_tokens)
        text = self.predictor.notation.words(found[0].text)
        masks = [
            (span, number, mask)
            for number, one in enumerate(found)
            for span, mask in zip(one.spans, one.masks, strict=True)
        ]
        masks.sort(key=lambda one: (one[0].start, one[0].end, one[1]))
        phrases = [GroundedPhrase(found[0].text[span.start : span.end], number, mask) for span, number, mask in masks]
        return GroundedReply(text, tuple(phrases), found[0].finish_reason == "length")

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the model's own answer as plain text, without masks."""
        with self.adapters():
            return self.predictor.generate_text(image, turns, self.max_new_tokens)

    @contextmanager
    def adapters(self) -> Iterator[None]:
        """Switch the adapters off within the context if `is_base`."""
        if self.is_base:
            with adapters_off(self.predictor.model.backbone.network):
                yield
        else:
            yield


class BatchedPlum(PlumModel):
    """A PlumModel that also takes many questions about several images at once (`contract.BatchedModel`), as runs do."""

    def read_image(self, image: np.ndarray) -> EncodedImage:
        """Resize an image for both towers; runs on the CPU."""
        return self.predictor.images.read(image)

    def open_batch(self, images: Sequence[object]) -> ImageBatch:
        """Open a batch of images from `read_image`."""
        with self.adapters():
            batch = QuestionBatch(self.predictor, [image for image in images if isinstance(image, EncodedImage)])
        return _PlumBatch(self, batch)


class _PlumBatch:
    """A batch of questions to the model, with or without its adapters; implements `contract.ImageBatch`."""

    def __init__(self, model: PlumModel, batch: QuestionBatch) -> None:
        self._model = model
        self._batch = batch

    def score_choices(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]:
        with self._model.adapters():
            return self._batch.score_choices(requests)

    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]:
        with self._model.adapters():
            return self._batch.segment(requests)

    def generate(self, requests: Sequence[AnswerRequest]) -> list[Generation]:
        with self._model.adapters():
            return self._batch.generate(requests, self._model.max_new_tokens)

    def reply(self, requests: Sequence[ReplyRequest]) -> list[str]:
        with self._model.adapters():
            return self._batch.reply(requests, self._model.max_new_tokens)


def check_has_adapters(checkpoint: Path) -> None:
    """Check that a saved model has adapters to switch off.

    Raises:
        ValueError: the model has no adapters: they were merged, or it never had any.
    """
    if read_model_config(checkpoint).lora is None:
        raise ValueError(
            f"--base: {checkpoint} has no adapters to switch off. Give the checkpoint before its export, or evaluate "
            "the model that it was trained from without --base"
        )


def resolve_device(device: str) -> torch.device:
    """Resolve "auto" to the first GPU, or to the CPU without one; any other value is torch's name of a device.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(_describe_unknown(device)) from error
    if place.type not in ("cpu", "cuda", "mps"):
        raise ValueError(_describe_unknown(device))
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices; pass --device cpu")
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device!r}: torch sees no Apple GPU; pass --device cpu")
    return place


def _describe_unknown(device: str) -> str:
    return (
        f"device {device!r} is none of auto, cpu, cuda, cuda:N and mps; a model runs on one device, so start one "
        "process per GPU (`plum predict` on parts of the images; benchmarks with --num_procs)"
    )


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Resolve "auto" to bfloat16 on a CUDA GPU and float32 elsewhere.

    Raises:
        ValueError: the dtype is none of auto, float32, bfloat16 and float16.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load_predictor(
    checkpoint: str, device: str = "auto", sam_cache: str | None = None, dtype: str = "auto"
) -> Predictor:
    """Load a saved model for inference.

    Args:
        checkpoint: folder written by `save_pretrained`, or the name of such a model on the Hugging Face Hub.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", ...
        sam_cache: folder that caches SAM's embeddings, read and filled; None: no cache on disk.
        dtype: "auto" (bfloat16 on a GPU, float32 elsewhere), "float32", "bfloat16" or "float16".

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no usable model, device or dtype do not exist, or `sam_cache` is given, but the
            model's embeddings cannot be cached.
    """
    place = resolve_device(device)
    chosen = resolve_dtype(dtype, place)
    loaded = load_pretrained(find_checkpoint(checkpoint), place, chosen)
    cache = None
    if sam_cache is not None:
        if not loaded.model.sam.can_keep_embeddings:
            raise ValueError(f"{checkpoint} adds early features to SAM's embedding, which --sam_cache does not hold")
        cache = open_cache(sam_cache, loaded.model.sam, segmenter_input(loaded.config.sam), chosen)
    return Predictor(loaded.model, loaded.tokenizer, loaded.config, cache)


def load_grounded_model(
    checkpoint: str,
    device: str = "auto",
    sam_cache: str | None = None,
    *,
    is_base: bool = False,
    has_feedback: bool = True,
    max_new_tokens: int = MAX_NEW_TOKENS,
    dtype: str = "auto",
) -> BatchedPlum:
    """Load a saved model that implements the contract.

    Args:
        checkpoint: folder written by `save_pretrained`.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", ...
        sam_cache: folder that caches SAM's embeddings, read and filled; None: SAM runs once per image and run.
        is_base, max_new_tokens: see `PlumModel`.
        has_feedback: False drops the model's mask feedback, so that each mask is decoded without the earlier ones.
        dtype: see `load_predictor`.

    Raises:
        ValueError: `is_base`, but the model has no adapters to switch off; not `has_feedback`, but the model has no
            mask feedback; or see `load_predictor`.
    """
    if is_base:
        check_has_adapters(Path(checkpoint))
    predictor = load_predictor(checkpoint, device, sam_cache, dtype)
    if not has_feedback:
        if predictor.model.feedback is None:
            raise ValueError(f"--no_feedback: {checkpoint} has no mask feedback to switch off; omit the flag")
        predictor.model.feedback = None
    off = (("adapters off", is_base), ("feedback off", not has_feedback))
    words = [f"{predictor.model.config.system}:{Path(checkpoint).name}", *(part for part, is_off in off if is_off)]
    return BatchedPlum(predictor, ", ".join(words), is_base=is_base, max_new_tokens=max_new_tokens)
