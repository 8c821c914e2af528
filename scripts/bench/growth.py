"""How the cost of an evaluation grows.

python scripts/bench/growth.py [--images 100,1000] [--parts images,choices,ranks]

Random weights, the fast path, drawn questions of all ten types. The last line is one JSON object:
- `images`: seconds and CPU seconds per question (the latter hardly depend on what else runs), each number of images in
  a process of its own, and its memory in MB when model and questions are read and at its peak, records written, joined
  and summed up; flat is good;
- `choices`: LLM tokens and seconds per question with 5, 10 and 20 choices (the parts of other questions' wrong answers,
  after the question's own beginning), and what a further choice costs between the two steps: equal is linear;
- `ranks`: questions per second of one and of two processes, one thread each, start-up left out (the time of twice the
  images minus that of the images), and their ratio.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from jsonargparse import CLI

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.benchmarks.task import Record
from partonomy.harness.records import RecordWriter
from partonomy.harness.run_folder import RECORDS_FILE, codec_of, merge_records
from partonomy.harness.summary import summarize
from partonomy.structures import CharSpan, Choice, Question
from plum.checkpoints.store import save_pretrained
from plum.inference.partonomy_adapter import BatchedPlum, resolve_device
from scripts.bench.eval_counters import watch
from scripts.bench.eval_world import EvaluationWorld, ask_all, build_world, draw_questions
from scripts.bench.peak_memory import peak_bytes
from scripts.bench.sizes import Size

ROOT = Path(__file__).resolve().parents[2]
IMAGE_SIZE = 192
CPU = torch.device("cpu")
NUM_CHOICES = (5, 10, 20)
IMAGES_FOR_CHOICES = 8


def main(
    size: Size = "tiny",
    images: str = "100,1000",
    *,
    parts: str = "images,choices,ranks",
    rank_images: int = 48,
    device: str = "auto",
    data: str | None = None,
    seed: int = 0,
) -> None:
    """Print one JSON line last.

    Args:
        size: of the model.
        images: numbers of images, comma-separated.
        parts: what to measure, comma-separated.
        rank_images: images of the comparison of one with two processes.
        device: auto, cpu or cuda.
        data: folder with drawn questions: only those of the first number of images are answered, in this process.
        seed: of the random weights.
    """
    counts = [int(count) for count in images.split(",")]
    wanted = parts.split(",")
    if unknown := set(wanted) - {"images", "choices", "ranks"}:
        raise SystemExit(f"unknown parts {sorted(unknown)}; there are images, choices and ranks")
    if data is not None:
        print(json.dumps(measure_images(size, Path(data), counts[0], device, seed)))
        return
    result: dict[str, object] = {"size": size}
    with tempfile.TemporaryDirectory(prefix="bench_growth_") as temporary:
        folder = Path(temporary)
        if "images" in wanted:
            result["images"] = [_in_own_process(size, folder / f"images_{n}", n, device, seed) for n in counts]
        if "choices" in wanted:
            result["choices"] = measure_choices(size, folder / "choices", device, seed)
        if "ranks" in wanted:
            result["ranks"] = measure_ranks(size, folder / "ranks", rank_images, seed)
    print(json.dumps(result))


def measure_images(size: Size, folder: Path, images: int, device: str, seed: int) -> dict[str, object]:
    """Answer all questions of so many images, and end the run as every run ends."""
    world = build_world(size, folder, images, "ten", resolve_device(device), seed=seed)
    read = peak_bytes(CPU)
    _answer(dataclasses.replace(world, images=world.images[: world.images_per_batch]))  # warm up
    start, cpu = time.perf_counter(), time.process_time()
    with RecordWriter(folder / RECORDS_FILE) as writer:
        for record in _records(world):
            writer.write(record)
    answered = time.perf_counter()
    cpu_answered = time.process_time()
    task = world.task()
    records = merge_records(folder, [question.question_id for question in world.questions], codec_of(task))
    assert records is not None
    summarize(task, records, {}, seed)
    return {
        "images": images,
        "questions": world.num_questions,
        "seconds_per_question": round((answered - start) / world.num_questions, 5),
        "cpu_seconds_per_question": round((cpu_answered - cpu) / world.num_questions, 5),
        "ending_seconds": round(time.perf_counter() - answered, 3),
        "read_mb": round(read / 1e6),
        "peak_mb": round(peak_bytes(CPU) / 1e6),
    }


def _in_own_process(size: Size, folder: Path, images: int, device: str, seed: int) -> dict[str, object]:
    """`measure_images`, with nothing else in the process's memory."""
    draw_questions(folder, images + images // 4, "ten", IMAGE_SIZE)  # some images lack a question of some type
    command = [sys.executable, __file__, "--size", size, "--images", str(images), "--data", str(folder)]
    line: dict[str, object] = json.loads(_run([*command, "--device", device, "--seed", str(seed)]).splitlines()[-1])
    return line


def measure_choices(size: Size, folder: Path, device: str, seed: int) -> dict[str, object]:
    """Answer the same questions with more and more choices."""
    draw_questions(folder, 2 * IMAGES_FOR_CHOICES, "ten", IMAGE_SIZE)
    world = build_world(size, folder, IMAGES_FOR_CHOICES, "ten", resolve_device(device), seed=seed)
    counters = watch(world.predictor.model)
    _answer(world)  # warm up
    lines = []
    for count in NUM_CHOICES:
        with counters.counting():
            seconds = _answer(with_choices(world, count))
        tokens = counters.llm_tokens / world.num_questions
        lines.append({"choices": count, "llm_tokens": round(tokens, 1), "seconds_per_question": round(seconds, 5)})
    steps = [
        {key: (after[key] - before[key]) / (after["choices"] - before["choices"]) for key in before}
        for before, after in pairwise(lines)
    ]
    return {
        "lines": lines,
        "tokens_per_further_choice": [round(step["llm_tokens"], 2) for step in steps],
        "seconds_per_further_choice": [round(step["seconds_per_question"], 6) for step in steps],
    }


def with_choices(world: EvaluationWorld, count: int) -> EvaluationWorld:
    """Give every question so many choices: its own, then the parts of other questions' wrong answers of its type."""
    questions = world.questions

    def extend(question: Question) -> Question:
        correct = question.correct_choice
        beginning = correct.text[: correct.part_spans[0].start]
        texts = {choice.text for choice in question.choices}
        choices = list(question.choices)
        for other in questions:
            for choice in other.choices if other.question_type is question.question_type else ():
                borrowed = begin_with(beginning, choice)
                if len(choices) < count and not choice.is_correct and borrowed.text not in texts:
                    texts.add(borrowed.text)
                    choices.append(borrowed)
        if len(choices) < count:
            raise ValueError(f"only {len(choices)} choices of {count} for {question.question_id}: draw more images")
        return dataclasses.replace(question, choices=tuple(choices))

    return dataclasses.replace(world, images=tuple(tuple(map(extend, image)) for image in world.images))


def begin_with(beginning: str, choice: Choice) -> Choice:
    """Put a choice's parts after another beginning."""
    cut = choice.part_spans[0].start
    moved = len(beginning) - cut
    spans = tuple(CharSpan(span.start + moved, span.end + moved) for span in choice.part_spans)
    return dataclasses.replace(choice, text=beginning + choice.text[cut:], part_spans=spans)


def measure_ranks(size: Size, folder: Path, images: int, seed: int) -> dict[str, object]:
    """Run validate_partonomy.py with one and with two processes."""
    draw_questions(folder, 2 * images, "ten", IMAGE_SIZE)
    world = build_world(size, folder, 1, "ten", torch.device("cpu"), seed=seed)
    save_pretrained(world.predictor.model, world.predictor.tokenizer, folder / "model", "Random weights.")
    rates = {}
    for num_procs in (1, 2):
        seconds = []
        for limit in (images, 2 * images):
            output = folder / f"run_{num_procs}_{limit}"
            command = [sys.executable, "validate_partonomy.py", "--model", "plum", "--generate", "none"]
            command += ["--checkpoint", str(folder / "model"), "--questions", str(folder / "train")]
            command += ["--limit", str(limit), "--num_procs", str(num_procs)]
            command += ["--output", str(output), "--device", "cpu"]
            start = time.perf_counter()
            _run(command)
            records = (output / "records.jsonl").read_text(encoding="utf-8").count("\n")
            seconds.append((time.perf_counter() - start, records))
        (short, fewer), (long, more) = seconds
        rates[num_procs] = (more - fewer) / (long - short)
    return {
        "questions_per_second_one": round(rates[1], 2),
        "questions_per_second_two": round(rates[2], 2),
        "ratio": round(rates[2] / rates[1], 2),
    }


def _answer(world: EvaluationWorld) -> float:
    """Seconds per question of the fast path."""
    start = time.perf_counter()
    for _ in _records(world):
        pass
    return (time.perf_counter() - start) / world.num_questions


def _records(world: EvaluationWorld) -> Iterator[Record]:
    return ask_all(BatchedPlum(world.predictor, "fast"), world.task(), world.batches)


def _run(command: list[str]) -> str:
    """Run a command of this repository with one thread; its errors are shown."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    CLI(main, as_positional=False)
