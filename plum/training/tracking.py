"""Training metrics: one JSON line per logged update, also sent to the trackers that the run names."""

import json
import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import msgspec
import torch
import torch.distributed
from torch import Tensor

from partonomy.files import convert_json, parse_json, write_text_atomically
from plum.inputs.bio_labels import Tag
from plum.structures import LossTerms
from plum.training.objective import StepResult
from plum.training.trackers import TrackerService, open_trackers


@dataclass
class RunningTerms:
    """Sums of losses, tag counts and tokens over micro-batches, averaged or added up over ranks when read.

    Micro-batches without a finite loss are left out of the means, so that these stay finite; their updates are counted
    instead. The sums stay on the device of the losses until they are read, so that the host does not wait for them.
    """

    names: tuple[str, ...] = ("total", *(f.name for f in fields(LossTerms)), "part_pretext")
    sums: Tensor = field(init=False)
    updates: int = 0
    updates_skipped: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums = torch.zeros(len(self.names) + 2 * len(Tag) + 1, dtype=torch.float64)
        self.updates = 0
        self.updates_skipped = 0
        self.tokens = 0

    def add(self, result: StepResult, num_tokens: int) -> None:
        """Add one micro-batch; of one whose loss is not finite, only the tokens. A term that is off counts as 0.

        Args:
            result: its losses.
            num_tokens: positions of its sequences, image tokens included and padding left out.
        """
        self.tokens += num_tokens
        total = result.total.detach()
        values = [total, *(getattr(result.terms, f.name) for f in fields(LossTerms)), result.part_pretext]
        nothing, one = total.new_zeros(()), total.new_ones(1, dtype=torch.float64)
        losses = torch.stack([nothing if value is None else value.detach().float() for value in values])
        found = torch.cat([losses.double(), result.tag_hits.double(), result.tag_totals.double(), one])
        self.sums = self.sums.to(total.device) + torch.where(torch.isfinite(total), found, 0.0)

    def end_update(self, *, was_skipped: bool) -> None:
        """Count an update."""
        self.updates += 1
        self.updates_skipped += was_skipped

    def read(self, device: torch.device) -> dict[str, float]:
        """Return means over all ranks' micro-batches and tag accuracies over answer tokens, and reset. Collective.

        Returns:
            `loss_*` (left out if no micro-batch had a finite loss), `accuracy_*`, `updates_skipped`, and `tokens`, the
            number of tokens of all ranks.
        """
        packed = torch.cat([self.sums.to(device), torch.tensor([self.tokens], dtype=torch.float64, device=device)])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(packed)
        sums, hits, totals, count, tokens = packed.cpu().split([len(self.names), 3, 3, 1, 1])
        values = {"updates_skipped": float(self.updates_skipped), "tokens": float(tokens)}
        if count > 0:
            values |= {f"loss_{name}": float(value / count) for name, value in zip(self.names, sums, strict=True)}
        for name, hit, total in zip("OBI", hits, totals, strict=True):
            if total > 0:
                values[f"accuracy_{name}"] = float(hit / total)
        self.reset()
        return values


def read_peak_memory(device: torch.device) -> float:
    """Return the largest peak memory of any rank in GB (10^9 bytes). Collective.

    On a GPU this is the peak of what torch has allocated since the last call. On a CPU it is the peak of the process's
    resident memory since its start, which the system does not reset.

    Args:
        device: this rank's device.
    """
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, kilobytes on Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    largest = torch.tensor(float(peak), dtype=torch.float64, device=device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return float(largest) / 1e9


class _LoggedUpdate(msgspec.Struct):
    """What is read of a line of `metrics.jsonl`."""

    update: int


class Tracker:
    """Appends the main rank's metrics to `metrics.jsonl` and sends them to the run's trackers.

    Args:
        path: `metrics.jsonl` in the run's folder.
        names: trackers of the run; see `plum.training.trackers`.
        project: the project of Weights & Biases and Trackio that holds the run.
        settings: the run's configuration, which both show.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str] = (),
        project: str = "",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self._path, self._names, self._project, self._settings = path, names, project, settings or {}
        self._services: list[TrackerService] = []

    def start(self, update: int) -> None:
        """Forget what comes after the update at which this start begins, and open the trackers.

        Raises:
            ValueError: a line of the metrics is damaged, or a tracker cannot be opened; the message names it.
        """
        last_logged = self.forget_after(update)
        self._services = open_trackers(
            self._names,
            self._path.parent,
            self._project,
            self._settings,
            next_update=update + 1,
            last_logged=last_logged,
        )

    def forget_after(self, update: int) -> int:
        """Drop the lines of updates that a resumed run repeats, and a last line that a killed run left unfinished.

        Returns:
            The last update that was there; -1 if none was (update 0 has a validation alone).

        Raises:
            ValueError: another line is damaged; the message names the file and the line.
        """
        if not self._path.exists():
            return -1
        kept, last = [], -1
        for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                break
            where, cure = f"{self._path}, line {number}", "delete the line and start again"
            try:
                content = parse_json(line.encode(), f"{where}: not valid JSON")
            except ValueError as error:
                raise ValueError(f"{error}; {cure}") from error
            last = convert_json(content, _LoggedUpdate, where, cure).update
            if last <= update:
                kept.append(line)
        write_text_atomically(self._path, "".join(kept))
        return last

    def log_validation(self, update: int, loss: float | None, micro_giou: float | None) -> None:
        """Send the scores of held-out images to the trackers; the run's folder has them in a file of their own."""
        self._send(update, {"validation_loss": loss, "validation_micro_giou": micro_giou})

    def log(self, update: int, values: Mapping[str, float | None]) -> None:
        """Write one line; a value that an update does not have is null there, and the trackers do not get it."""
        with self._path.open("a") as handle:
            handle.write(json.dumps({"update": update, **values}) + "\n")
        self._send(update, values)

    def close(self, *, has_failed: bool = False) -> None:
        """End the trackers' runs."""
        while self._services:
            self._services.pop().close(has_failed=has_failed)

    def _send(self, update: int, values: Mapping[str, float | None]) -> None:
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        for service in self._services:
            service.log(update, known)
