"""Where a result comes from: commit, configuration, questions, seed, model, device and package versions."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partonomy.evaluation.files import write_text_atomically
from partonomy.evaluation.model_api import GroundedModel
from partonomy.evaluation.run_directory import MODEL_FILE, EvaluationConfig
from partonomy.structures import QuestionSet

PACKAGES = ("numpy", "scipy", "pycocotools", "pillow", "torch", "transformers", "peft", "segment-anything")


@dataclass(frozen=True)
class ModelDescription:
    """A model as it ran. `dtype` and `device` are None for models without weights."""

    name: str
    dtype: str | None
    device: str | None


def describe_model(model: GroundedModel) -> ModelDescription:
    """Read the model's optional `dtype` and `device` attributes."""
    dtype, device = getattr(model, "dtype", None), getattr(model, "device", None)
    return ModelDescription(model.name, None if dtype is None else str(dtype), None if device is None else str(device))


def write_model_description(output: Path, description: ModelDescription) -> None:
    """Leave the description for the process that writes the summary."""
    write_text_atomically(output / MODEL_FILE, json.dumps(asdict(description), indent=2) + "\n")


def read_model_description(output: Path) -> ModelDescription | None:
    """What `write_model_description` left; None when every record came from an earlier run."""
    path = output / MODEL_FILE
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    return ModelDescription(data["name"], data["dtype"], data["device"])


def gather_provenance(config: EvaluationConfig, question_set: QuestionSet, output: Path) -> Mapping[str, Any]:
    """Everything needed to repeat the run, as JSON-ready values."""
    model = read_model_description(output)
    return {
        "code_commit": _git("rev-parse", "HEAD"),
        "code_is_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "config": json.loads(json.dumps(asdict(config))),
        "dataset": {
            "name": question_set.name,
            "content_hash": question_set.content_hash,
            "num_questions": len(question_set.questions),
            "num_unreadable": len(question_set.invalid),
        },
        "protocol_version": config.protocol_version,
        "seed": config.seed,
        "model": None if model is None else model.name,
        "dtype": None if model is None else model.dtype,
        "device": None if model is None else model.device,
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of git in the folder of this code; None without git or outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
