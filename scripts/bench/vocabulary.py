"""Peak memory and time of the language loss of large vocabularies: in pieces, against torch's own in one piece.

python scripts/bench/vocabulary.py [--rows 9216] [--vocabulary 151936] [--ways whole,pieces,deepspeed]

`whole` is cross-entropy of a float32 copy of the logits, `pieces` the loss of training (plum/losses/losses.py, in
pieces whatever the size), `deepspeed` DeepSpeed's chunked cross-entropy. All start from bfloat16 states [rows, 64] and
an output layer of as many columns; the logits and their gradient are in every peak. Each way runs in a process of its
own on a CPU, in the same one on a GPU. The last line is JSON: of each way the peak above what was there before
(`peak_gb`), CPU seconds, the loss, and the largest difference of its gradients from those of `whole`, relative to the
largest gradient.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from jsonargparse import CLI
from torch import Tensor
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plum.losses import losses
from scripts.bench.peak_memory import peak_bytes, reset_peak

WIDTH = 64
WAYS = ("whole", "pieces", "deepspeed")


def main(
    *,
    rows: int = 9216,
    vocabulary: int = 151_936,
    ways: str = ",".join(WAYS),
    seed: int = 0,
    result: str | None = None,
) -> None:
    """Print one JSON line.

    Args:
        rows: Supervised tokens.
        vocabulary: Tokens of the vocabulary.
        ways: What to measure, separated by commas.
        seed: Of states, weights and labels.
        result: File for the gradients of a single way (used by the processes of a CPU's measurement).
    """
    chosen = ways.split(",")
    if unknown := set(chosen) - set(WAYS):
        raise SystemExit(f"unknown ways {sorted(unknown)}; there are {', '.join(WAYS)}")
    if result is not None:
        found, gradients = measure(chosen[0], rows, vocabulary, seed)
        torch.save(gradients, result)
        print(json.dumps(found))
        return
    measured: dict[str, dict[str, float]] = {}
    reference: list[Tensor] | None = None
    for way in chosen:
        if torch.cuda.is_available():
            measured[way], gradients = measure(way, rows, vocabulary, seed)
        else:
            measured[way], gradients = measure_apart(way, rows, vocabulary, seed)
        reference = gradients if reference is None else reference
        pairs = list(zip(gradients, reference, strict=True))
        largest = max(float((one.float() - other.float()).abs().max()) for one, other in pairs)
        measured[way]["gradient_deviation"] = largest / max(float(other.abs().max()) for _, other in pairs)
    print(json.dumps({"rows": rows, "vocabulary": vocabulary, **measured}))


def measure_apart(way: str, rows: int, vocabulary: int, seed: int) -> tuple[dict[str, float], list[Tensor]]:
    """Measure a way in a process of its own, because a CPU's allocator keeps what an earlier one freed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradients.pt"
        words = ["--rows", str(rows), "--vocabulary", str(vocabulary), "--ways", way, "--seed", str(seed)]
        command = [sys.executable, __file__, *words, "--result", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{way}: {done.stderr[-500:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found, torch.load(path, weights_only=True)


def measure(way: str, rows: int, vocabulary: int, seed: int) -> tuple[dict[str, float], list[Tensor]]:
    """Return a way's numbers, and the gradients of states and output layer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(seed)
    dtype = torch.bfloat16
    states = torch.randn(rows, WIDTH, generator=generator, device=device).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, WIDTH, generator=generator, device=device).div(WIDTH**0.5).to(dtype)
    weight.requires_grad_()
    labels = torch.randint(vocabulary, (rows,), generator=generator, device=device)
    reset_peak(device)
    before, started = peak_bytes(device), time.process_time()
    loss = loss_of(way, states, weight, labels)
    loss.backward()
    found = {
        "loss": float(loss.detach()),
        "peak_gb": (peak_bytes(device) - before) / 1e9,
        "logits_gb": rows * vocabulary * dtype.itemsize / 1e9,
        "cpu_seconds": time.process_time() - started,
    }
    assert states.grad is not None
    assert weight.grad is not None
    return found, [states.grad.cpu(), weight.grad.cpu()]


def loss_of(way: str, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return a way's mean cross-entropy."""
    logits = states @ weight.T
    if way == "whole":
        return cross_entropy(logits.float(), labels)
    if way == "pieces":
        losses.MAX_WHOLE_LOGITS = 0
        return losses.language_loss(logits, labels)
    from deepspeed.runtime.chunked_cross_entropy import chunked_cross_entropy  # noqa: PLC0415  (seconds)

    return chunked_cross_entropy(logits, labels)


if __name__ == "__main__":
    CLI(main, as_positional=False)
