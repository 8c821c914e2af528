"""`python -m plum finetune`: from annotated images to a fine-tuned model, its scores and a report, in one command.

Every step is a command that is printed before it runs, so that each can be repeated alone with other flags. The same
call goes on where it was stopped: finished steps are skipped, and the training resumes.
"""

import argparse
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plum.cli.commands import COMMANDS

if TYPE_CHECKING:
    from plum.doctor.finetune_plan import FineTunePlan, FineTuneRequest, Machine

QUESTIONS = "questions.jsonl"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "finetune",
        help=COMMANDS["finetune"],
        description="Fine-tune a saved model on your annotated images. The command builds questions from the "
        "annotations, holds images out, chooses the settings of the run and prints them, trains with validation, "
        "exports the best weights, scores them and the model that it began with on the held-out images, and writes a "
        "report. Run it again to go on after an interruption.",
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        help="built folder (partonomy build), COCO-style JSON, or JSON of questions, answers, phrases and masks",
    )
    parser.add_argument("--init_from", required=True, type=Path, help="saved model to start from")
    parser.add_argument("--output", required=True, type=Path, help="folder for data, run, model, scores and report")
    parser.add_argument("--images", type=Path, help="folder of the images of a COCO-style file")
    parser.add_argument("--object_name", help="object that all parts belong to, if the file annotates parts alone")
    parser.add_argument("--val", type=Path, help="held-out images in the form of --data (default: some of its images)")
    parser.add_argument(
        "--val_share", type=float, default=0.2, help="share of the images to hold out (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=float, help="times that each image is seen (default: chosen and printed)")
    parser.add_argument("--learning_rate", type=float, help="highest learning rate (default: chosen and printed)")
    parser.add_argument("--images_per_update", type=int, help="images of one update over all processes (default: 16)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the split and of the run (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the training configuration, such as losses.kl=0 (repeatable)",
    )
    parser.add_argument(
        "--plan_only", action="store_true", help="build the data, print the plan and write train.yaml, then stop"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from plum.doctor.finetune_plan import FineTuneRequest, plan_finetune

    output: Path = arguments.output
    _check_model(arguments.init_from)
    train, held_out = _prepare_data(arguments)
    request = FineTuneRequest(
        data=train,
        held_out=held_out,
        init_from=arguments.init_from,
        run_dir=output / "run",
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        images_per_update=arguments.images_per_update,
        seed=arguments.seed,
    )
    plan = plan_finetune(request, _find_machine())
    config_file = output / "train.yaml"
    _write_config(plan, config_file)
    print(f"\nPlan ({config_file}):")
    for line in plan.choices:
        print(f"  {line}")
    changed = [word for pair in arguments.set for word in _as_flag(pair)]
    if changed:
        print(f"  changed: {' '.join(arguments.set)}")
    if arguments.plan_only:
        print(f"\nTo train: {_quoted(['python', '-m', 'plum', 'train', '--config', str(config_file), *changed])}")
        return
    _train(["--config", str(config_file), *changed])
    _score(request, output)


def _check_model(folder: Path) -> None:
    """Refuse a folder that cannot start a fine-tuning, before any data are built."""
    from plum.checkpoints.store import require_heads, saved_tensors

    if not folder.is_dir():
        raise FileNotFoundError(f"--init_from {folder}: there is no such folder; name a saved model")
    saved_tensors(folder)
    require_heads(folder)


def _prepare_data(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Return the training and the held-out data, and build what is not there."""
    from plum.doctor.finetune_plan import is_answer_file

    data: Path = arguments.data
    work: Path = arguments.output / "data"
    if not data.exists():
        raise FileNotFoundError(f"--data {data}: there is no such file or folder; correct the path")
    if data.is_dir() and not (data / QUESTIONS).is_file():
        raise ValueError(
            f"--data {data}: the folder has no {QUESTIONS}; name a folder that `python -m partonomy build` has made, "
            "or a COCO-style JSON file with --images"
        )
    if is_answer_file(data):
        if arguments.images is not None or arguments.object_name:
            raise ValueError(f"--images and --object_name belong to a COCO-style file; {data} names its own images")
        return (data, arguments.val) if arguments.val is not None else _split_answers(data, work, arguments)
    if data.is_file():
        if arguments.images is None:
            raise ValueError(f"--data {data} is a file: add --images FOLDER, the folder of its images")
        source = ["--source", "coco", "--annotations", str(data), "--images", str(arguments.images)]
        source += ["--object_name", arguments.object_name] if arguments.object_name else []
        _partonomy(["build", *source, "--output", str(work / "all")])
        data = work / "all"
    elif arguments.images is not None or arguments.object_name:
        raise ValueError("--images and --object_name belong to a COCO-style file; --data is a built folder")
    if arguments.val is not None:
        return data, arguments.val
    sides = {side: work / f"{side}_annotations" for side in ("train", "val")}
    if not all(side.is_dir() for side in sides.values()):
        shares = ["--val_share", str(arguments.val_share), "--seed", str(arguments.seed)]
        folders = ["--output_train", str(sides["train"]), "--output_val", str(sides["val"])]
        _partonomy(["split", str(data), *folders, *shares])
    for side, folder in sides.items():
        _partonomy(["build", "--source", "dataset", "--images", str(folder), "--output", str(work / side)])
    return work / "train", work / "val"


def _split_answers(data: Path, work: Path, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Divide a file of questions and answers by image; the paths in it are rewritten for the new place."""
    from plum.data.readers.grounded_answers import split_grounded_answers

    sides = work / "train.json", work / "val.json"
    sizes = split_grounded_answers(data, sides, arguments.val_share, arguments.seed)
    print(f"{data}: {sizes[0]} images to train on, {sizes[1]} held out ({sides[0]}, {sides[1]})")
    return sides


def _find_machine() -> "Machine":
    """Return the processes that the launcher will start, and the memory of the smallest GPU."""
    import os

    import torch

    from plum.doctor.finetune_plan import Machine
    from plum.training.launch import LaunchError, Nodes, plan_launch

    try:
        plan = plan_launch(os.environ, Path.cwd(), torch.cuda.device_count)
    except LaunchError as error:
        raise ValueError(str(error)) from error
    if isinstance(plan, Nodes):
        raise ValueError("finetune trains on this machine alone: unset HOSTFILE, or use --plan_only and `plum train`")
    gpus = range(torch.cuda.device_count())
    return Machine(
        plan.num_ranks, min((torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus), default=None)
    )


def _write_config(plan: "FineTunePlan", path: Path) -> None:
    import json
    from dataclasses import asdict

    import yaml

    from partonomy.files import write_text_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(json.dumps(asdict(plan.config)))
    write_text_atomically(path, yaml.safe_dump(content, sort_keys=False))


def _as_flag(pair: str) -> tuple[str, str]:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {pair}: write KEY=VALUE, such as losses.kl=0")
    return f"--{key}", value


def _train(flags: Sequence[str]) -> None:
    """Train on all processes of this machine; a stop by a signal ends the command with its status."""
    from plum.training.exit_status import INTERRUPTED, REQUEUE, TERMINATED
    from plum.training.launch import main as launch

    print(f"\n$ {_quoted(['python', '-m', 'plum', 'train', *flags])}", flush=True)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        status = launch([str(Path.cwd()), "-m", "plum", "train", *flags])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if status in (INTERRUPTED, TERMINATED, REQUEUE):
        raise SystemExit(status)
    if status:
        raise ValueError(f"the training ended with status {status}; its message is above. The same command resumes it")


def _score(request: "FineTuneRequest", output: Path) -> None:
    """Export the model, score it and the one that it began with on the held-out questions, and report."""
    from plum.doctor.finetune_plan import is_answer_file

    model = output / "model"
    finished = request.run_dir / "finished.json"
    if not (model / "config.json").is_file() or (model / "config.json").stat().st_mtime < finished.stat().st_mtime:
        _plum(["export", str(request.run_dir), str(model)])
    if is_answer_file(request.held_out):
        _show_validations(request.run_dir)
        print(f"\nModel: {model}   Validations: {request.run_dir / 'validations.jsonl'}")
        return
    scored = {"validation": model, "validation_before": request.init_from}
    for name, checkpoint in scored.items():
        flags = ["--model", "plum", "--checkpoint", str(checkpoint), "--questions", str(request.held_out)]
        _partonomy(["run", "partonomy", *flags, "--output", str(output / name), "--resume"])
    after, before = (str(output / name) for name in scored)
    _partonomy(["compare", before, after])
    _partonomy(["report", after, "--baselines", before, "--output", str(output / "report.html")])
    print(f"\nModel: {model}   Scores: {output / 'validation' / 'summary.json'}   Report: {output / 'report.html'}")


def _show_validations(run: Path) -> None:
    """Print the held-out scores before and after; a file of one's own questions has no choices to score."""
    from partonomy.files import read_json
    from plum.training.validation import read_validations

    found = read_validations(run / "validations.jsonl")
    saved = read_json(run / "finished.json")["best_update"]
    (best,) = [one for one in found if one.update == saved]
    print(f"\nHeld-out images before training: {found[0].describe()}")
    print(f"Held-out images with the saved weights (update {best.update}): {best.describe()}")


def _partonomy(words: Sequence[str]) -> None:
    from partonomy.__main__ import main

    _run_step("partonomy", words, main)


def _plum(words: Sequence[str]) -> None:
    from plum.cli.main import main

    _run_step("plum", words, main)


def _run_step(package: str, words: Sequence[str], main: Callable[[Sequence[str]], int]) -> None:
    """Print a command and run it."""
    print(f"\n$ {_quoted(['python', '-m', package, *words])}", flush=True)
    if status := main(words):
        raise ValueError(f"`{package} {words[0]}` ended with status {status}; its message is above")


def _quoted(words: Sequence[str]) -> str:
    return shlex.join(words)
