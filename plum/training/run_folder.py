"""The folder of one training run: resolved config, provenance, metrics, checkpoints, final model. Never overwritten."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import socket
import subprocess
import types
import typing
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import yaml

from partonomy.files import write_text_atomically
from plum.config import ModelConfig, earlier_fit, with_fit
from plum.train_config import TrainConfig
from plum.training.run_checkpoints import RunCheckpoints

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "peft", "deepspeed", "segment-anything", "numpy")
_FREE_KEYS = {"engine.micro_batch_size", "engine.accumulation", "engine.num_workers"}
"""Settings that only divide the work: they may change between the starts of a run. The number of images per update may
not; it is checked against the checkpoint (plum.training.run_checkpoints.require_same_update)."""


class RunFolder:
    """Paths of a run, and the rule for starting, resuming or refusing it.

    A folder with the same configuration is resumed, or left as it is if it holds the final model. A folder with another
    configuration is refused and the differing keys are named. A folder in which another process trains is refused, too.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.root = Path(config.run_dir)
        self.config = config
        self.metrics_path = self.root / "metrics.jsonl"
        self.checkpoints = RunCheckpoints(self.root / "checkpoints")
        self.model_dir = self.root / "model"
        self._lock: TextIO | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its final model."""
        return (self.root / "finished.json").exists()

    def prepare(self) -> None:
        """Create the folder, or check that it belongs to this configuration. Only one rank calls it.

        Raises:
            ValueError: the folder holds a run of another configuration, or another process trains in it.
        """
        path = self.root / "config.yaml"
        if path.exists():
            recorded = yaml.safe_load(path.read_text())
            _complete_fit(recorded, self.config.model, self.config.init_from is None)
            # A key that did not exist when the run started has its default, which is what the code then did.
            differing = _differing_keys(_with_defaults(recorded, TrainConfig), self._resolved())
            if refused := [key for key in differing if key not in _FREE_KEYS]:
                raise ValueError(
                    f"{self.root} holds a run with other settings ({', '.join(refused[:8])}); "
                    "choose another run_dir, or delete that folder"
                )
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(self.root)
        self.checkpoints.remove_remains()
        if not path.exists():
            provenance = training_provenance(self.config)
            write_text_atomically(self.root / "provenance.json", json.dumps(provenance, indent=2) + "\n")
            self._write_config()

    def record_start(self, num_ranks: int, checkpoint: Path | None) -> None:
        """Append one start of the run to `starts.jsonl`, and record in `config.yaml` how it divides the work."""
        engine = self.config.engine
        start = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "from": None if checkpoint is None else checkpoint.name,
            "num_ranks": num_ranks,
            "micro_batch_size": engine.micro_batch_size,
            "accumulation": engine.accumulation,
            "commit": _current_commit(),
        }
        with (self.root / "starts.jsonl").open("a") as handle:
            handle.write(json.dumps(start) + "\n")
        self._write_config()

    def _write_config(self) -> None:
        write_text_atomically(self.root / "config.yaml", yaml.safe_dump(self._resolved(), sort_keys=False))

    def _resolved(self) -> dict[str, object]:
        """Return the configuration in the types that YAML can hold."""
        return json.loads(json.dumps(asdict(self.config)))

    def finish(self, summary: dict[str, float | int]) -> None:
        """Mark the run as complete."""
        write_text_atomically(self.root / "finished.json", json.dumps(summary, indent=2) + "\n")


def _lock_folder(root: Path) -> TextIO:
    """Lock the run's folder until this process ends, however it ends: ranks may outlive a killed launcher.

    Raises:
        ValueError: another process holds it.
    """
    # A POSIX lock, not filelock's: loader processes are forked, and would inherit a lock that outlives this process.
    handle = (root / "lock").open("a+")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            logger.warning("%s cannot be locked (%s): make sure that nothing else trains in it", root, error)
            return handle
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        raise ValueError(f"{root} is being trained by another process ({holder}); wait for it, or stop it") from error
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    handle.flush()
    return handle


def training_provenance(config: TrainConfig) -> dict[str, object]:
    """Return what a reader needs to repeat the run: commit, packages, machine, configuration hash."""
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False).stdout
    resolved = json.dumps(asdict(config), sort_keys=True)
    return {
        "commit": _current_commit(),
        "has_local_changes": bool(status.strip()),
        "config_sha256": hashlib.sha256(resolved.encode()).hexdigest(),
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _current_commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _complete_fit(recorded: dict[str, typing.Any], own: ModelConfig, is_from_scratch: bool) -> None:
    """Give the record of a run from before `llava.vision.fit` the fit that the code then had, in place.

    A configuration that leaves the fit open gets it from `init_from`, which the run started from, too: it is the same.
    """
    vision = recorded["model"]["llava"]["vision"]
    if "fit" in vision:
        return
    earlier = earlier_fit(recorded["model"]["llava"]["conversation"])
    fit = (with_fit(own) if is_from_scratch else own).llava.vision.fit
    vision["fit"] = own.llava.vision.fit if fit in (None, earlier) else earlier


def _with_defaults(recorded: object, declared: object) -> object:
    """Return a recorded value with the defaults of the keys that it lacks, at every depth.

    Args:
        recorded: value from a run's config.yaml.
        declared: type of the value in the configuration's dataclasses.
    """
    if typing.get_origin(declared) in (types.UnionType, typing.Union):
        declared = next(one for one in typing.get_args(declared) if one is not types.NoneType)
    if isinstance(recorded, list) and typing.get_origin(declared) is tuple:
        return [_with_defaults(one, typing.get_args(declared)[0]) for one in recorded]
    if not isinstance(recorded, dict) or not (isinstance(declared, type) and is_dataclass(declared)):
        return recorded
    hints = typing.get_type_hints(declared)
    kept = {name: _with_defaults(value, hints.get(name)) for name, value in recorded.items()}
    defaults = {one.name: _default(one) for one in fields(declared) if one.name not in recorded}
    return kept | {name: value for name, value in defaults.items() if value is not MISSING}


def _default(field: "Field[typing.Any]") -> object:
    """Return a field's default in the types that YAML can hold, or MISSING."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return MISSING
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return json.loads(json.dumps(plain))


def _differing_keys(old: object, new: object, prefix: str = "") -> list[str]:
    """List dotted keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differing_keys(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [prefix.rstrip(".")]
