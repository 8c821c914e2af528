"""The folder of one training run: resolved config, provenance, metrics, checkpoints, final model. Never overwritten."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import socket
import subprocess
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import yaml

from partonomy.files import read_json_as, write_text_atomically
from partonomy.yaml_files import read_yaml
from plum.config import ModelConfig, Sam2Config, earlier_fit, names_sam2, with_fit
from plum.train_config import TrainConfig
from plum.training.run_checkpoints import RunCheckpoints
from plum.training.trackers import TRACKER_RUN_FILE

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "peft", "deepspeed", "segment-anything", "numpy")
_FREE_KEYS = {
    # how the work is divided; plum.training.run_checkpoints.require_same_update checks the images of an update
    "engine.micro_batch_size",
    "engine.accumulation",
    "engine.num_workers",
    "engine.gradient_checkpointing",
    "engine.timeout_minutes",
    # what is written, where and when
    "run_dir",
    "save_every",
    "save_every_minutes",
    "keep_checkpoints",
    "max_minutes",
    "log_every",
    "trackers",
    "tracker_project",
    "tensorboard",
    "save_model",
    "data.sam_feature_cache",
    "data.sam_feature_cache_gb",
    # what one changes when a run stops because of it: plum.training.optimizer.apply_schedule, plum.data.fitting_texts
    "num_updates",
    "optimizer.learning_rate",
    "optimizer.warmup_updates",
    "optimizer.decay",
    "optimizer.gradient_clip",
    "stop_after_skipped",
    "validation.patience",
    "data.max_text_tokens",
}
"""Settings that may change between the starts of a run; every start records the changes."""
_PATH_KEYS = ("init_from", "tokenizer", "dataset_dir", "path", "exclude_images", "count_images")
"""Keys at any depth whose values are files or folders, which may be named in several ways."""
_INPUTS_FILE = "inputs.json"
"""Hash of each file and folder that the configuration names, by dotted key: a moved one is recognised by it."""
_END_BYTES = 1 << 20
"""Of a larger file, only so many bytes at each end are hashed, with its size."""
_OWN_FILES = (
    "config.yaml",
    _INPUTS_FILE,
    "provenance.json",
    "starts.jsonl",
    "metrics.jsonl",
    "finished.json",
    "training_images.json",
    "validations.jsonl",
    TRACKER_RUN_FILE,
)
_OWN_FOLDERS = ("checkpoints", "model", "tensorboard", "wandb", "best")
"""What a run writes to its folder, beside the lock: what a new start of the same folder removes."""


class RunFolder:
    """Paths of a run, and the rule for starting, resuming or refusing it.

    A folder with the same configuration is resumed, or left as it is if it holds the final model. Some settings may
    change (`_FREE_KEYS`), and what the run reads may have moved; if others differ, the folder is refused and they are
    named. A folder whose run ended before
    its first update is taken over: it holds nothing that could be lost. A folder in which another process trains is
    refused.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.root = Path(config.run_dir)
        self.config = config
        self.metrics_path = self.root / "metrics.jsonl"
        self.checkpoints = RunCheckpoints(self.root / "checkpoints", config.keep_checkpoints)
        self.model_dir = self.root / "model"
        self._lock: TextIO | None = None
        self._changes: dict[str, tuple[object, object]] = {}
        self._lost: dict[str, str] = {}

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its final model."""
        return (self.root / "finished.json").exists()

    def prepare(self, *, overwrite: bool = False) -> None:
        """Create the folder, or check that it belongs to this configuration. Only one rank calls it.

        Args:
            overwrite: whether to remove the run that is there and start anew.

        Raises:
            ValueError: the folder holds a run of another configuration, or another process trains in it.
            OSError: the folder cannot be written.
        """
        path = self.root / "config.yaml"
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(self.root)
        self.checkpoints.remove_remains()
        if overwrite:
            self._remove_run()
        elif path.exists():
            self._take_over(path)
        if not path.exists():
            provenance = training_provenance(self.config)
            write_text_atomically(self.root / "provenance.json", json.dumps(provenance, indent=2) + "\n")
            inputs = {key: hash_input(Path(name)) for key, name in _named_paths(self._resolved())}
            write_text_atomically(self.root / _INPUTS_FILE, json.dumps(inputs, indent=2) + "\n")
            self._write_config()

    def _take_over(self, path: Path) -> None:
        """Accept the run that is there, or remove it if it holds no update and has other settings."""
        try:
            self._changes = self._list_changes(path)
            self._require_free_changes()
        except ValueError:
            if self._has_progress():
                raise
            logger.info("%s held a run that ended before its first update, and starts anew", self.root)
            self._remove_run()
            self._changes = {}

    def _has_progress(self) -> bool:
        """Return whether the folder holds updates: a checkpoint, however damaged, metrics, or a model."""
        metrics = self.metrics_path
        return (
            self.is_finished
            or self.model_dir.exists()
            or (metrics.exists() and metrics.stat().st_size > 0)
            or self.checkpoints.has_any()
        )

    def _remove_run(self) -> None:
        for name in _OWN_FILES:
            (self.root / name).unlink(missing_ok=True)
        for name in _OWN_FOLDERS:
            if (self.root / name).exists():
                shutil.rmtree(self.root / name)

    def _list_changes(self, path: Path) -> dict[str, tuple[object, object]]:
        """Return the settings that differ from those in the folder, by dotted key: there, here."""
        try:
            there = read_yaml(path)
            _complete_fit(there, self.config.model, self.config.init_from is None)
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}); {self._way_out()}") from error
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: it lacks settings ({error!r}); {self._way_out()}") from error
        # A key that did not exist when the run started has its default, which is what the code then did.
        recorded = _with_defaults(there, TrainConfig)
        before, now = _with_resolved_paths(recorded), _with_resolved_paths(self._resolved())
        old_paths = dict(_named_paths(before))
        known = self._read_inputs()
        moved: dict[str, str] = {}
        for key, name in _named_paths(now):
            old = old_paths.get(key)
            if old is None or old == name:
                continue
            if known.get(key) is not None and known[key] == hash_input(Path(name)):
                moved[key] = old
                logger.info("%s: %s was %s when %s started, with the same content", key, name, old, self.root)
            elif not os.path.lexists(old):
                self._lost[name] = old
        return _differences(before, _replace_paths(now, moved))

    def _read_inputs(self) -> dict[str, str | None]:
        """Return the hashes of what the run read when it started; of runs from before they were kept, none."""
        path = self.root / _INPUTS_FILE
        if not path.exists():
            return {}
        return read_json_as(path, dict[str, str | None], "delete it; then only what has not moved is accepted")

    def _require_free_changes(self) -> None:
        refused = {key: values for key, values in self._changes.items() if key not in _FREE_KEYS}
        if refused:
            shown = [f"{key}: {_shorten(there)} there, {_shorten(here)} here" for key, (there, here) in refused.items()]
            more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
            raise ValueError(
                f"{self.root} holds a run with other settings ({'; '.join(shown[:8])}{more}); "
                f"{self._describe_links()}{self._way_out()}"
            )
        if self.is_finished and "num_updates" in self._changes:
            raise ValueError(
                f"{self.root} is finished after {self._changes['num_updates'][0]} updates, and its learning rate has "
                f"decayed; to train on, start a new run: --init_from {self.model_dir} --run_dir ANOTHER_FOLDER"
            )

    def _describe_links(self) -> str:
        """Return what to do about files that are no longer where the run read them, and were not recognised."""
        commands = " and ".join(f"`ln -s {shlex.quote(name)} {shlex.quote(old)}`" for name, old in self._lost.items())
        if not commands:
            return ""
        return f"if files were moved and are the same, {commands} lets the run find them where they were; otherwise "

    def _way_out(self) -> str:
        newest = next(self.checkpoints.named(), None)
        go_on = ""
        if self.model_dir.exists():
            go_on = f"; to go on from its model, --init_from {self.model_dir} with another --run_dir"
        elif newest is not None:
            go_on = (
                f"; to go on from its weights with other settings, `python -m plum export {newest} FOLDER`, then "
                "--init_from FOLDER with another --run_dir"
            )
        return f"choose another --run_dir, or start that one anew with --overwrite{go_on}"

    def record_start(self, num_ranks: int, checkpoint: Path | None) -> None:
        """Append one start of the run to `starts.jsonl`, and record in `config.yaml` how it divides the work."""
        engine = self.config.engine
        start: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "from": None if checkpoint is None else checkpoint.name,
            "num_ranks": num_ranks,
            "micro_batch_size": engine.micro_batch_size,
            "accumulation": engine.accumulation,
            "commit": _current_commit(),
        }
        if self._changes:
            start["changed"] = {key: list(values) for key, values in self._changes.items()}
            for key, (there, here) in self._changes.items():
                logger.info("%s goes on with another %s: %s -> %s", self.root, key, _shorten(there), _shorten(here))
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
        "packages": {name: _find_version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _find_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed, as DeepSpeed need not be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _current_commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _differences(there: object, here: object, prefix: str = "") -> dict[str, tuple[object, object]]:
    """Return the values that differ, by dotted key."""
    if isinstance(there, dict) and isinstance(here, dict):
        found: dict[str, tuple[object, object]] = {}
        for key in sorted(set(there) | set(here)):
            found |= _differences(there.get(key), here.get(key), f"{prefix}{key}.")
        return found
    return {} if there == here else {prefix.rstrip("."): (there, here)}


def _with_resolved_paths(value: object, key: str = "") -> object:
    """Return settings in which files and folders have one name each, however they were written."""
    if isinstance(value, dict):
        return {name: _with_resolved_paths(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_resolved_paths(item, key) for item in value]
    return os.path.realpath(value) if key in _PATH_KEYS and isinstance(value, str) and value else value


def _named_paths(value: object, key: str = "", prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the files and folders that settings name, with their dotted keys; entries of lists have their number."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _named_paths(item, name, f"{prefix}{name}.")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _named_paths(item, key, f"{prefix}{number}.")
    elif key in _PATH_KEYS and isinstance(value, str) and value:
        yield prefix.rstrip("."), value


def _replace_paths(value: object, replaced: dict[str, str], prefix: str = "") -> object:
    """Return settings with other files and folders, by the dotted keys of `_named_paths`."""
    if isinstance(value, dict):
        return {name: _replace_paths(item, replaced, f"{prefix}{name}.") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_paths(item, replaced, f"{prefix}{number}.") for number, item in enumerate(value)]
    return replaced.get(prefix.rstrip("."), value)


def hash_input(path: Path) -> str | None:
    """Return a hash by which a file or folder is recognised in another place, at the cost of a few megabytes.

    Of a file it covers the size and the bytes at both ends; of a folder, this for each of its files, and the names in
    its folders. Hidden files and locks do not count. A sealed data set has the hashes of all its files in one of them.

    Args:
        path: the file or folder.

    Returns:
        The sha256; None if there is nothing to recognise.
    """
    if path.is_file():
        files = [path]
        names: list[str] = []
    elif path.is_dir():
        entries = sorted(one for one in path.iterdir() if not one.name.startswith(".") and one.name != "lock")
        files = [one for one in entries if one.is_file()]
        names = [f"{one.name}/{inner}" for one in entries if one.is_dir() for inner in sorted(os.listdir(one))]
    else:
        return None
    if not files and not names:
        return None
    digest = hashlib.sha256(json.dumps([[one.name for one in files] if path.is_dir() else [], names]).encode())
    for one in files:
        size = one.stat().st_size
        with one.open("rb") as handle:
            digest.update(b"%d:" % size + handle.read(_END_BYTES))
            if size > _END_BYTES:
                handle.seek(max(size - _END_BYTES, _END_BYTES))
                digest.update(handle.read(_END_BYTES))
    return digest.hexdigest()


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _complete_fit(recorded: dict[str, typing.Any], own: ModelConfig, is_from_scratch: bool) -> None:
    """Give the record of a run from before `llava.vision.fit` the fit that the code then had, in place.

    A configuration that leaves the fit open gets it from `init_from`, which the run started from, too: it is the same.
    """
    if own.llava is None:
        return
    vision = recorded["model"]["llava"]["vision"]
    if "fit" in vision:
        return
    earlier = earlier_fit(recorded["model"]["llava"]["conversation"])
    fit = (with_fit(own) if is_from_scratch else own).of_llava.vision.fit
    vision["fit"] = own.of_llava.vision.fit if fit in (None, earlier) else earlier


def _with_defaults(recorded: object, declared: object) -> object:
    """Return a recorded value with the defaults of the keys that it lacks, at every depth.

    Args:
        recorded: value from a run's config.yaml.
        declared: type of the value in the configuration's dataclasses.
    """
    if typing.get_origin(declared) in (types.UnionType, typing.Union):
        options = [one for one in typing.get_args(declared) if one is not types.NoneType]
        declared = Sam2Config if Sam2Config in options and names_sam2(recorded) else options[0]
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
