"""`python -m plum finetune`: from annotated images to a fine-tuned model, its scores and a report, in one command.

Every step is a command that is printed before it runs, so that each can be repeated alone with other flags. The same
call goes on where it was stopped: finished steps are skipped, and the training resumes.
"""

import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plum.doctor.finetune_plan import FineTunePlan, FineTuneRequest, Machine

QUESTIONS = "questions.jsonl"


@dataclass(frozen=True)
class DataFlags:
    """Data.

    Attributes:
        data: built folder (partonomy build), COCO-style JSON, or JSON of questions, answers, phrases and masks
        images: folder of the images of a COCO-style file
        object_name: object that all parts belong to, if the file annotates parts alone
        val: held-out images in the form of --data (default: some of its images)
        val_share: share of the images to hold out
    """

    data: Path
    images: Path | None = None
    object_name: str | None = None
    val: Path | None = None
    val_share: float = 0.2


def finetune(
    *,
    data: DataFlags,
    init_from: Path,
    output: Path,
    epochs: float | None = None,
    learning_rate: float | None = None,
    images_per_update: int | None = None,
    seed: int = 42,
    set: tuple[str, ...] = (),
    plan_only: bool = False,
) -> None:
    """Fine-tune a saved model on your annotated images, score it and write a report.

    The command builds questions from the annotations, holds images out, chooses the settings of the run and prints
    them, trains with validation, exports the best weights, scores them and the model that it began with on the held-out
    images, and writes a report. Run it again to go on after an interruption.

    Args:
        data: the annotated images.
        init_from: saved model to start from
        output: folder for data, run, model, scores and report
        epochs: times that each image is seen (default: chosen and printed)
        learning_rate: highest learning rate (default: chosen and printed)
        images_per_update: images of one update over all processes (default: 16)
        seed: seed of the split and of the run
        set: KEY=VALUE; change a key of the training configuration, such as losses.kl=0; repeatable
        plan_only: build the data, print the plan and write train.yaml, then stop

    Raises:
        FileNotFoundError: the model, the data or the images do not exist.
        ValueError: flags contradict each other, the data cannot be used, or a step has failed.
        SystemExit: the training was stopped by a signal.
    """
    from plum.doctor.finetune_plan import FineTuneRequest, plan_finetune

    changed = [word for pair in set for word in _as_flag(pair)]
    _check_model(init_from)
    train, held_out = _prepare_data(data, output / "data", seed)
    request = FineTuneRequest(
        data=train,
        held_out=held_out,
        init_from=init_from,
        run_dir=output / "run",
        epochs=epochs,
        learning_rate=learning_rate,
        images_per_update=images_per_update,
        seed=seed,
    )
    plan = plan_finetune(request, _find_machine())
    config_file = output / "train.yaml"
    _write_config(plan, config_file)
    print(f"\nPlan ({config_file}):")
    for line in plan.choices:
        print(f"  {line}")
    if changed:
        print(f"  changed: {' '.join(set)}")
    if plan_only:
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


def _prepare_data(flags: DataFlags, work: Path, seed: int) -> tuple[Path, Path]:
    """Return the training and the held-out data, and build what is not there."""
    from plum.doctor.finetune_plan import is_answer_file

    data = flags.data
    if not data.exists():
        raise FileNotFoundError(f"--data {data}: there is no such file or folder; correct the path")
    if data.is_dir() and not (data / QUESTIONS).is_file():
        raise ValueError(
            f"--data {data}: the folder has no {QUESTIONS}; name a folder that `python -m partonomy build` has made, "
            "or a COCO-style JSON file with --images"
        )
    if is_answer_file(data):
        if flags.images is not None or flags.object_name:
            raise ValueError(f"--images and --object_name belong to a COCO-style file; {data} names its own images")
        return (data, flags.val) if flags.val is not None else _split_answers(data, work, flags.val_share, seed)
    if data.is_file():
        if flags.images is None:
            raise ValueError(f"--data {data} is a file: add --images FOLDER, the folder of its images")
        source = ["--source", "coco", "--annotations", str(data), "--images", str(flags.images)]
        source += ["--object_name", flags.object_name] if flags.object_name else []
        _partonomy(["build", *source, "--output", str(work / "all")])
        data = work / "all"
    elif flags.images is not None or flags.object_name:
        raise ValueError("--images and --object_name belong to a COCO-style file; --data is a built folder")
    if flags.val is not None:
        return data, flags.val
    sides = {side: work / f"{side}_annotations" for side in ("train", "val")}
    if not all(side.is_dir() for side in sides.values()):
        shares = ["--val_share", str(flags.val_share), "--seed", str(seed)]
        folders = ["--output_train", str(sides["train"]), "--output_val", str(sides["val"])]
        _partonomy(["split", str(data), *folders, *shares])
    for side, folder in sides.items():
        _partonomy(["build", "--source", "dataset", "--images", str(folder), "--output", str(work / side)])
    return work / "train", work / "val"


def _split_answers(data: Path, work: Path, val_share: float, seed: int) -> tuple[Path, Path]:
    """Divide a file of questions and answers by image; the paths in it are rewritten for the new place."""
    from plum.data.readers.grounded_answers import split_grounded_answers

    sides = work / "train.json", work / "val.json"
    sizes = split_grounded_answers(data, sides, val_share, seed)
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
