"""`python -m plum teacher-forced`: tag accuracy and next-token loss on held-out data, with given answers."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plum.inference.teacher_forced import HeldOutResult


def teacher_forced(
    *,
    checkpoint: str,
    output: Path,
    data: str | None = None,
    kinds: str | None = None,
    limit: int = 200,
    referring: tuple[str, ...] = (),
    root: Path | None = None,
    device: str = "auto",
) -> None:
    """Measure span tags and next-token loss on held-out data.

    Args:
        checkpoint: folder of a saved model
        output: JSON file to write
        data: folder made by `python -m partonomy build`; --kinds are measured on it
        kinds: comma-separated kinds of conversation (default: all that held-out data have)
        limit: maximum number of images per kind
        referring: NAME[:SPLIT]; measure on expressions as well, e.g. refcoco refcoco:testA (default split: val)
        root: for --referring: folder of the downloads, which holds refer_seg/
        device: auto, cpu, cuda, cuda:1, ...

    Raises:
        FileNotFoundError: the checkpoint or the data do not exist.
        ValueError: there is nothing to measure, or flags contradict each other.
    """
    import torch

    from plum.checkpoints.store import load_pretrained
    from plum.inference.partonomy_adapter import resolve_device
    from plum.inference.teacher_forced import HELD_OUT_KINDS, evaluate_expressions, evaluate_teacher_forced

    if not data and not referring:
        raise ValueError("nothing to measure: give --data FOLDER, --referring NAME with --root FOLDER, or both")
    if bool(referring) != bool(root):
        raise ValueError("--referring and --root belong together: NAME[:SPLIT] and the folder that holds refer_seg/")
    if limit < 1:
        raise ValueError(f"--limit {limit}: at least 1")
    loaded = load_pretrained(checkpoint, resolve_device(device), torch.float32)
    chosen = kinds.split(",") if kinds else HELD_OUT_KINDS
    results: list[HeldOutResult] = []
    if data:
        results += evaluate_teacher_forced(loaded, data, chosen, limit)
    for word in referring:
        name, _, split = word.partition(":")
        assert root is not None
        results.append(evaluate_expressions(loaded, root, name, split or "val", limit))
    print(f"{'kind':<16}{'images':>8}{'tokens':>8}{'B':>8}{'I':>8}{'O':>8}{'nats per token':>16}")
    for result in results:
        tags = "".join(f"{_percent(value):>8}" for value in (result.tags.B, result.tags.I, result.tags.O))
        counts = f"{result.num_images:>8}{result.num_answer_tokens:>8}"
        print(f"{result.kind:<16}{counts}{tags}{result.next_token_loss:>16.4f}")
    _write(results, output)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _write(results: "list[HeldOutResult]", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({result.kind: asdict(result) for result in results}, indent=2) + "\n")
