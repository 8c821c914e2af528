"""Times the evaluation of PLUM with random weights, the plain way and the fast way, and shows equal records.

python scripts/bench/eval.py --size tiny|small|7b|13b|qwen3_vl_4b|small_qwen3_vl --images N [--types five|ten]
    [--parts masks,choices,...]

Both ways go through the harness (partonomy/harness/asking.py).
Plain (plum/inference/plain_reference.py), per question: the image file is decoded and resized again; CLIP reads the
image; the five choices are five full rows of one batch (two such batches for the part-whole types); SAM's encoder runs
once per question; the spans of all five choices are decoded one at a time, with feedback. SAM's layers compute as
segment_anything's own do. Kinder than the authors' code: scores and masks share one forward, and no logits are computed
for the image; the harness decodes the next files in threads.
Fast: what validate_partonomy.py runs (plum/inference/question_batch.py). The other benchmarks are measured by
scripts/bench/benchmarks.py.

Questions are real ones, of the embedded data set drawn into a temporary folder. The last line is one JSON object:
- `masks` and `choices` (choice scoring alone): seconds per question plain and fast, their ratio, LLM tokens and SAM
  encodes per question, largest deviation of a log-probability, mask pixels that differ and those of them whose plain
  logit is not within 1e-4 of zero, seconds per question of the components, peak memory in MB. The two ways take turns;
  the medians count. Components are timed in a pass of their own, which on a GPU waits for the device at each of them;
- `answers`: the model's own answers, of the type that a run generates by `default` (an answer an image) and of `all`,
  each of at most `--answer_tokens` tokens with the masks of what it tags: plain, one by one (`Predictor`: the prompt
  read by transformers' `generate`, then prompt and answer once more for states and masks); fast, those of a batch of
  images together, from the keys and values that are there. Keys: scripts/bench/eval_answers.py. Random weights tag far
  more than trained ones, hence the times of words alone, and hardly ever end an answer: all are equally long here.
  Where two tokens are as likely, rounding decides; in bfloat16 it does so often;
- `decoding`: the paper's own comparison (appendix C.4), beside its quoted numbers: the LLM's forward of a question, and
  decoding one mask without and with feedback, one after the other; without feedback also all of them in one call.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import CLI

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.harness.ranks import Batch
from partonomy.masks import decode_mask, encode_masks
from partonomy.models.contract import ImageBatch, MaskRequest, Turn
from partonomy.structures import RLE, CharSpan, QuestionType
from plum.inference.image_store import EncodedImage
from plum.inference.partonomy_adapter import BatchedPlum, resolve_device
from plum.inference.plain_reference import PlainModel
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from scripts.bench.eval_answers import compare_own_answers
from scripts.bench.eval_counters import Counters, watch
from scripts.bench.eval_decoding import time_decoding
from scripts.bench.eval_world import Dtype, EvaluationWorld, ask_questions, build_world, draw_questions
from scripts.bench.peak_memory import peak_bytes, reset_peak
from scripts.bench.sizes import Size

FULL_SIDE = 640
IMAGE_SIZES = {"tiny": 192, "small": 480, "small_qwen3_vl": 480, "small_calico": 480}
"""Sides of the drawn images in pixels, where they are not `FULL_SIDE`."""
WARM_UP_QUESTIONS = 1
NEAR_ZERO = 1e-4
"""Logits whose sign rounding may turn, in float32."""


class ChoicesOnlyBatch(QuestionBatch):
    """Scores choices; predicts no mask, which records count as missing."""

    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]:
        """Return no masks."""
        return [self._no_masks(request) for request in requests]


class ChoicesOnly(BatchedPlum):
    """The fast way without masks."""

    def open_batch(self, images: Sequence[object]) -> ImageBatch:
        """Begin a batch."""
        return ChoicesOnlyBatch(self.predictor, [image for image in images if isinstance(image, EncodedImage)])


class WatchedPlain(PlainModel):
    """The plain way; notes the pixels of its masks whose logit is near zero, by question, while it is asked to."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor)
        self.is_noting = False
        self.near_zero: dict[str, tuple[RLE, ...]] = {}

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return the masks of the given answer."""
        masks = super().segment(image, turns, answer, spans)
        if self.is_noting:
            assert self.hint is not None
            assert self.mask_logits is not None
            near_zero = (self.mask_logits.abs() < NEAR_ZERO).cpu().numpy()
            self.near_zero[self.hint.item_id] = encode_masks(near_zero)
        return masks


class PlainChoicesOnly(WatchedPlain):
    """The plain way without masks."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return no masks."""
        return np.zeros((0, *image.shape[:2]), dtype=bool)


def main(
    size: Size = "tiny",
    images: int = 2,
    *,
    types: Literal["five", "ten"] = "five",
    parts: str = "masks,choices,answers,decoding",
    answer_tokens: int = 32,
    repeats: int = 1,
    device: str = "auto",
    dtype: Dtype = "auto",
    data: str | None = None,
    seed: int = 0,
) -> None:
    """Print one JSON line last.

    Args:
        size: of the model.
        images: number of images, each with a question of every type.
        types: the five of the paper's tables, or all ten.
        parts: what to measure, comma-separated: masks (scores and masks), choices (scores alone), answers, decoding.
        answer_tokens: longest own answer.
        repeats: timed runs of each way, in turn.
        device: auto, cpu or cuda.
        dtype: of the weights; auto is float32 on a CPU, bfloat16 on a GPU.
        data: folder to keep the drawn questions in; default: a temporary one.
        seed: of the random weights.
    """
    wanted = parts.split(",")
    if unknown := set(wanted) - {"masks", "choices", "answers", "decoding"}:
        raise SystemExit(f"unknown parts {sorted(unknown)}; there are masks, choices, answers and decoding")
    torch.backends.cudnn.allow_tf32 = False  # equality is shown in float32
    with tempfile.TemporaryDirectory(prefix="bench_eval_") as temporary:
        folder = Path(data or temporary)
        draw_questions(folder, images, types, IMAGE_SIZES.get(size, FULL_SIDE))
        world = build_world(size, folder, images, types, resolve_device(device), seed=seed, dtype=dtype)
        counters = watch(world.predictor.model)
        result: dict[str, object] = {
            "size": size,
            "images": images,
            "questions": world.num_questions,
            "device": world.predictor.device.type,
            "dtype": str(next(world.predictor.model.parameters()).dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
        if "masks" in wanted:
            fast = BatchedPlum(world.predictor, "fast")
            result["masks"] = compare(world, counters, WatchedPlain(world.predictor), fast, repeats)
        if "choices" in wanted:
            plain = PlainChoicesOnly(world.predictor)
            result["choices"] = compare(world, counters, plain, ChoicesOnly(world.predictor, "fast"), repeats)
        if "answers" in wanted:
            kinds = {"default": (QuestionType.IDENTIFICATION_WITH_LABEL,), "all": tuple(QuestionType)}
            result["answers"] = {
                name: compare_own_answers(world, kind, answer_tokens, repeats) for name, kind in kinds.items()
            }
        if "decoding" in wanted:
            result["decoding"] = time_decoding(world)
    print(json.dumps(result))


def compare(
    world: EvaluationWorld, counters: Counters, plain: WatchedPlain, fast: BatchedPlum, repeats: int
) -> dict[str, object]:
    """Answer all questions both ways; see the file's text for what is returned."""
    num_questions, task, device = world.num_questions, world.task(), world.predictor.device

    def answer_fast(batches: Sequence[Batch] = world.batches) -> list[QuestionRecord]:
        return ask_questions(fast, task, batches)

    def answer_plain(batches: Sequence[Batch] = world.single_batches) -> list[QuestionRecord]:
        return ask_questions(plain, task, batches)

    answer_plain(world.single_batches[:WARM_UP_QUESTIONS])
    answer_fast(world.batches[:1])
    fast_times, plain_times = [], []
    for _ in range(repeats):
        reset_peak(device)
        start = time.perf_counter()
        fast_records = answer_fast()
        fast_times.append((time.perf_counter() - start) / num_questions)
        fast_peak = peak_bytes(device)
        reset_peak(device)
        start = time.perf_counter()
        answer_plain()
        plain_times.append((time.perf_counter() - start) / num_questions)
        plain_peak = peak_bytes(device)
    with counters.counting():
        answer_fast()
        fast_counts = counters.per_question(num_questions)
    plain.is_noting = True
    with counters.counting():
        plain_records = answer_plain()
        plain_counts = counters.per_question(num_questions)
    fast_seconds, plain_seconds = statistics.median(fast_times), statistics.median(plain_times)
    return {
        "seconds_plain": round(plain_seconds, 5),
        "seconds_fast": round(fast_seconds, 5),
        "ratio": round(plain_seconds / fast_seconds, 2),
        "deviation": compare_records(plain_records, fast_records, plain.near_zero),
        "sam_encodes_per_image": fast_counts["sam_encodes"] * num_questions / len(world.images),
        "plain": plain_counts,
        "fast": fast_counts,
        "peak_mb_plain": round(plain_peak / 1e6),
        "peak_mb_fast": round(fast_peak / 1e6),
    }


def compare_records(
    plain: Sequence[QuestionRecord], fast: Sequence[QuestionRecord], near_zero: Mapping[str, Sequence[RLE]]
) -> dict[str, float]:
    """Deviations between records of the same questions.

    Args:
        plain: Of the plain way.
        fast: Of the fast way.
        near_zero: By question, of each mask of the plain way the pixels whose logit is near zero.

    Raises:
        ValueError: A question was asked in another way.
    """
    by_id = {record.item_id: record for record in fast}
    largest, num_pixels, num_far = 0.0, 0, 0
    for record in plain:
        other = by_id[record.item_id]
        for ours, theirs in ((record.parts_choice, other.parts_choice), (record.object_choice, other.object_choice)):
            assert (ours is None) == (theirs is None)
            if ours is None or theirs is None:
                continue
            assert ours.scores is not None
            assert theirs.scores is not None
            for left, right in zip(ours.scores, theirs.scores, strict=True):
                if (left.answer_tokens, left.conversation_tokens) != (right.answer_tokens, right.conversation_tokens):
                    raise ValueError(f"question {record.item_id}: choices were read differently")
                largest = max(largest, abs(left.answer_log_prob - right.answer_log_prob))
                largest = max(largest, abs(left.conversation_log_prob - right.conversation_log_prob))
        assert record.segmentation is not None
        assert other.segmentation is not None
        masks = (record.segmentation.masks, other.segmentation.masks, near_zero.get(record.item_id, ()))
        for mask, expected, near in zip(*masks, strict=True):
            differs = decode_mask(mask) != decode_mask(expected)
            num_pixels += int(differs.sum())
            num_far += int((differs & ~decode_mask(near)).sum())
    return {"log_prob": largest, "mask_pixels": num_pixels, "mask_pixels_beyond_rounding": num_far}


if __name__ == "__main__":
    CLI(main, as_positional=False)
