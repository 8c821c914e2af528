"""The training loop: micro-batches in, updates, metrics and checkpoints out."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch

from partonomy.progress import Progress, progress
from plum.models.batch_plan import count_tokens
from plum.structures import Batch
from plum.train_config import TrainConfig
from plum.training.engine import Engine
from plum.training.exit_status import CheckpointError, RunStoppedError
from plum.training.objective import StepResult
from plum.training.run_checkpoints import ResumePoint, update_cut
from plum.training.run_folder import RunFolder
from plum.training.skipped_updates import SkippedUpdates
from plum.training.stop_requests import StopRequests
from plum.training.tracking import RunningTerms, Tracker, read_peak_memory
from plum.training.validation import RunValidation, Validation

logger = logging.getLogger(__name__)

LoaderFactory = Callable[[int, int], Iterator[Batch]]
"""(first micro-batch, number of micro-batches) -> this rank's batches."""


class Trainer:
    """Runs `config.num_updates` updates, resuming where the run directory stopped.

    No random state outlives a micro-batch: samples are a function of (seed, position), and dropout is seeded by (seed,
    position of the micro-batch's first sample). A resumed run therefore repeats the uninterrupted run exactly; on
    another number of ranks, up to the order of summation.

    Args:
        config: the run.
        engine: updates its parameters.
        make_batches: this rank's batches.
        run: where checkpoints and metrics go.
        resume_point: checkpoint to continue from; None to start.
        started: `time.monotonic()` when this start began, for `max_minutes`; None for now.
        validation: scores the weights on held-out images during the run; None: it does not.
    """

    def __init__(
        self,
        config: TrainConfig,
        engine: Engine,
        make_batches: LoaderFactory,
        run: RunFolder,
        resume_point: ResumePoint | None = None,
        *,
        started: float | None = None,
        validation: RunValidation | None = None,
    ) -> None:
        self.config = config
        self.engine = engine
        self.make_batches = make_batches
        self.run = run
        self.resume_point = resume_point
        self.validation = validation
        self.skipped = SkippedUpdates(config.stop_after_skipped, engine.ranks)
        self.requests = StopRequests(
            engine.ranks,
            config.max_minutes,
            config.save_every_minutes,
            time.monotonic() if started is None else started,
        )
        self.tracker = (
            Tracker(run.metrics_path, config.all_trackers, config.tracker_project, asdict(config))
            if engine.ranks.is_main
            else None
        )

    def fit(self) -> None:
        """Train to the last update, or until the validations say that it is enough.

        Raises:
            FloatingPointError: too many updates in a row had a non-finite loss or gradient; the message names the
                samples.
            RunStoppedError: a signal or the clock stopped the run, which has written a checkpoint.
            CheckpointError: a checkpoint could not be written.
            ValueError: a tracker cannot be opened, or the checkpoint does not fit.
        """
        has_failed = True
        try:
            self._fit()
            has_failed = False
        except RunStoppedError:
            has_failed = False
            raise
        finally:
            if self.tracker is not None:
                self.tracker.close(has_failed=has_failed)

    def _fit(self) -> None:
        self._resume()
        if self._is_over():
            return
        done = self.engine.num_updates_done
        with (
            progress(
                self.config.num_updates, self.run.root.name, "update", initial=done, is_shown=self.engine.ranks.is_main
            ) as shown,
            self.requests,
        ):
            self._run_updates(shown)

    def _run_updates(self, shown: Progress) -> None:
        accumulation = self.config.engine.accumulation
        first = self.engine.num_updates_done * accumulation
        total = self.config.num_updates * accumulation
        running, since = RunningTerms(), time.perf_counter()
        for micro_batch, batch in enumerate(self.make_batches(first, total - first), start=first):
            rate = self.engine.learning_rate
            running.add(self.run_micro_batch(micro_batch, batch), count_tokens(batch))
            if (micro_batch + 1) % accumulation:
                continue
            update = self.engine.num_updates_done
            running.end_update(was_skipped=self.engine.was_skipped)
            self.skipped.end_update(update, self.engine.was_skipped)
            shown.update()
            request, is_last = self.requests.agree(), update == self.config.num_updates
            is_validated = self.validation is not None and self.validation.is_due(update, self.config.num_updates)
            is_saved = bool(request) or is_last or is_validated or update % self.config.save_every == 0
            # Also at every checkpoint, so that no average spans one and a resumed run logs the same numbers.
            if is_saved or update % self.config.log_every == 0:
                self._log(update, rate, time.perf_counter() - since, running, shown)
                since = time.perf_counter()
            if is_saved:
                self._save(update)
                self.requests.end_save()
            if is_validated:
                self._validate(update)
                since = time.perf_counter()
                if self._is_over():
                    return
            if request.stops and not is_last:
                raise RunStoppedError(request, update, self.config.num_updates)

    def run_micro_batch(self, micro_batch: int, batch: Batch) -> StepResult:
        """Run forward, backward and step."""
        ranks, size = self.engine.ranks, self.config.engine.micro_batch_size
        position = (micro_batch * ranks.world_size + ranks.rank) * size
        torch.manual_seed(hash((self.config.seed, position)) % 2**63)
        pretext = self.config.part_pretext
        is_warmup = pretext is not None and self.engine.num_updates_done < pretext.warmup_updates
        result = self.engine.forward(batch.to(ranks.device), is_warmup)
        is_finite = torch.isfinite(result.total.detach())
        self.skipped.add(batch, is_finite)
        # The gradients tell all ranks, which then skip the update together. An infinite loss may have finite gradients,
        # hence the factor, 1 or NaN. It stays on the device, so the host does not wait for the loss.
        self.engine.backward(result.total * torch.where(is_finite, 1.0, torch.nan))
        self.engine.step()
        return result

    def _resume(self) -> None:
        """Load the run's checkpoint, if there is one, and forget metrics written after it."""
        if self.resume_point is not None:
            self.engine.load(self.resume_point.folder)
            logger.info("resumed %s at update %d", self.resume_point.folder, self.engine.num_updates_done)
            if (done := self.engine.num_updates_done) > self.config.num_updates:
                raise ValueError(
                    f"num_updates is {self.config.num_updates}, but {self.resume_point.folder} is at update {done} "
                    f"already; set num_updates to {done} to end the run there, or higher to continue"
                )
        if self.tracker is not None:
            self.tracker.start(self.engine.num_updates_done)
        if self.validation is not None:
            self._track(self.validation.resume(self.engine.num_updates_done, self.config.num_updates))

    def _is_over(self) -> bool:
        """Return whether the validations end the run before its last update."""
        return self.validation is not None and self.validation.is_over

    def _track(self, found: Validation | None) -> None:
        if self.tracker is not None and found is not None:
            self.tracker.log_validation(found.update, found.loss, found.micro_giou)

    def _validate(self, update: int) -> None:
        assert self.validation is not None
        self._track(self.validation.run(update))
        if self._is_over() and self.engine.ranks.is_main:
            logger.info(
                "the last %d validations were no better: the run ends after update %d of %d",
                self.validation.config.patience,
                update,
                self.config.num_updates,
            )

    def _log(self, update: int, rate: float, seconds: float, running: RunningTerms, shown: Progress) -> None:
        """Average over ranks and write one line of metrics, of the updates since the last line. Collective."""
        num_updates = running.updates
        means = running.read(self.engine.ranks.device)
        tokens = means.pop("tokens")
        images = num_updates * update_cut(self.config.engine, self.engine.ranks.world_size).images
        values: dict[str, float | None] = {
            **means,
            "learning_rate": rate,
            "gradient_norm": self.engine.gradient_norm(),
            "seconds_per_update": seconds / num_updates,
            "images_per_second": images / seconds,
            "tokens_per_second": tokens / seconds,
            "peak_memory_gb": read_peak_memory(self.engine.ranks.device),
        }
        if self.tracker is not None:
            self.tracker.log(update, values)
        shown.set_note(f"loss {means.get('loss_total', float('nan')):.3f}")

    def _save(self, update: int) -> None:
        """Write a checkpoint to a temporary folder, then commit it. Collective.

        Raises:
            CheckpointError: the disk is full, another rank died, or not every rank's files are in the folder.
        """
        ranks, checkpoints = self.engine.ranks, self.run.checkpoints
        partial = checkpoints.partial(update)
        try:
            self.engine.save(partial)
            ranks.barrier()
            if ranks.is_main:
                checkpoints.commit(partial, update, update_cut(self.config.engine, ranks.world_size))
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(self.run.root).free / 1e9
            raise CheckpointError(
                f"the checkpoint of update {update} was not written on rank {ranks.rank}: {error}. {free:.1f} GB are "
                f"free at {self.run.root}; the previous checkpoint is kept, and the same command resumes from it"
            ) from error
        ranks.barrier()
