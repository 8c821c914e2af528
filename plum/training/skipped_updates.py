"""Updates that every rank skipped because a loss or gradient was not finite.

Each is reported with its samples; several in a row end the run.
"""

import logging

import torch.distributed
from torch import Tensor

from plum.structures import Batch
from plum.training.ranks import Ranks

logger = logging.getLogger(__name__)


class SkippedUpdates:
    """Watches the micro-batches of one rank.

    Args:
        stop_after: number of skipped updates in a row that ends the run.
        ranks: this process among the run's.
    """

    def __init__(self, stop_after: int, ranks: Ranks) -> None:
        self.stop_after = stop_after
        self.ranks = ranks
        self.num_in_row = 0
        self._samples: list[str] = []
        self._micro_batches: list[tuple[Tensor, tuple[str, ...]]] = []

    def add(self, batch: Batch, is_finite: Tensor) -> None:
        """Note the samples of a micro-batch, and whether its loss was finite, bool []; read after a skipped update."""
        self._samples += batch.sample_ids
        self._micro_batches.append((is_finite, batch.sample_ids))

    def end_update(self, update: int, was_skipped: bool) -> None:
        """Close an update. Collective if it was skipped, on which all ranks agree.

        Raises:
            FloatingPointError: too many updates in a row were skipped; the message names the samples of the last one.
        """
        self.num_in_row = self.num_in_row + 1 if was_skipped else 0
        if was_skipped:
            reason = self._describe()
            if self.num_in_row >= self.stop_after:
                raise FloatingPointError(
                    f"update {update}: {reason}. {self.num_in_row} updates in a row were skipped, so the run stops "
                    "(stop_after_skipped). Lower the learning rate, or check these samples' images and masks"
                )
            logger.warning("update %d was skipped: %s", update, reason)
        self._samples, self._micro_batches = [], []

    def _describe(self) -> str:
        """Name the micro-batches whose loss was not finite, on any rank; if only gradients were not, name all."""
        own = [name for is_finite, names in self._micro_batches if not bool(is_finite) for name in names]
        suspects = self._gather(own)
        if any(suspects):
            return "loss is not finite, " + _by_rank(suspects)
        return "gradient is not finite, " + _by_rank(self._gather(self._samples))

    def _gather(self, names: list[str]) -> list[list[str]]:
        """Return the lists of all ranks."""
        gathered: list[list[str]] = [names] * self.ranks.world_size
        if self.ranks.world_size > 1:
            torch.distributed.all_gather_object(gathered, names)
        return gathered


def _by_rank(names: list[list[str]]) -> str:
    return "; ".join(f"rank {rank}, samples {', '.join(own)}" for rank, own in enumerate(names) if own)
