"""A model's own answers, question by question and together, for scripts/bench/eval.py."""

import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from partonomy.models.contract import AnswerRequest, Generation, ImageBatch
from partonomy.structures import QuestionType
from plum.inference.image_store import EncodedImage
from plum.inference.partonomy_adapter import BatchedPlum
from plum.inference.predictor import MAX_NEW_TOKENS, Prediction
from plum.inference.question_batch import QuestionBatch
from scripts.bench.device_clock import seconds_now
from scripts.bench.eval_world import EvaluationWorld, ask_all
from scripts.bench.peak_memory import peak_bytes, reset_peak

WAYS = ("fast", "plain", "words_fast", "words_plain")


@dataclass
class ShownImage(EncodedImage):
    """An image as the towers read it, and as it is: `picture`, uint8 RGB (H, W, 3)."""

    picture: np.ndarray = field(kw_only=True)


class AnsweringPlum(BatchedPlum):
    """Writes every own answer that a run asks for in four ways, and hands on that of the fast one.

    Attributes:
        seconds: By way, of all answers since `begin`.
        peaks: By way, bytes.
        counts: Of answers and of differences between the ways, see `count_differences`.
    """

    def begin(self) -> None:
        """Forget what was measured."""
        self.seconds = dict.fromkeys(WAYS, 0.0)
        self.peaks = dict.fromkeys(WAYS, 0)
        self.counts = Counter[str]()

    def read_image(self, image: np.ndarray) -> EncodedImage:
        """Resize an image for both towers."""
        return ShownImage(**vars(super().read_image(image)), picture=image)

    def open_batch(self, images: Sequence[object]) -> ImageBatch:
        """Begin a batch."""
        return _AnswersOfBatch(self, [image for image in images if isinstance(image, ShownImage)])


class _AnswersOfBatch(QuestionBatch):
    """Questions about some images; the harness asks for own answers when all else has been asked."""

    def __init__(self, model: AnsweringPlum, images: Sequence[ShownImage]) -> None:
        super().__init__(model.predictor, images)
        self._model = model
        self._pictures = [image.picture for image in images]

    def generate(self, requests: Sequence[AnswerRequest], max_new_tokens: int = MAX_NEW_TOKENS) -> list[Generation]:
        """Answer in every way; `max_new_tokens` is the model's."""
        predictor, length = self._predictor, self._model.max_new_tokens
        asked = [(self._pictures[request.image], request.turns) for request in requests]
        with self._measured("fast"):
            together = super().generate(requests, length)
        with self._measured("plain"):
            alone = [predictor.generate(picture, turns, length) for picture, turns in asked]
        with self._measured("words_fast"):
            self.write_answers(requests, length)
        with self._measured("words_plain"):
            for picture, turns in asked:
                predictor.generate_text(picture, turns, length)
        self._model.counts += count_differences(alone, together)
        return together

    @contextmanager
    def _measured(self, way: str) -> Iterator[None]:
        device = self._predictor.device
        reset_peak(device)
        start = seconds_now(device)
        yield
        self._model.seconds[way] += seconds_now(device) - start
        self._model.peaks[way] = max(self._model.peaks[way], peak_bytes(device))


def compare_own_answers(
    world: EvaluationWorld, types: Collection[QuestionType], max_new_tokens: int, repeats: int
) -> dict[str, object]:
    """Write answers of all questions of some types both ways.

    Returns:
        `answers` and `answers_per_batch`; seconds per answer `plain` and `fast`, and of the words alone; their ratios;
        `masks` of the plain answers; `differing_texts`: answers of other words or tagged spans; `differing_masks`: of
        all others, masks with a pixel that differs; peak memory in MB.
    """
    model = AnsweringPlum(world.predictor, "fast", max_new_tokens=max_new_tokens)
    task = world.task(types)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    peaks = dict.fromkeys(WAYS, 0)
    for repeat in range(repeats + 1):
        model.begin()
        for _ in ask_all(model, task, world.batches):
            pass
        counts = model.counts
        for way in WAYS:
            peaks[way] = max(peaks[way], model.peaks[way])
            if repeat:  # the first one warms up
                seconds[way].append(model.seconds[way] / counts["answers"])
    found = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "answers": counts["answers"],
        "answers_per_batch": counts["answers"] / len(world.batches),
        **{f"seconds_{way}": round(value, 5) for way, value in found.items()},
        "ratio": round(found["plain"] / found["fast"], 2),
        "ratio_words": round(found["words_plain"] / found["words_fast"], 2),
        **{name: counts[name] for name in ("masks", "differing_texts", "differing_masks")},
        **{f"peak_mb_{way}": round(peaks[way] / 1e6) for way in WAYS},
    }


def count_differences(plain: Sequence[Prediction], fast: Sequence[Generation]) -> Counter[str]:
    """Count masks, answers of other words or spans, and of all others the masks that differ."""
    counts: Counter[str] = Counter()
    for alone, together in zip(plain, fast, strict=True):
        counts["answers"] += 1
        counts["masks"] += len(alone.masks)
        if (alone.text, alone.spans) == (together.text, together.spans):
            counts["differing_masks"] += int((alone.masks != together.masks).any((1, 2)).sum())
        else:
            counts["differing_texts"] += 1
    return counts
