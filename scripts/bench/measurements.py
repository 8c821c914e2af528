"""Runs the measurements of one device, each in a process of its own, and keeps all results in one JSON file.

python scripts/bench/measurements.py SIZE ... [--output gpu.json] [--batch 6] [--steps 10] [--images 4]

Every measurement prints one JSON object: its name, command, wall seconds, and `result` or `failed`, the reason. What
fails (out of memory, over its time) does not stop the rest. The file holds the list of these objects and is written
anew after each. Order and sizes: a training step with and without cuDNN's attention first (scripts/bench/gpu.py), with
gradient checkpointing and without; then segmenters, evaluation and the loss of large vocabularies. On an H200 the
whole is meant to take about ten minutes; it has not been run on one.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import CLI

ROOT = Path(__file__).resolve().parents[2]
BENCH = Path("scripts") / "bench"
SMALL = ("tiny", "small")
"""Beginnings of the sizes that a CPU can run."""


@dataclass(frozen=True)
class Measurement:
    """A script of this folder with its arguments, and a name."""

    name: str
    script: str
    arguments: tuple[str, ...]


def main(
    sizes: list[str],
    *,
    output: str = "gpu.json",
    batch: int = 6,
    steps: int = 10,
    images: int = 4,
    limit: int = 240,
) -> None:
    """Run all measurements; exit status 1 if none succeeded.

    Args:
        sizes: Of models, as in scripts/bench/sizes.py.
        output: JSON file of all results.
        batch: Images a micro-batch.
        steps: Timed micro-batches.
        images: Images of the evaluation.
        limit: Seconds that a measurement may take.
    """
    found: list[dict[str, object]] = []
    for one in plan(sizes, batch, steps, images):
        found.append(run(one, limit))
        print(json.dumps(found[-1]), flush=True)
        Path(output).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not any("result" in one for one in found):
        raise SystemExit(1)


def plan(sizes: Sequence[str], batch: int, steps: int, images: int) -> list[Measurement]:
    """Return the measurements in their order, the most wanted first."""
    is_small = all(size.startswith(SMALL) for size in sizes)
    common = ("--batch", str(batch), "--steps", str(steps))
    measurements = [
        Measurement(
            f"step of {size}, gradient checkpointing {checkpointing}",
            "gpu.py",
            ("--size", size, *common, "--gradient_checkpointing", checkpointing),
        )
        for checkpointing in ("true", "false")
        for size in sizes
    ]
    for segmenter in ("small_sam", "small_sam2") if is_small else ("vit_h", "hiera_large"):
        arguments = ("--size", segmenter, "--batch", "2" if is_small else "8", "--repeats", "3")
        measurements.append(Measurement(f"image encoder {segmenter}", "segmenters.py", arguments))
    for size in (one for one in sizes if "calico" not in one):
        asked = ("--size", size, "--images", str(images), "--repeats", "1", "--parts", "masks,choices,decoding")
        measurements.append(Measurement(f"evaluation of {size}", "eval.py", asked))
        exact = ("--size", size, "--images", "1", "--parts", "masks", "--dtype", "float32")
        measurements.append(Measurement(f"records of {size} in float32", "eval.py", exact))
    rows = ("--rows", "256" if is_small else "9216")
    measurements.append(Measurement("language loss of 151,936 tokens", "vocabulary.py", rows))
    return measurements


def run(measurement: Measurement, limit: int) -> dict[str, object]:
    """Run a measurement and return its object; see the file's text."""
    command = [sys.executable, str(BENCH / measurement.script), *measurement.arguments]
    described: dict[str, object] = {"name": measurement.name, "command": " ".join(["python", *command[1:]])}
    started = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        printed = error.stderr.decode() if isinstance(error.stderr, bytes) else (error.stderr or "")
        return described | {"failed": f"over {limit} s", "printed": _json_lines(printed)}
    described["wall_seconds"] = round(time.perf_counter() - started, 1)
    results = _json_lines(done.stdout)
    if done.returncode == 0 and results:
        return described | {"result": results[-1]}
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "OutOfMemory" in line or "out of memory" in line), None)
    reason = reason or (lines[-1] if lines else "no output")
    return described | {"failed": f"exit status {done.returncode}: {reason[:500]}", "printed": _json_lines(done.stderr)}


def _json_lines(text: str) -> list[object]:
    """Return the JSON objects among the lines of an output."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return found


if __name__ == "__main__":
    sys.stderr.write(f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}\n")
    CLI(main, as_positional=True)
