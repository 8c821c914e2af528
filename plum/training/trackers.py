"""Services that show a run's metrics: TensorBoard, Weights & Biases and Trackio, each imported only if a run names it.

All three work without a network: TensorBoard writes files, Trackio a database of this machine (TRACKIO_DIR), and
Weights & Biases files if WANDB_MODE is `offline`.
"""

import importlib.util
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from partonomy.files import read_json_as, write_text_atomically

TRACKER_RUN_FILE = "tracker_run.json"
"""In the run's folder: the id under which Weights & Biases and Trackio know the run."""
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""Name of each tracker -> the package that it needs, which has the same name on PyPI."""


class TrackerService(Protocol):
    """A tracker's run."""

    def log(self, update: int, values: Mapping[str, float]) -> None:
        """Record the values of an update."""
        ...

    def close(self, *, has_failed: bool) -> None:
        """Send what is left and mark the run as ended."""
        ...


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of trackers are installed, without importing them.

    Raises:
        ValueError: one is missing; the message says how to install it.
    """
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"trackers: {name} needs a package that is not installed: pip install {_PACKAGES[name]}; or leave "
                f"{name} out of trackers"
            )


def open_trackers(
    names: Sequence[str],
    folder: Path,
    project: str,
    settings: Mapping[str, object],
    *,
    next_update: int,
    last_logged: int,
) -> list[TrackerService]:
    """Open the run of each tracker, or reopen it if the run was started before.

    Args:
        names: "tensorboard", "wandb" and "trackio", any of them.
        folder: the run's folder.
        project: the project of Weights & Biases and Trackio that holds the run.
        settings: the run's configuration, which both show.
        next_update: the first update of this start.
        last_logged: the last update that an earlier start has logged, at times after `next_update`; -1 if none.

    Raises:
        ValueError: a package is missing, or a service refuses the run; the message says what to do.
    """
    require_trackers(names)
    opened: list[TrackerService] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            opened.append(_TensorBoard(folder / "tensorboard", next_update))
        elif name == "wandb":
            opened.append(_WeightsAndBiases(folder, project, settings))
        else:
            opened.append(_Trackio(folder, project, settings, last_logged))
    return opened


def _run_id(folder: Path) -> str:
    """Return the id of a run, which is drawn at its first start and kept in its folder."""
    path = folder / TRACKER_RUN_FILE
    if not path.exists():
        write_text_atomically(path, json.dumps({"id": uuid.uuid4().hex[:12]}) + "\n")
    return read_json_as(path, _TrackerRun, "delete it; the trackers then show a new run").id


class _TrackerRun(msgspec.Struct):
    """What `tracker_run.json` holds."""

    id: str


class _TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, folder: Path, next_update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (optional package)

        # TensorBoard then hides what an earlier start has logged of the updates that this one repeats.
        self._writer = SummaryWriter(str(folder), purge_step=next_update)

    def log(self, update: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def close(self, *, has_failed: bool) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of wandb; its files lie in the run's folder. wandb reads WANDB_MODE, WANDB_ENTITY and its other variables.

    Updates that wandb has already are ignored by it, because its steps only increase.
    """

    def __init__(self, folder: Path, project: str, settings: Mapping[str, object]) -> None:
        import wandb  # noqa: PLC0415  (optional package)

        try:
            self._run: Any = wandb.init(
                project=project,
                name=folder.name,
                id=_run_id(folder),
                resume="allow",
                dir=str(folder),
                config=dict(settings),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"trackers: wandb cannot open the run ({' '.join(str(error).split())}); log in with `wandb login`, set "
                "WANDB_MODE=offline, or leave wandb out of trackers"
            ) from error

    def log(self, update: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=update)

    def close(self, *, has_failed: bool) -> None:
        self._run.finish(exit_code=int(has_failed))


class _Trackio:
    """A run of Trackio, in the database of this machine; `trackio show` opens it.

    Trackio would keep two values of an update that is logged twice, so those that it has already are not sent again.
    """

    def __init__(self, folder: Path, project: str, settings: Mapping[str, object], last_logged: int) -> None:
        import trackio  # noqa: PLC0415  (optional package)

        self._last_logged = last_logged
        try:
            self._run: Any = trackio.init(
                project=project,
                name=f"{folder.name}-{_run_id(folder)}",
                resume="allow",
                config=dict(settings),
                embed=False,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"trackers: trackio cannot open the run ({' '.join(str(error).split())}); see TRACKIO_DIR, or leave "
                "trackio out of trackers"
            ) from error

    def log(self, update: int, values: Mapping[str, float]) -> None:
        if update > self._last_logged:
            self._run.log(dict(values), step=update)

    def close(self, *, has_failed: bool) -> None:
        self._run.finish()
