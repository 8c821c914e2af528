"""Time of decoding masks beside the language model's forward, the paper's appendix C.4, for scripts/bench/eval.py."""

import csv
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from partonomy.images import load_image
from partonomy.models.contract import Role, Turn
from plum.inference.predictor import Predictor
from scripts.bench.device_clock import seconds_now
from scripts.bench.eval_world import EvaluationWorld

PAPER_TIMES = Path(__file__).resolve().parents[2] / "partonomy" / "paper_rows" / "feedback_seconds.csv"
NUM_REPEATS = 5


@torch.inference_mode()
def time_decoding(world: EvaluationWorld) -> dict[str, object]:
    """The comparison of the paper's appendix C.4, on the question whose answer names most parts.

    Our LLM forward is that of one row, the correct answer's, over image, question and answer; masks are decoded one
    after the other, as a conversation of its own: without feedback nothing would keep them from sharing one call, which
    is timed apart.
    """
    predictor = world.predictor
    question = max(world.questions, key=lambda question: len(question.correct_choice.part_spans))
    image = load_image(question.image_path, question.height, question.width)
    choice, turns = question.correct_choice, (Turn(Role.USER, question.text),)
    forced = predictor.answers.forced(predictor.slots((image,)), turns, choice.text, choice.part_spans)
    predictor.images.embeddings([predictor.images.find(image)])
    seconds = {"llm_forward": _median_seconds(predictor, lambda: predictor.score_rows(image, turns, [choice.text]))}
    states = predictor.score_rows(image, turns, [choice.text])[0]
    model = predictor.model
    feedback = model.feedback
    together = partial(predictor.mask_logits, image, states, forced.spans)

    def one_by_one() -> None:
        for span in forced.spans:
            predictor.mask_logits(image, states, [span])

    ways = (
        ("decoding_without_feedback", None, one_by_one),
        ("decoding_with_feedback", feedback, together),
        ("decoding_without_feedback_in_one_call", None, together),
    )
    for name, loop, decode in ways:
        model.feedback = loop
        seconds[name] = _median_seconds(predictor, decode) / len(forced.spans)
    model.feedback = feedback
    with PAPER_TIMES.open(encoding="utf-8", newline="") as file:
        quoted = {row["stage"]: float(row["seconds"]) for row in csv.DictReader(file)}
    return {
        "masks": len(forced.spans),
        "here": _shares(seconds),
        "quoted_from_the_paper": _shares(quoted),
    }


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds, and what decoding a mask adds to the LLM's forward in percent of it."""
    llm, without, with_feedback, *_ = seconds.values()
    return {name: round(value, 5) for name, value in seconds.items()} | {
        "percent_of_llm_without_feedback": round(100 * without / llm, 2),
        "percent_of_llm_with_feedback": round(100 * with_feedback / llm, 2),
    }


def _median_seconds(predictor: Predictor, work: Callable[[], object]) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(NUM_REPEATS + 1):
            start = seconds_now(predictor.device)
            work()
            times.append(seconds_now(predictor.device) - start)
    return statistics.median(times[1:])
