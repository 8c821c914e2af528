"""The folder of one training run: resolved config, provenance, metrics, checkpoints, final model. Never overwritten."""

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
from dataclasses import MISSING, asdict, fields
from importlib.metadata import version
from pathlib import Path

import yaml

from plum.config import TrainConfig

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "peft", "deepspeed", "segment-anything", "numpy")
_KEPT_CHECKPOINTS = 2


class RunDirectory:
    """Paths of a run, and the rule for starting, resuming or refusing it.

    A folder that holds the same configuration is resumed (or, when it holds the final model, left alone); one that
    holds another configuration is refused with the differing keys named.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.root = Path(config.run_dir)
        self.config = config
        self.metrics_path = self.root / "metrics.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.model_dir = self.root / "model"

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its final model."""
        return (self.root / "finished.json").exists()

    def prepare(self) -> None:
        """Create the folder, or check that it belongs to this configuration. One rank calls it.

        Raises:
            ValueError: the folder holds a run of another configuration.
        """
        resolved = json.loads(json.dumps(asdict(self.config)))
        path = self.root / "config.yaml"
        if path.exists():
            # A key that did not exist when the run started means its default.
            defaults = {field.name: field.default for field in fields(TrainConfig) if field.default is not MISSING}
            differing = _differing_keys(defaults | yaml.safe_load(path.read_text()), resolved)
            if differing:
                raise ValueError(
                    f"{self.root} holds a run with other settings ({', '.join(differing[:8])}); "
                    "choose another run_dir, or delete that folder"
                )
            return
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "provenance.json").write_text(json.dumps(training_provenance(self.config), indent=2) + "\n")
        write_atomically(path, yaml.safe_dump(resolved, sort_keys=False))

    def latest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint."""
        pointer = self.checkpoints / "latest"
        return self.checkpoints / pointer.read_text().strip() if pointer.exists() else None

    def partial_checkpoint(self, update: int) -> Path:
        """Return where the checkpoint of `update` is written before it counts; remains of a killed save are removed."""
        return self.checkpoints / f"update_{update:06d}.partial"

    def commit_checkpoint(self, partial: Path) -> None:
        """Switch to a completely written checkpoint, then drop old ones. One rank calls it."""
        final = partial.with_suffix("")
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        write_atomically(self.checkpoints / "latest", final.name + "\n")
        complete = sorted(p for p in self.checkpoints.iterdir() if p.is_dir() and not p.suffix)
        for old in complete[:-_KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def finish(self, summary: dict[str, float | int]) -> None:
        """Mark the run as complete."""
        write_atomically(self.root / "finished.json", json.dumps(summary, indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` beside `path`, then rename, so that a killed process leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)


def training_provenance(config: TrainConfig) -> dict[str, object]:
    """Return what a reader needs to repeat the run: commit, packages, machine, configuration hash."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False).stdout
    resolved = json.dumps(asdict(config), sort_keys=True)
    return {
        "commit": commit or "unknown",
        "has_local_changes": bool(status.strip()),
        "config_sha256": hashlib.sha256(resolved.encode()).hexdigest(),
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _differing_keys(old: object, new: object, prefix: str = "") -> list[str]:
    """List dotted keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differing_keys(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [prefix.rstrip(".")]
