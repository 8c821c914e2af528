"""Times choice scoring of every family of stock models: many questions at once against one choice row after another.

python scripts/bench/families.py [--families internvl,qwen3_vl] [--width 256] [--layers 8] [--questions 4] [--repeats 3]

`fast` is what a run of the benchmark does (plum/inference/question_batch.py): images and common beginnings of all
questions and choices once. `plain` scores question by question (plum/inference/predictor.py): the images are read again
and each choice is a full row. Models are scripts/bench/stock_checkpoints.py's, with tiny towers and a decoder of the
given size; LLaVA of PLUM's own form is left to scripts/bench/eval.py. The ways take turns in one process. A table is
printed; the last line is JSON: by family, median CPU seconds a question of both ways, `ratio` (plain / fast), tokens
of a question, and the largest deviation of a log-probability.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jsonargparse import CLI

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.models.contract import ChoiceRequest, Role, Turn
from partonomy.structures import ChoiceScore
from plum.checkpoints.stock_folder import read_stock_checkpoint
from plum.config import ModelConfig
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from plum.models.backbones.hf import FAMILIES
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from scripts.bench.stock_checkpoints import ARCHITECTURES, TextSizes

IMAGE = (48, 64)
"""Height and width of the images in pixels; the towers are tiny, and so are their numbers of tokens."""
CHOICES = (
    "It has a front wheel, a wing and a propeller.",
    "It has a front wheel, a wing and a tail fin.",
    "It has a front wheel and a door.",
    "It has a saddle, a wing and a propeller.",
    "It has a rudder and a front wheel.",
)
PARTS = ("wing", "wheel", "tail fin", "propeller", "door", "rudder")


def main(
    *,
    families: str = ",".join(sorted(FAMILIES)),
    width: int = 256,
    layers: int = 8,
    questions: int = 4,
    repeats: int = 3,
    seed: int = 0,
) -> None:
    """Print a table, and one JSON line last.

    Args:
        families: By transformers' `model_type`, separated by commas.
        width: Of the decoder's states.
        layers: Of the decoder.
        questions: About one image, asked together by the fast way.
        repeats: Timed runs of each way, in turn.
        seed: Of weights and the image.
    """
    wanted = families.split(",")
    if unknown := set(wanted) - FAMILIES.keys():
        raise SystemExit(f"unknown families {sorted(unknown)}; there are {', '.join(sorted(FAMILIES))}")
    result: dict[str, object] = {}
    print(f"{'family':<18}{'tokens':>8}{'plain':>12}{'fast':>12}{'ratio':>8}{'deviation':>12}")
    sizes = TextSizes(width, 3 * width, layers, 8, 4, max_positions=2048, deviation=0.02)
    with tempfile.TemporaryDirectory(prefix="bench_families_") as folder:
        for family in wanted:
            torch.manual_seed(seed)
            predictor = make_predictor(ARCHITECTURES[family](Path(folder) / family, sizes=sizes))
            found = compare(predictor, questions, repeats, seed)
            result[family] = found
            times = f"{1000 * found['plain_seconds']:>10.1f}ms{1000 * found['fast_seconds']:>10.1f}ms"
            line = f"{family:<18}{found['tokens']:>8.0f}{times}{found['ratio']:>8.2f}{found['deviation']:>12.1e}"
            print(line, flush=True)
    described = {"threads": torch.get_num_threads(), "width": width, "layers": layers, "questions": questions}
    print(json.dumps(described | result))


def make_predictor(folder: Path) -> Predictor:
    """Return PLUM with random weights over the architecture of a checkpoint."""
    found = read_stock_checkpoint(folder)
    tiny = tiny_model_config(len(found.tokenizer))
    config = with_special_tokens(ModelConfig(hf=found.config, sam=tiny.sam, tagger=tiny.tagger), found.tokenizer)
    return Predictor(build_model(config).eval(), found.tokenizer, config)


@torch.inference_mode()
def compare(predictor: Predictor, questions: int, repeats: int, seed: int) -> dict[str, float]:
    """Score the same choices both ways; see the file's text for what is returned."""
    image = np.random.default_rng(seed).integers(0, 256, (*IMAGE, 3), dtype=np.uint8)
    asked = [
        (Turn(Role.USER, f"What visible parts does the object with a {PARTS[n % len(PARTS)]} have, {n}?"),)
        for n in range(questions)
    ]
    requests = [ChoiceRequest(0, turns, CHOICES, ((),) * len(CHOICES)) for turns in asked]

    def fast() -> list[list[ChoiceScore]]:
        predictor.images.keep(())
        return QuestionBatch(predictor, [predictor.images.read(image)]).score_choices(requests)

    def plain() -> list[list[ChoiceScore]]:
        scores = []
        for turns in asked:
            predictor.images.keep(())  # the procedure reads the image again for every question
            scores.append(predictor.score_choices(image, turns, CHOICES))
        return scores

    ways: dict[str, Callable[[], list[list[ChoiceScore]]]] = {"plain": plain, "fast": fast}
    scores = {name: [score for of_question in way() for score in of_question] for name, way in ways.items()}
    pairs = list(zip(scores["plain"], scores["fast"], strict=True))
    deviation = max(
        max(
            abs(one.answer_log_prob - other.answer_log_prob),
            abs(one.conversation_log_prob - other.conversation_log_prob),
        )
        for one, other in pairs
    )
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.process_time()
            way()
            times[name].append((time.process_time() - started) / questions)
    seconds = {f"{name}_seconds": statistics.median(values) for name, values in times.items()}
    prompt = predictor.answers.prompt(asked[0], predictor.slots((image,)))
    return {
        "tokens": len(prompt.input_ids),
        **seconds,
        "ratio": seconds["plain_seconds"] / seconds["fast_seconds"],
        "deviation": deviation,
    }


if __name__ == "__main__":
    CLI(main, as_positional=False)
