"""Records the provenance of a result: commit, configuration, data, seed, model, device, packages, training overlap."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from partonomy.benchmarks.task import AnyTask
from partonomy.datasets.photographs import num_photographs
from partonomy.files import convert_json, read_json_as, write_text_atomically
from partonomy.harness.run_folder import MERGE_FILE, MODEL_FILE, RunConfig, config_to_json
from partonomy.models.contract import AnswerMarks, GroundedModel, describe_marks

PACKAGES = (
    "numpy",
    "scipy",
    "pycocotools",
    "pillow",
    "torch",
    "transformers",
    "peft",
    "segment-anything",
    "sentence-transformers",
)

OVERLAP_KEY = "training_overlap"
"""Key in a summary's provenance: the number of the benchmark's images that the model was trained on."""
CURE = "delete the file, then finish the run with --resume; its summary will not name the model and the earlier code"
MERGE_CURE = "merge the runs again into another --output"
SUMMARY_CURE = "resume the run to restore its summary"
MARKS_KEY = "answer_marks"
"""Key in a summary's provenance: the effect of marks such as [SEG] in a model's answers on its scores."""


@dataclass(frozen=True)
class CodeState:
    """The code of a session: git commit and whether tracked files differ from it; None outside a checkout."""

    commit: str | None
    is_modified: bool | None


@dataclass(frozen=True)
class ModelDescription:
    """The model of a run. `dtype` and `device` are None for models without weights."""

    name: str
    dtype: str | None
    device: str | None
    marks: AnswerMarks = AnswerMarks()


@dataclass(frozen=True)
class _CodeStates:
    """The part of `model.json` about the code; runs of earlier code lack it."""

    code: tuple[CodeState, ...] = field(default_factory=tuple)


def describe_model(model: GroundedModel) -> ModelDescription:
    """Read the model's optional `dtype` and `device` attributes, and the marks of its answers."""
    dtype, device = getattr(model, "dtype", None), getattr(model, "device", None)
    return ModelDescription(
        model.name,
        None if dtype is None else str(dtype),
        None if device is None else str(device),
        describe_marks(model),
    )


def write_model_description(output: Path, description: ModelDescription, is_resumed: bool) -> None:
    """Write the description and the state of the running code for the process that writes the summary.

    A run that was resumed with other code lists every state of the code that made records.
    """
    states = [state for state in read_code_states(output) if is_resumed]
    states = [state for state in states if state != _code_state()] + [_code_state()]
    content = asdict(description) | {"code": [asdict(state) for state in states]}
    write_text_atomically(output / MODEL_FILE, json.dumps(content, indent=2) + "\n")


def read_code_states(output: Path) -> list[CodeState]:
    """Read the code states that `write_model_description` wrote, oldest first; empty if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    path = output / MODEL_FILE
    return list(read_json_as(path, _CodeStates, CURE).code) if path.is_file() else []


def read_model_description(output: Path) -> ModelDescription | None:
    """Read the output of `write_model_description`; None if every record came from an earlier run.

    Raises:
        ValueError: the file is damaged.
    """
    path = output / MODEL_FILE
    return read_json_as(path, ModelDescription, CURE) if path.is_file() else None


@dataclass(frozen=True)
class MergedRun:
    """One of the merged runs: its folder, its shard, the number of its records, and how it ran."""

    path: str
    shard: str | None
    num_records: int
    model: ModelDescription | None


def write_merged_description(output: Path, runs: Sequence[MergedRun]) -> None:
    """Write the merged runs' descriptions of model and code for the process that writes the summary.

    If the runs differ in dtype or device, all values are listed.
    """
    models = [run.model for run in runs if run.model is not None]
    states = list(dict.fromkeys(state for run in runs for state in read_code_states(Path(run.path))))
    if models:
        description = ModelDescription(
            models[0].name,
            _join(model.dtype for model in models),
            _join(model.device for model in models),
            models[0].marks,
        )
        content = asdict(description) | {"code": [asdict(state) for state in states]}
        write_text_atomically(output / MODEL_FILE, json.dumps(content, indent=2) + "\n")
    write_text_atomically(output / MERGE_FILE, json.dumps([asdict(run) for run in runs], indent=2) + "\n")


def gather_provenance(config: RunConfig, task: AnyTask, output: Path) -> Mapping[str, Any]:
    """Return everything needed to repeat the run, as JSON values."""
    model = read_model_description(output)
    states = read_code_states(output) or [_code_state()]
    return {
        "code_commit": states[-1].commit,
        "code_is_modified": states[-1].is_modified,
        "code_of_earlier_records": [asdict(state) for state in states[:-1]],
        "code_commit_of_summary": _code_state().commit,
        "config": config_to_json(config),
        "dataset": {**task.dataset(), "content_hash": config.content_hash},
        OVERLAP_KEY: {
            "num_images": num_photographs(task.image_paths()),
            "num_trained_on": config.num_trained_on,
        },
        "seed": config.seed,
        MARKS_KEY: asdict(AnswerMarks() if model is None else model.marks),
        **({} if config.imported is None else {"origin": "imported"}),
        "model": None if model is None else model.name,
        "dtype": None if model is None else model.dtype,
        "device": None if model is None else model.device,
        "merged_from": read_merged(output),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def read_marks(provenance: Mapping[str, Any]) -> AnswerMarks:
    """Return the marks of a finished run; runs of earlier code had models without marks only.

    Raises:
        ValueError: the entry is damaged.
    """
    return convert_json(provenance.get(MARKS_KEY, {}), AnswerMarks, f"the provenance's {MARKS_KEY!r}", SUMMARY_CURE)


def marks_lines(provenance: Mapping[str, Any]) -> list[str]:
    """Return the lines that are printed with a run's own results."""
    marks = read_marks(provenance)
    lines = [f"Protocol: {marks.note}"] if marks.note else []
    if not marks.has_mask_per_phrase:
        lines.append(
            'Masks: only the "union" metrics compare this one mask with all targets; the others '
            "compare it with each of them"
        )
    return lines


def imported_lines(provenance: Mapping[str, Any]) -> list[str]:
    """Return the line that is printed with the results of imported predictions; empty for a run of this code."""
    imported = provenance.get("config", {}).get("imported")
    if imported is None:
        return []
    files = ", ".join(f"{file['path']} (sha256 {file['sha256']})" for file in imported["files"])
    made = f"; {imported['protocol']}" if imported["protocol"] else ""
    return [f"Imported predictions, made by another program: {files}{made}"]


def overlap_words(provenance: Mapping[str, Any]) -> str:
    """Return a run's training overlap, "3 of 200" or "unknown" (runs of earlier code did not count it)."""
    found = provenance.get(OVERLAP_KEY) or {}
    num_trained_on, num_images = found.get("num_trained_on"), found.get("num_images")
    return "unknown" if num_trained_on is None or num_images is None else f"{num_trained_on} of {num_images}"


def overlap_line(provenance: Mapping[str, Any]) -> str:
    """Return the line that is printed with every result."""
    return f"Images of this benchmark that the model was trained on: {overlap_words(provenance)}"


def read_merged(output: Path) -> list[dict[str, Any]]:
    """Read the merged runs from `write_merged_description`; empty for a run that was not merged.

    Raises:
        ValueError: the file is damaged.
    """
    path = output / MERGE_FILE
    if not path.is_file():
        return []
    merged = read_json_as(path, list[dict[str, Any]], MERGE_CURE)
    convert_json(merged, list[MergedRun], str(path), MERGE_CURE)
    return merged


def _join(values: Iterable[str | None]) -> str | None:
    known = sorted({value for value in values if value is not None})
    return ", ".join(known) or None


def _code_state() -> CodeState:
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return CodeState(_git("rev-parse", "HEAD"), None if changes is None else bool(changes))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return the output of git in the folder of this code, or None if git is missing or this is not a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
