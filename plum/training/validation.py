"""Validation during training: loss and micro-gIoU on held-out images, the best weights, and the early stop.

Answers are given (teacher-forced), as in the training batches, so a validation costs forward passes alone. It draws no
random number of the run and changes no weight: a run with validation has the losses and weights of one without.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Literal

import torch
import torch.distributed
from torch import Tensor, nn

from partonomy.files import convert_json, parse_json, write_text_atomically
from plum.checkpoints.weights import copy_tensors, list_tensors, write_tensors
from plum.data.collate import Collator
from plum.data.loader import load_listed
from plum.data.mixture import MixtureDataset
from plum.losses.losses import compute_losses, weighted_sum, with_tags_in_scope
from plum.losses.mask_losses import count_mask_pixels
from plum.structures import Batch
from plum.train_config import LossConfig, ValidationConfig
from plum.training.objective import Objective
from plum.training.ranks import Ranks

VALIDATIONS_FILE = "validations.jsonl"
"""A JSON line for each validation, in the run's folder."""
BEST_FOLDER = "best"
"""The trained weights of the best validation, in the run's folder."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validation:
    """Scores of the weights after an update on the held-out images.

    Attributes:
        update: number of updates done.
        loss: weighted training loss, mean over micro-batches, each weighted by its images; None if it is not finite.
        micro_giou: mean IoU over all masks, of given phrases, at original resolution; None without masks.
        num_images: images that were scored.
        num_masks: masks among them.
    """

    update: int
    loss: float | None
    micro_giou: float | None
    num_images: int
    num_masks: int

    def describe(self) -> str:
        """Return the scores in words."""
        loss = "loss not finite" if self.loss is None else f"loss {self.loss:.4f}"
        iou = "no masks" if self.micro_giou is None else f"micro-gIoU {100 * self.micro_giou:.1f} with given phrases"
        return f"{loss}, {iou}, {self.num_images} images"


class HeldOutImages:
    """Scores a model on held-out images, each once; collective.

    The micro-batches are the same for any number of ranks, and so are the scores. The ranks take them in turn; one that
    has none adds nothing to the sums.

    Args:
        objective: the model in training, and its losses.
        mixture: held-out samples.
        collator: makes batches as in training.
        config: number of images.
        micro_batch_size: images of a forward pass; the last one may have fewer.
        ranks: this process among the run's.
    """

    def __init__(
        self,
        objective: Objective,
        mixture: MixtureDataset,
        collator: Collator,
        config: ValidationConfig,
        *,
        micro_batch_size: int,
        ranks: Ranks,
    ) -> None:
        self.objective, self.mixture, self.collator, self.ranks = objective, mixture, collator, ranks
        positions = find_distinct(mixture, config.limit)
        starts = range(0, len(positions), micro_batch_size)
        micro_batches = [positions[start : start + micro_batch_size] for start in starts]
        self.micro_batches = micro_batches[ranks.rank :: ranks.world_size]

    def score(self, update: int) -> Validation:
        """Score the current weights. Collective: every rank returns the same numbers."""
        sums = torch.zeros(4, dtype=torch.float64)  # loss of each image, images, IoU, masks
        with _evaluating(self.objective.model):
            batches = load_listed(self.mixture, self.collator, self.micro_batches)
            for listed, batch in zip(self.micro_batches, batches, strict=True):
                sums += self._score(batch.to(self.ranks.device), len(listed))
        sums = sums.to(self.ranks.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        total, num_images, iou, num_masks = sums.tolist()
        loss = total / num_images if math.isfinite(total) else None
        return Validation(update, loss, iou / num_masks if num_masks else None, round(num_images), round(num_masks))

    def _score(self, batch: Batch, num_images: int) -> Tensor:
        """Return a micro-batch's loss for each image, images, sum of IoUs and number of masks, [4] on the CPU."""
        losses: LossConfig = self.objective.losses
        batch = with_tags_in_scope(batch, losses.bio_scope)
        output = self.objective.model(batch, with_teacher=losses.kl > 0)
        loss = weighted_sum(compute_losses(output, batch, losses), losses)
        pixels = count_mask_pixels(output.mask_logits, batch)
        ious = pixels.intersection / pixels.union.clamp(min=1)
        ious[pixels.union == 0] = 1.0
        return torch.tensor([float(loss) * num_images, num_images, float(ious.sum()), len(ious)], dtype=torch.float64)


def find_distinct(mixture: MixtureDataset, limit: int) -> list[int]:
    """Return the first positions of a mixture that hold each another record.

    A mixture draws its sources by weight, so that a small one repeats before a large one is through.

    Args:
        mixture: the samples, drawn without replacement.
        limit: largest number of positions; fewer if the sources have fewer records.
    """
    number = min(limit, sum(len(source) for source in mixture.sources))
    draws = ((position, mixture.locate(mixture.drawn_position(position))) for position in count())
    return list(islice((position for position, draw in draws if draw.epoch == 0), number))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off, and leave the random state and the modes of all modules as they were."""
    modes = {module: module.training for module in model.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


class RunValidation:
    """The validations of a run, in its folder, and the best weights so far.

    A validation follows the checkpoint of its update. A run that is killed between the two repeats it when it resumes.

    Args:
        folder: the run's folder.
        config: when to validate, what counts as better, and when to stop.
        images: scores the model.
        model: the model in training.
        ranks: this process among the run's.
    """

    def __init__(
        self, folder: Path, config: ValidationConfig, images: HeldOutImages, model: nn.Module, ranks: Ranks
    ) -> None:
        self.config, self.images, self.model, self.ranks = config, images, model, ranks
        self.validations: list[Validation] = []
        self._file, self._weights = folder / VALIDATIONS_FILE, folder / BEST_FOLDER

    def is_due(self, update: int, num_updates: int) -> bool:
        """Return whether the weights after an update are validated; those before the first update are, too."""
        return update % self.config.every == 0 or update == num_updates

    def resume(self, update: int, num_updates: int) -> Validation | None:
        """Read the validations up to the update of the checkpoint, and make its own if that is missing. Collective.

        Returns:
            The validation that was made, None if it was not missing.

        Raises:
            ValueError: a line of the file is damaged; the message names it.
        """
        self.validations = [one for one in read_validations(self._file) if one.update <= update]
        if self.is_due(update, num_updates) and update not in [one.update for one in self.validations]:
            return self.run(update)
        return None

    def run(self, update: int) -> Validation:
        """Score the weights, and keep them if they are the best so far. Collective."""
        found = self.images.score(update)
        self.validations.append(found)
        if self.ranks.is_main:
            if self.best() is found:
                self._keep(found)
            write_text_atomically(self._file, "".join(json.dumps(asdict(one)) + "\n" for one in self.validations))
            mark = "the best so far" if self.best() is found else f"best: update {self._best().update}"
            when = f"after update {update}" if update else "before training"
            logger.info("validation %s: %s (%s)", when, found.describe(), mark)
        self.ranks.barrier()
        return found

    def best(self) -> Validation | None:
        """Return the best validation, the earliest of equal ones; None before the first."""
        return best_of(self.validations, self.config.metric) if self.validations else None

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` validations were no better than the best one before them."""
        if not self.config.patience or not self.validations:
            return False
        return len(self.validations) - 1 - self.validations.index(self._best()) >= self.config.patience

    @torch.no_grad()
    def restore_best(self) -> Validation | None:
        """Copy the best weights into the model of the main rank, unless they are the last ones.

        Returns:
            The validation of the weights that the model then has; None if nothing was validated.

        Raises:
            FileNotFoundError: the best weights are missing.
            ValueError: they are damaged, or of other tensors or another update.
        """
        best = self.best()
        if best is None or best is self.validations[-1]:
            return best
        saved, trained = list_tensors(self._weights, _stem(best)), dict(_trained(self.model))
        if saved.keys() != trained.keys():
            raise ValueError(f"{self._weights} holds other tensors than the run trains; start it anew with --overwrite")
        copy_tensors([(tensor, name) for name, tensor in trained.items()], saved)
        return best

    def _best(self) -> Validation:
        best = self.best()
        assert best is not None
        return best

    def _keep(self, best: Validation) -> None:
        """Write the trained weights, then delete those that were the best before."""
        self._weights.mkdir(exist_ok=True)
        write_tensors({name: tensor.detach() for name, tensor in _trained(self.model)}, self._weights, _stem(best))
        for path in self._weights.iterdir():
            if not path.name.startswith(f"{_stem(best)}.") and not path.name.startswith(f"{_stem(best)}-"):
                path.unlink()


def _stem(validation: Validation) -> str:
    return f"update_{validation.update:06d}"


def best_of(validations: Sequence[Validation], metric: Literal["micro_giou", "loss"]) -> Validation:
    """Return the best validation by a metric, the earliest of equal ones; there is at least one."""

    def quality(validation: Validation) -> float:
        value = validation.micro_giou if metric == "micro_giou" else validation.loss
        return -math.inf if value is None else value if metric == "micro_giou" else -value

    return max(validations, key=quality)


def read_validations(path: Path) -> list[Validation]:
    """Read a run's validations; a last line that was not written to its end is left out.

    Raises:
        ValueError: a line is damaged; the message names the file and the line.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        where, cure = f"{path}, line {number}", "delete the line and start again"
        try:
            content = parse_json(line.encode(), f"{where}: not valid JSON")
        except ValueError as error:
            raise ValueError(f"{error}; {cure}") from error
        found.append(convert_json(content, Validation, where, cure))
    return found


def _trained(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
