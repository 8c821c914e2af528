"""The training loop: micro-batches in, updates, metrics and checkpoints out."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed
from tqdm import tqdm

from plum.config import TrainConfig
from plum.structures import Batch
from plum.training.engine import Engine
from plum.training.objective import StepResult
from plum.training.run_directory import RunDirectory
from plum.training.tracking import RunningTerms, Tracker

logger = logging.getLogger(__name__)

LoaderFactory = Callable[[int, int], Iterator[Batch]]
"""(first micro-batch, number of micro-batches) -> this rank's batches."""


class Trainer:
    """Runs `config.num_updates` updates, resuming where the run directory stopped.

    Nothing random outlives a micro-batch: samples are a function of (seed, position) and dropout is seeded by (seed,
    rank, micro-batch), so that resuming repeats the uninterrupted run exactly.
    """

    def __init__(self, config: TrainConfig, engine: Engine, make_batches: LoaderFactory, run: RunDirectory) -> None:
        self.config = config
        self.engine = engine
        self.make_batches = make_batches
        self.run = run
        self.tracker = Tracker(run.metrics_path, config.tensorboard) if engine.ranks.is_main else None

    def fit(self) -> None:
        """Train to the last update."""
        self._resume()
        accumulation = self.config.engine.accumulation
        first = self.engine.num_updates_done * accumulation
        total = self.config.num_updates * accumulation
        running, since = RunningTerms(), time.perf_counter()
        progress = tqdm(
            total=self.config.num_updates,
            initial=self.engine.num_updates_done,
            desc=self.run.root.name,
            unit="update",
            disable=not self.engine.ranks.is_main,
        )
        for micro_batch, batch in enumerate(self.make_batches(first, total - first), start=first):
            rate = self.engine.learning_rate
            result = self.run_micro_batch(micro_batch, batch)
            running.add(result)
            if (micro_batch + 1) % accumulation:
                continue
            update = self.engine.num_updates_done
            progress.update()
            if update % self.config.log_every == 0 or update == self.config.num_updates:
                seconds = (time.perf_counter() - since) / max(1, running.micro_batches)
                self._log(update, rate, seconds * accumulation, running, progress)
                since = time.perf_counter()
            if update % self.config.save_every == 0 or update == self.config.num_updates:
                self._save(update)
        progress.close()

    def run_micro_batch(self, micro_batch: int, batch: Batch) -> StepResult:
        """Forward, backward, step.

        Raises:
            FloatingPointError: the loss is not finite; names the terms and the samples.
        """
        ranks = self.engine.ranks
        torch.manual_seed(hash((self.config.seed, ranks.rank, micro_batch)) % 2**63)
        pretext = self.config.part_pretext
        towers_only = pretext is not None and self.engine.num_updates_done < pretext.warmup_updates
        result = self.engine.forward(batch.to(ranks.device), towers_only)
        if not bool(torch.isfinite(result.total.detach())):
            raise FloatingPointError(
                f"loss is not finite at micro-batch {micro_batch} on rank {ranks.rank}: {result.terms}; "
                f"samples {', '.join(batch.sample_ids)}. Lower the learning rate, or check these samples' masks"
            )
        self.engine.backward(result.total)
        self.engine.step()
        return result

    def _resume(self) -> None:
        """Load the newest checkpoint, if there is one, and forget metrics written after it."""
        checkpoint = self.run.latest_checkpoint()
        if checkpoint is not None:
            self.engine.load(checkpoint)
            logger.info("resumed %s at update %d", checkpoint, self.engine.num_updates_done)
        if self.tracker is not None:
            self.tracker.forget_after(self.engine.num_updates_done)

    def _log(self, update: int, rate: float, seconds: float, running: RunningTerms, progress: tqdm) -> None:
        """Average over ranks and write one line of metrics."""
        values = running.read(self.engine.ranks.device)
        images = self.config.engine.micro_batch_size * self.config.engine.accumulation * self.engine.ranks.world_size
        values |= {"learning_rate": rate, "seconds_per_update": seconds, "images_per_second": images / seconds}
        if self.tracker is not None:
            self.tracker.log(update, values)
        progress.set_postfix(loss=f"{values['loss_total']:.3f}", refresh=False)

    def _save(self, update: int) -> None:
        """Write a checkpoint to a new place, then switch to it. Collective."""
        partial = self.run.partial_checkpoint(update)
        if self.engine.ranks.is_main and partial.exists():
            shutil.rmtree(partial)
        self.barrier()
        self.engine.save(partial)
        self.barrier()
        if self.engine.ranks.is_main:
            self.run.commit_checkpoint(partial)
        self.barrier()

    def barrier(self) -> None:
        """Wait for the other ranks."""
        if self.engine.ranks.world_size > 1:
            torch.distributed.barrier()
