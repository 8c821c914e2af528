"""Engines that turn losses into updates: DeepSpeed (ZeRO-2 or ZeRO-1), and a plain single-process twin.

The engine alone owns accumulation, clipping and the schedule: the trainer calls forward, backward and step for every
micro-batch and never rescales a loss. The engine also keeps the ranks consistent: whatever their batches lack (images,
phrases, masks), every trained tensor gets a gradient, and DeepSpeed receives the gradients in the same order on every
rank (plum/training/gradients.py).
"""

import copyreg
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from plum.structures import Batch
from plum.train_config import EngineConfig, OptimizerConfig
from plum.training.gradients import GradientSource, micro_batch_gradients, trained_parameters
from plum.training.objective import Objective, StepResult
from plum.training.optimizer import apply_schedule, build_optimizer, build_scheduler
from plum.training.ranks import Ranks


class Engine(ABC):
    """Updates the trainable parameters of an `Objective`."""

    def __init__(self, config: EngineConfig, ranks: Ranks) -> None:
        self.config = config
        self.ranks = ranks

    @abstractmethod
    def forward(self, batch: Batch, is_warmup: bool = False) -> StepResult:
        """Return the losses of one micro-batch (already on this rank's device); see `Objective.forward`."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss` / accumulation; trained tensors that it does not depend on get zeros."""

    @abstractmethod
    def step(self) -> None:
        """Count a micro-batch; after the last one of an update, clip, update and advance the schedule.

        If a gradient is not finite on any rank, all ranks skip the update; it still counts and advances the schedule.
        """

    @property
    @abstractmethod
    def was_skipped(self) -> bool:
        """Whether the last update was skipped; the same on every rank."""

    @abstractmethod
    def gradient_norm(self) -> float | None:
        """Return the norm of the last update's gradient over all trained weights, before clipping.

        The value is copied from the device here, so read it when it is logged, not after every update.

        Returns:
            The 2-norm of the mean gradient; None before the first update and after a skipped one.
        """

    @property
    @abstractmethod
    def num_updates_done(self) -> int:
        """Number of updates so far, skipped ones included."""

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """Learning rate of the next update."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write trainable weights, optimizer and schedule to a new `folder`. Collective: every rank calls it."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Restore what `save` wrote to `folder`. Collective.

        Raises:
            FileNotFoundError: the folder holds no checkpoint.
            ValueError: the checkpoint has other trainable tensors.
        """


class PlainEngine(Engine):
    """Single-process float32 engine for tests, debugging and machines without DeepSpeed."""

    def __init__(
        self, objective: Objective, config: EngineConfig, optimizer: OptimizerConfig, num_updates: int, ranks: Ranks
    ) -> None:
        super().__init__(config, ranks)
        if config.precision != "fp32":
            raise ValueError(f"engine.precision: the plain engine trains in fp32 only, not {config.precision!r}")
        if ranks.world_size != 1:
            raise ValueError(f"engine.kind: plain runs one process, not {ranks.world_size}; use deepspeed")
        self.objective = objective.to(ranks.device)
        self._parameters = trained_parameters(objective)
        self._clip = optimizer.gradient_clip
        self._optimizer = build_optimizer(self._parameters, optimizer)
        self._scheduler = build_scheduler(self._optimizer, num_updates, optimizer)
        self._schedule = optimizer
        self._micro_batches = 0
        self._updates = 0
        self._was_skipped = False
        self._norm: Tensor | None = None

    def forward(self, batch: Batch, is_warmup: bool = False) -> StepResult:
        """Return the losses of one micro-batch."""
        return self.objective(batch, is_warmup)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss` / accumulation, with zeros for tensors that it does not depend on."""
        if loss.requires_grad:
            (loss / self.config.accumulation).backward()
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def step(self) -> None:
        """Count a micro-batch; after the last one of an update, clip and apply the gradients."""
        self._micro_batches += 1
        if self._micro_batches % self.config.accumulation:
            return
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._was_skipped = not bool(torch.isfinite(norm))
        self._norm = None if self._was_skipped else norm
        if not self._was_skipped:
            self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._updates += 1

    @property
    def was_skipped(self) -> bool:
        """Whether the last update was skipped because its gradient was not finite."""
        return self._was_skipped

    def gradient_norm(self) -> float | None:
        """Return the norm of the last update's gradient before clipping; None after a skipped update."""
        return None if self._norm is None else float(self._norm)

    @property
    def num_updates_done(self) -> int:
        """Number of updates so far, skipped ones included."""
        return self._updates

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        return float(self._scheduler.get_last_lr()[0])

    def save(self, folder: Path) -> None:
        """Write trainable weights, optimizer and schedule to a new `folder` as `plain.pt`."""
        folder.mkdir(parents=True)
        torch.save(
            {
                "trainable": {n: p.detach() for n, p in self.objective.named_parameters() if p.requires_grad},
                "optimizer": self._optimizer.state_dict(),
                "scheduler": {"last_epoch": self._scheduler.last_epoch},
                "updates": self._updates,
            },
            folder / "plain.pt",
        )

    def load(self, folder: Path) -> None:
        """Restore `plain.pt`.

        Raises:
            ValueError: the checkpoint has other trainable tensors.
        """
        state = torch.load(folder / "plain.pt", map_location=self.ranks.device, weights_only=True)
        own = {name: p for name, p in self.objective.named_parameters() if p.requires_grad}
        _require_same_names(set(own), set(state["trainable"]), folder)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state["trainable"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._updates = state["updates"]
        self._micro_batches = self._updates * self.config.accumulation
        apply_schedule(self._optimizer, self._scheduler, self._schedule, state["scheduler"]["last_epoch"])


class DeepSpeedEngine(Engine):
    """DeepSpeed with ZeRO-2 (PLUM paper, A.1: ZeRO-2 with bf16, gradient accumulation 10) or ZeRO-1.

    Each rank holds the full gradients of a micro-batch, in the model's dtype, until DeepSpeed has reduced them.
    Gradients accumulated over micro-batches are float32, and ZeRO-2 shards them over the ranks.

    Args:
        objective: model and losses.
        config: how updates are computed.
        optimizer: AdamW and its schedule.
        num_updates: updates of the whole run.
        ranks: this process among the run's.
        loads_universal: whether `load` will get a checkpoint in universal form; DeepSpeed must know in advance.
    """

    def __init__(
        self,
        objective: Objective,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        num_updates: int,
        ranks: Ranks,
        *,
        loads_universal: bool = False,
    ) -> None:
        super().__init__(config, ranks)
        import deepspeed  # noqa: PLC0415  (inference and the plain engine must run without it)

        _pickle_stages_by_value()
        self.objective = objective
        source = GradientSource(objective)
        self._parameters = source.trained
        self._adamw = adamw = build_optimizer(self._parameters, optimizer)
        self._scheduler, self._schedule = build_scheduler(adamw, num_updates, optimizer), optimizer
        self._engine, *_ = deepspeed.initialize(
            model=source,
            model_parameters=self._parameters,
            optimizer=adamw,
            lr_scheduler=self._scheduler,
            config=deepspeed_settings(config, optimizer, loads_universal),
        )
        self._was_skipped = False
        self._trainable_names = {name for name, p in objective.named_parameters() if p.requires_grad}

    def forward(self, batch: Batch, is_warmup: bool = False) -> StepResult:
        """Return the losses of one micro-batch."""
        return self.objective(batch, is_warmup)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of `loss` / accumulation and pass them to DeepSpeed, which accumulates them."""
        gradients = micro_batch_gradients(loss / self.config.accumulation, self._parameters)
        self._engine.backward(self._engine(gradients))

    def step(self) -> None:
        """Count a micro-batch; DeepSpeed updates after the last one. A skipped update still advances the schedule."""
        num_skipped = self._engine.skipped_steps
        self._engine.step()
        self._was_skipped = self._engine.skipped_steps > num_skipped
        if self._was_skipped:  # DeepSpeed would hold its schedule; here the rate follows the update's number
            self._engine.lr_scheduler.step()

    @property
    def was_skipped(self) -> bool:
        """Whether DeepSpeed skipped the last update because a gradient was not finite."""
        return self._was_skipped

    def gradient_norm(self) -> float | None:
        """Return the norm of the last update's gradient over all ranks before clipping; None after a skipped update."""
        norm = None if self._was_skipped else self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    @property
    def num_updates_done(self) -> int:
        """Number of updates so far, skipped ones included."""
        return int(self._engine.global_steps)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        return float(self._engine.get_lr()[0])

    def save(self, folder: Path) -> None:
        """Write DeepSpeed's checkpoint to `folder`. Collective: every rank calls it.

        Frozen weights are left out, of which every rank would write its own copy.

        Args:
            folder: a new folder on a file system that all nodes share; its name becomes DeepSpeed's tag.
        """
        self._engine.save_checkpoint(
            str(folder.parent),
            tag=folder.name,
            client_state={"trainable_names": sorted(self._trainable_names)},
            save_latest=False,
            exclude_frozen_parameters=True,
        )

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote. Collective.

        Raises:
            FileNotFoundError: the folder holds no DeepSpeed checkpoint.
            ValueError: the checkpoint has other trainable tensors.
        """
        # DeepSpeed unpickles; `plum.training.safe_checkpoints` has looked at what the files would build.
        path, client_state = self._engine.load_checkpoint(str(folder.parent), tag=folder.name, load_module_strict=False)
        if path is None:
            raise FileNotFoundError(f"no DeepSpeed checkpoint in {folder}; delete it to continue from an earlier one")
        _require_same_names(self._trainable_names, set(client_state["trainable_names"]), folder)
        apply_schedule(self._adamw, self._scheduler, self._schedule, self._scheduler.last_epoch)


def _pickle_stages_by_value() -> None:
    """Let checkpoints name no function: Python 3.11.2, for one, pickles members of an Enum as calls of getattr."""
    from deepspeed.runtime.zero.config import ZeroStageEnum  # noqa: PLC0415

    copyreg.pickle(ZeroStageEnum, lambda stage: (ZeroStageEnum, (stage.value,)))


def deepspeed_settings(
    config: EngineConfig, optimizer: OptimizerConfig, loads_universal: bool = False
) -> dict[str, object]:
    """Return DeepSpeed's own configuration for an engine configuration."""
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": optimizer.gradient_clip,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": {
            "stage": config.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,  # nothing to overlap with: the backward pass is over when gradients are reduced
            "reduce_bucket_size": config.reduce_bucket_size,
        },
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "checkpoint": {"load_universal": loads_universal},
        "steps_per_print": 10**9,
    }


def build_engine(
    objective: Objective,
    config: EngineConfig,
    optimizer: OptimizerConfig,
    num_updates: int,
    ranks: Ranks,
    *,
    loads_universal: bool = False,
) -> Engine:
    """Return the engine that `config.kind` names; see `DeepSpeedEngine` for the arguments."""
    if config.kind == "plain":
        return PlainEngine(objective, config, optimizer, num_updates, ranks)
    return DeepSpeedEngine(objective, config, optimizer, num_updates, ranks, loads_universal=loads_universal)


def _require_same_names(own: set[str], saved: set[str], folder: Path) -> None:
    """Refuse a checkpoint whose trainable tensors differ from this run's."""
    if own != saved:
        raise ValueError(
            f"checkpoint {folder} does not fit this run: it lacks {sorted(own - saved)[:5]} "
            f"and has unexpected {sorted(saved - own)[:5]}; resume with the configuration that wrote it"
        )
