"""Training metrics: one JSON line per logged update, and TensorBoard on request."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

import msgspec
import torch
import torch.distributed
from torch import Tensor

from partonomy.files import convert_json, parse_json, write_text_atomically
from plum.structures import LossTerms
from plum.training.objective import StepResult


class ScalarWriter(Protocol):
    """The one method of TensorBoard's SummaryWriter that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value."""
        ...


@dataclass
class RunningTerms:
    """Sums of losses and tag counts over micro-batches, averaged over ranks when read.

    Micro-batches without a finite loss are left out, so that the means stay finite; their updates are counted instead.
    """

    names: tuple[str, ...] = ("total", *(f.name for f in fields(LossTerms)), "part_pretext")
    sums: Tensor = field(init=False)
    hits: Tensor = field(init=False)
    totals: Tensor = field(init=False)
    micro_batches: int = 0
    updates_skipped: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums = torch.zeros(len(self.names), dtype=torch.float64)
        self.hits = torch.zeros(3, dtype=torch.float64)
        self.totals = torch.zeros(3, dtype=torch.float64)
        self.micro_batches = 0
        self.updates_skipped = 0

    def add(self, result: StepResult) -> None:
        """Add one micro-batch; nothing if its loss is not finite. A term that is off counts as 0."""
        if not bool(torch.isfinite(result.total.detach())):
            return
        values = [result.total, *(getattr(result.terms, f.name) for f in fields(LossTerms)), result.part_pretext]
        self.sums += torch.tensor([0.0 if value is None else float(value.detach()) for value in values])
        self.hits += result.tag_hits.cpu()
        self.totals += result.tag_totals.cpu()
        self.micro_batches += 1

    def read(self, device: torch.device) -> dict[str, float]:
        """Return means over all ranks' micro-batches and tag accuracies over answer tokens, and reset. Collective.

        Losses are left out when no micro-batch had a finite one.
        """
        count = torch.tensor([float(self.micro_batches)], dtype=torch.float64)
        packed = torch.cat([self.sums, self.hits, self.totals, count]).to(device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(packed)
        sums, hits, totals, count = packed.cpu().split([len(self.names), 3, 3, 1])
        values = {"updates_skipped": float(self.updates_skipped)}
        if count > 0:
            values |= {f"loss_{name}": float(value / count) for name, value in zip(self.names, sums, strict=True)}
        for name, hit, total in zip("OBI", hits, totals, strict=True):
            if total > 0:
                values[f"accuracy_{name}"] = float(hit / total)
        self.reset()
        return values


class _LoggedUpdate(msgspec.Struct):
    """What is read of a line of `metrics.jsonl`."""

    update: int


class Tracker:
    """Appends the main rank's metrics to `metrics.jsonl`."""

    def __init__(self, path: Path, tensorboard: bool) -> None:
        self._path = path
        self._writer: ScalarWriter | None = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (optional package)
            except ModuleNotFoundError as error:
                raise ValueError("tensorboard: true needs a package: pip install tensorboard") from error
            self._writer = SummaryWriter(str(path.parent / "tensorboard"))

    def forget_after(self, update: int) -> None:
        """Drop the lines of updates that a resumed run repeats, and a last line that a killed run left unfinished.

        Raises:
            ValueError: another line is damaged; the message names the file and the line.
        """
        if not self._path.exists():
            return
        kept = []
        for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                break
            where, cure = f"{self._path}, line {number}", "delete the line and start again"
            try:
                content = parse_json(line.encode(), f"{where}: not valid JSON")
            except ValueError as error:
                raise ValueError(f"{error}; {cure}") from error
            if convert_json(content, _LoggedUpdate, where, cure).update <= update:
                kept.append(line)
        write_text_atomically(self._path, "".join(kept))

    def log_validation(self, update: int, loss: float | None, micro_giou: float | None) -> None:
        """Pass the scores of held-out images on to TensorBoard; the run's folder has them in a file of their own."""
        for name, value in (("validation_loss", loss), ("validation_micro_giou", micro_giou)):
            if self._writer is not None and value is not None:
                self._writer.add_scalar(name, value, update)

    def log(self, update: int, values: dict[str, float]) -> None:
        """Write one line."""
        with self._path.open("a") as handle:
            handle.write(json.dumps({"update": update, **values}) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, update)
