"""Engines that turn losses into updates: DeepSpeed (ZeRO-2 or ZeRO-1), torch's DistributedDataParallel, and a plain
single-process twin.

The engine alone owns accumulation, clipping and the schedule: the trainer calls forward, backward and step for every
micro-batch and never rescales a loss. The engine also keeps the ranks consistent: whatever their batches lack (images,
phrases, masks), every trained tensor gets a gradient, and DeepSpeed or DistributedDataParallel receives the gradients
in the same order on every rank (plum/training/gradients.py).
"""

import contextlib
import copyreg
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from plum.structures import Batch
from plum.train_config import EngineConfig, OptimizerConfig
from plum.training.gradients import GradientSource, micro_batch_gradients, named_trained_parameters
from plum.training.objective import Objective, StepResult
from plum.training.optimizer import apply_schedule, build_optimizer, build_scheduler
from plum.training.ranks import Ranks
from plum.training.run_checkpoints import WHOLE_FILE


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


class TorchEngine(Engine):
    """Updates by torch alone: every rank holds all trained weights, their gradients and AdamW's moments in float32.

    A checkpoint is one file, so any number of ranks can read it.

    Args:
        objective: model and losses, already on the device and in the dtype of its computation.
        weights: the trained weights in float32 by their names in `objective`; they are the model's own parameters if
            it computes in float32.
        config: how updates are computed.
        optimizer: AdamW and its schedule.
        num_updates: updates of the whole run.
        ranks: this process among the run's.
    """

    def __init__(
        self,
        objective: Objective,
        weights: dict[str, nn.Parameter],
        config: EngineConfig,
        optimizer: OptimizerConfig,
        *,
        num_updates: int,
        ranks: Ranks,
    ) -> None:
        super().__init__(config, ranks)
        self.objective = objective
        self._weights = weights
        self._clip = optimizer.gradient_clip
        self._optimizer = build_optimizer(weights.values(), optimizer)
        self._scheduler = build_scheduler(self._optimizer, num_updates, optimizer)
        self._schedule = optimizer
        self._micro_batches = 0
        self._updates = 0
        self._was_skipped = False
        self._norm: Tensor | None = None

    def forward(self, batch: Batch, is_warmup: bool = False) -> StepResult:
        """Return the losses of one micro-batch."""
        return self.objective(batch, is_warmup)

    def step(self) -> None:
        """Count a micro-batch; after the last one of an update, clip and apply the gradients."""
        self._micro_batches += 1
        if self._micro_batches % self.config.accumulation:
            return
        norm = torch.nn.utils.clip_grad_norm_(self._weights.values(), self._clip)
        self._was_skipped = not bool(torch.isfinite(norm))
        self._norm = None if self._was_skipped else norm
        if not self._was_skipped:
            self._optimizer.step()
            self._pass_on()
        self._scheduler.step()
        self._clear_gradients()
        self._updates += 1

    def _pass_on(self) -> None:
        """Give the model the updated weights, unless they are its own."""

    def _clear_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

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
        """Write float32 weights, optimizer and schedule to a new `folder`, on the main rank alone: all have the same.

        Args:
            folder: a new folder on a file system that all nodes share.
        """
        if not self.ranks.is_main:
            return
        folder.mkdir(parents=True)
        torch.save(
            {
                "trainable": {name: weight.detach() for name, weight in self._weights.items()},
                "optimizer": self._optimizer.state_dict(),
                "scheduler": {"last_epoch": self._scheduler.last_epoch},
                "updates": self._updates,
            },
            folder / WHOLE_FILE,
        )

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; every rank reads it.

        Raises:
            FileNotFoundError: the folder holds no checkpoint.
            ValueError: the checkpoint has other trainable tensors.
        """
        state = torch.load(folder / WHOLE_FILE, map_location=self.ranks.device, weights_only=True)
        _require_same_names(set(self._weights), set(state["trainable"]), folder)
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(state["trainable"][name])
        self._pass_on()
        self._optimizer.load_state_dict(state["optimizer"])
        self._updates = state["updates"]
        self._micro_batches = self._updates * self.config.accumulation
        apply_schedule(self._optimizer, self._scheduler, self._schedule, state["scheduler"]["last_epoch"])


class PlainEngine(TorchEngine):
    """Single-process float32 engine for tests, debugging and machines without DeepSpeed.

    Args:
        objective: model and losses.
        config: how updates are computed.
        optimizer: AdamW and its schedule.
        num_updates: updates of the whole run.
        ranks: the only process of the run.

    Raises:
        ValueError: the configuration asks for bfloat16, there are several ranks, or nothing is trainable.
    """

    def __init__(
        self, objective: Objective, config: EngineConfig, optimizer: OptimizerConfig, num_updates: int, ranks: Ranks
    ) -> None:
        if config.precision != "fp32":
            raise ValueError(
                f"engine.precision: the plain engine trains in fp32 only, not {config.precision!r}; use ddp"
            )
        if ranks.world_size != 1:
            raise ValueError(f"engine.kind: plain runs one process, not {ranks.world_size}; use ddp or deepspeed")
        objective = objective.to(ranks.device)
        weights = named_trained_parameters(objective)
        super().__init__(objective, weights, config, optimizer, num_updates=num_updates, ranks=ranks)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss` / accumulation, with zeros for tensors that it does not depend on."""
        if loss.requires_grad:
            (loss / self.config.accumulation).backward()
        for parameter in self._weights.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


class DdpEngine(TorchEngine):
    """torch's DistributedDataParallel on any number of ranks, in float32 or bfloat16, without DeepSpeed.

    In bfloat16, model, activations and the gradients of a micro-batch are bfloat16; weights, accumulated gradients,
    their reduction and AdamW's moments are float32, as with DeepSpeed. The model then holds a rounded copy of the
    weights.

    DistributedDataParallel does not wrap the model, whose graph depends on the batch. It wraps the chain of
    `GradientSource`, which is the same for every batch and uses each weight once. It therefore needs neither
    `find_unused_parameters` nor `static_graph`, and gradient checkpointing takes place outside of it.

    A resumed run repeats an uninterrupted one to the bit because the first reduction adds and rounds like all others.
    By default it does not: DistributedDataParallel rearranges its buckets after it, and multiplies by 1 / ranks where
    it later divides. Here all gradients lie in one bucket, in the order in which they arrive, and a hook divides.

    Args:
        objective: model and losses.
        config: how updates are computed.
        optimizer: AdamW and its schedule.
        num_updates: updates of the whole run.
        ranks: this process among the run's.

    Raises:
        ValueError: nothing is trainable.
    """

    def __init__(
        self, objective: Objective, config: EngineConfig, optimizer: OptimizerConfig, num_updates: int, ranks: Ranks
    ) -> None:
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        objective = objective.to(ranks.device, dtype)
        self._parameters = named_trained_parameters(objective)
        weights = {
            name: parameter if dtype == torch.float32 else nn.Parameter(parameter.detach().float())
            for name, parameter in self._parameters.items()
        }
        super().__init__(objective, weights, config, optimizer, num_updates=num_updates, ranks=ranks)
        held = nn.ParameterList(weights.values())
        self._reduced = DistributedDataParallel(
            GradientSource(nn.ModuleList([held]), first_to_last=True),
            bucket_cap_mb=1 + sum(weight.nbytes for weight in held) // 2**20,
            gradient_as_bucket_view=True,
        )
        self._reduced.register_comm_hook(None, allreduce_hook)
        self._pass_on()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss` / accumulation; the last micro-batch of an update reduces the sums."""
        gradients = micro_batch_gradients(loss / self.config.accumulation, [*self._parameters.values()])
        is_last = (self._micro_batches + 1) % self.config.accumulation == 0
        with contextlib.nullcontext() if is_last else self._reduced.no_sync():
            self._reduced(gradients).backward()

    def _pass_on(self) -> None:
        if self.config.precision == "bf16":
            with torch.no_grad():
                torch._foreach_copy_([*self._parameters.values()], [*self._weights.values()])

    def _clear_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=False)  # they are views of the bucket, in which the next ones accumulate


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
        import deepspeed  # noqa: PLC0415  (inference and the other engines must run without it)

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
            config=deepspeed_settings(
                config, optimizer, loads_universal, num_trained=sum(parameter.numel() for parameter in self._parameters)
            ),
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
    config: EngineConfig, optimizer: OptimizerConfig, loads_universal: bool = False, *, num_trained: int
) -> dict[str, object]:
    """Return DeepSpeed's own configuration for an engine configuration that trains `num_trained` numbers."""
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": optimizer.gradient_clip,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": {
            "stage": config.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,  # nothing to overlap with: the backward pass is over when gradients are reduced
            "reduce_bucket_size": min(config.reduce_bucket_size, num_trained),  # it allocates buffers of this size
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
    if config.kind == "ddp":
        return DdpEngine(objective, config, optimizer, num_updates, ranks)
    return DeepSpeedEngine(objective, config, optimizer, num_updates, ranks, loads_universal=loads_universal)


def _require_same_names(own: set[str], saved: set[str], folder: Path) -> None:
    """Refuse a checkpoint whose trainable tensors differ from this run's."""
    if own != saved:
        raise ValueError(
            f"checkpoint {folder} does not fit this run: it lacks {sorted(own - saved)[:5]} "
            f"and has unexpected {sorted(saved - own)[:5]}; resume with the configuration that wrote it"
        )
