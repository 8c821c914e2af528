"""`python -m plum teacher-forced`: tag accuracy and next-token loss on held-out data, with given answers."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from plum.cli.commands import COMMANDS

if TYPE_CHECKING:
    from plum.inference.teacher_forced import HeldOutResult


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("teacher-forced", help=COMMANDS["teacher-forced"])
    parser.add_argument("--checkpoint", required=True, help="folder of a saved model")
    parser.add_argument("--data", help="folder made by `python -m partonomy build`; --kinds are measured on it")
    parser.add_argument("--kinds", help="comma-separated kinds of conversation (default: all that held-out data have)")
    parser.add_argument(
        "--limit", type=int, default=200, help="maximum number of images per kind (default: %(default)s)"
    )
    parser.add_argument(
        "--referring",
        nargs="+",
        default=[],
        metavar="NAME[:SPLIT]",
        help="measure on expressions as well, e.g. refcoco refcoco:testA (default split: val)",
    )
    parser.add_argument("--root", type=Path, help="for --referring: folder of the downloads, which holds refer_seg/")
    parser.add_argument("--output", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    import torch

    from plum.checkpoints.store import load_pretrained
    from plum.inference.partonomy_adapter import resolve_device
    from plum.inference.teacher_forced import HELD_OUT_KINDS, evaluate_expressions, evaluate_teacher_forced

    if not arguments.data and not arguments.referring:
        raise ValueError("nothing to measure: give --data FOLDER, --referring NAME with --root FOLDER, or both")
    if bool(arguments.referring) != bool(arguments.root):
        raise ValueError("--referring and --root belong together: NAME[:SPLIT] and the folder that holds refer_seg/")
    if arguments.limit < 1:
        raise ValueError(f"--limit {arguments.limit}: at least 1")
    loaded = load_pretrained(arguments.checkpoint, resolve_device(arguments.device), torch.float32)
    kinds = arguments.kinds.split(",") if arguments.kinds else HELD_OUT_KINDS
    results: list[HeldOutResult] = []
    if arguments.data:
        results += evaluate_teacher_forced(loaded, arguments.data, kinds, arguments.limit)
    for word in arguments.referring:
        name, _, split = word.partition(":")
        results.append(evaluate_expressions(loaded, arguments.root, name, split or "val", arguments.limit))
    print(f"{'kind':<16}{'images':>8}{'tokens':>8}{'B':>8}{'I':>8}{'O':>8}{'nats per token':>16}")
    for result in results:
        tags = "".join(f"{_percent(value):>8}" for value in (result.tags.B, result.tags.I, result.tags.O))
        counts = f"{result.num_images:>8}{result.num_answer_tokens:>8}"
        print(f"{result.kind:<16}{counts}{tags}{result.next_token_loss:>16.4f}")
    _write(results, arguments.output)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _write(results: "list[HeldOutResult]", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({result.kind: asdict(result) for result in results}, indent=2) + "\n")
