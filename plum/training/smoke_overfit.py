"""Sanity check: can this set-up overfit 8 samples? Train on them until they are memorised, then ask for them.

It detects a broken set-up (nothing trained, a wrong learning rate, masks paired with the wrong words, a prompt that
differs between training and inference) within minutes.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch.distributed

from partonomy.files import write_text_atomically
from partonomy.masks import decode_mask
from partonomy.models.contract import Role, Turn
from partonomy.progress import counted, progress
from plum.data.mixture import MixtureDataset
from plum.data.sources.base import longest_text
from plum.inference.predictor import Predictor
from plum.structures import Exchange, Sample
from plum.train_config import SourceConfig, TrainConfig
from plum.training.ranks import Ranks, on_main_rank, require_shared_folder, start_ranks
from plum.training.run import TrainingParts, build_parts, fit, leave_ranks
from plum.training.run_folder import RunFolder

NUM_SAMPLES = 8
SEARCHED_POSITIONS = 2000
"""Number of positions of the mixture that are searched for samples with masks."""
MAX_LOSS_SHARE = 0.25
"""Largest accepted ratio of the last loss to the first. Memorised samples reach a few hundredths."""
MIN_IOU = 0.7
"""Smallest accepted mean over the samples' masks, with given phrases. Untrained masks reach about 0.1."""
MIN_REPRODUCED = 0.75
"""Smallest accepted share of answers that greedy decoding reproduces word for word."""


@dataclass(frozen=True)
class Check:
    """One check of the run and its result."""

    name: str
    is_passed: bool
    finding: str


@dataclass(frozen=True)
class SmokeReport:
    """All checks of a run, and the ids of its samples."""

    checks: tuple[Check, ...]
    sample_ids: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        """Whether every check passed."""
        return all(check.is_passed for check in self.checks)


class FixedSamples:
    """A source of given samples."""

    name = "overfit"

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return the sample at `index`; nothing is random."""
        return self.samples[index]

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the sample's longest conversation."""
        return longest_text(self.samples[index].conversations)

    def exchanges(self) -> Iterator[Exchange]:
        """Yield the exchanges of all samples."""
        for sample in self.samples:
            yield from (exchange for conversation in sample.conversations for exchange in conversation)


def run_smoke_overfit(config: TrainConfig, num_updates: int, data_folder: str | None = None) -> SmokeReport:
    """Train on the first 8 samples with masks and check what was learnt. Collective; every rank gets the report.

    Args:
        config: configuration of the run to check; its model, losses, learning rate, precision and adapters are used.
        num_updates: number of updates, each of 8 images.
        data_folder: data set in partonomy's own form that replaces the configuration's data.

    Raises:
        ValueError: the configuration cannot be trained, or has too few samples with masks.
    """
    ranks = start_ranks(config.engine)
    config = smoke_config(config, num_updates, ranks.world_size, data_folder)
    run = RunFolder(config)
    on_main_rank(ranks, lambda: run.prepare(overwrite=True))  # an earlier trial: only this program uses the name
    require_shared_folder(run.root, ranks)
    parts = build_parts(config, ranks.device)
    samples = pick_samples(parts.mixture)
    vocabulary = parts.mixture.part_vocabulary
    parts = replace(parts, mixture=MixtureDataset([FixedSamples(samples)], [1.0], config.seed, vocabulary))
    fit(config, parts, run, ranks, resume_point=None)
    reports: list[SmokeReport | None] = [None]
    if ranks.is_main:
        report = SmokeReport(
            (_check_loss(run.metrics_path), *_check_answers(parts, samples)), tuple(one.sample_id for one in samples)
        )
        write_text_atomically(run.root / "smoke_overfit.json", json.dumps(asdict(report), indent=2) + "\n")
        shutil.rmtree(run.checkpoints.folder)
        reports = [report]
    return _share(reports, ranks)


def smoke_config(config: TrainConfig, num_updates: int, num_ranks: int, data_folder: str | None) -> TrainConfig:
    """Return the configuration that overfits: 8 images per update, all updates logged, in a folder next to the run's.

    Raises:
        ValueError: 8 images cannot be divided among the ranks.
    """
    if NUM_SAMPLES % num_ranks:
        raise ValueError(f"{num_ranks} ranks cannot share {NUM_SAMPLES} samples equally: use 1, 2, 4 or 8")
    per_rank = NUM_SAMPLES // num_ranks
    size = max(size for size in range(1, min(config.engine.micro_batch_size, per_rank) + 1) if per_rank % size == 0)
    engine = replace(config.engine, micro_batch_size=size, accumulation=per_rank // size, num_workers=0)
    optimizer = replace(config.optimizer, warmup_updates=min(config.optimizer.warmup_updates, num_updates // 10))
    pretext = None if config.part_pretext is None else replace(config.part_pretext, warmup_updates=0)
    data = replace(config.data, group_by_length=0, spread_lengths=0)
    if data_folder is not None:
        kind = "explanatory" if (Path(data_folder) / "questions.jsonl").exists() else "part_semantic"
        # Lists unite instances of one name; questions about single instances can be ambiguous, and are never memorised.
        targets = "authors" if kind == "explanatory" else "lists"
        source = SourceConfig(kind, data_folder, targets=targets)  # type: ignore[arg-type]  # one of each's values
        data = replace(data, sources=(source,), groups=(), exclude_images=(), count_images=())
    run_dir = Path(config.run_dir)
    return replace(
        config,
        run_dir=str(run_dir.with_name(f"{run_dir.name}_smoke_overfit")),
        num_updates=num_updates,
        log_every=1,
        save_every=num_updates,
        engine=engine,
        optimizer=optimizer,
        part_pretext=pretext,
        validation=None,
        data=data,
    )


def pick_samples(mixture: MixtureDataset) -> list[Sample]:
    """Return the first 8 samples of different images that have masks, with one conversation each.

    Raises:
        ValueError: there are fewer.
    """
    found: dict[bytes, Sample] = {}
    for position in range(SEARCHED_POSITIONS):
        sample = mixture[position]
        masked = [one for one in sample.conversations if any(exchange.masks for exchange in one)]
        if sample.image is not None and masked:
            found.setdefault(sample.image.tobytes(), replace(sample, conversations=(masked[0],)))
        if len(found) == NUM_SAMPLES:
            return list(found.values())
    raise ValueError(
        f"the data hold {len(found)} different images with masks among the first {SEARCHED_POSITIONS} samples; this "
        f"check needs {NUM_SAMPLES}; add images, or pass --data_folder"
    )


def _check_loss(metrics: Path) -> Check:
    """Compare the first and the last loss of the run."""
    losses = [json.loads(line).get("loss_total", float("inf")) for line in metrics.read_text().splitlines()]
    share = losses[-1] / losses[0]
    finding = (
        f"{losses[0]:.3f} at the first update, {losses[-1]:.3f} at the last of {len(losses)}: {share:.1%} of it, "
        f"at most {MAX_LOSS_SHARE:.0%} required"
    )
    return Check("loss", share <= MAX_LOSS_SHARE, finding)


def _check_answers(parts: TrainingParts, samples: Sequence[Sample]) -> tuple[Check, Check]:
    """Ask for every sample again: masks of its phrases, and its answers greedily."""
    predictor = Predictor(parts.model, parts.tokenizer, parts.model.config)
    ious: list[float] = []
    reproduced, strays = 0, []
    exchanges = [(one, number) for one in samples for number in range(len(one.conversations[0]))]
    with progress(len(exchanges), "asking again", "exchange") as shown:
        for sample, number in counted(exchanges, shown):
            exchange, turns = sample.conversations[0][number], turns_before(sample, number)
            ious += mask_ious(predictor, sample, exchange, turns)
            answer = predictor.generate_text(sample.image, turns)
            if answer.split() == exchange.answer.split():
                reproduced += 1
            else:
                strays.append(f"{sample.sample_id}: {answer!r} instead of {exchange.answer!r}")
    mean = float(np.mean(ious))
    masks = f"mean IoU {mean:.3f} over {len(ious)} masks, at least {MIN_IOU} required"
    answers = f"{reproduced} of {len(exchanges)} reproduced word for word, at least {MIN_REPRODUCED:.0%} required"
    if strays:
        answers += "; " + "; ".join(strays[:2])
    return (
        Check("masks", mean >= MIN_IOU, masks),
        Check("answers", reproduced >= MIN_REPRODUCED * len(exchanges), answers),
    )


def turns_before(sample: Sample, number: int) -> tuple[Turn, ...]:
    """Return a sample's conversation up to one of its questions, which the exchange of that number answers."""
    earlier = sample.conversations[0][:number]
    history = [turn for one in earlier for turn in (Turn(Role.USER, one.question), Turn(Role.ASSISTANT, one.answer))]
    return (*history, Turn(Role.USER, sample.conversations[0][number].question))


def mask_ious(predictor: Predictor, sample: Sample, exchange: Exchange, turns: Sequence[Turn]) -> list[float]:
    """Return the IoU of every mask of one answer, outside ignored pixels.

    Args:
        predictor: decodes the masks of the answer's phrases, which are given.
        sample: has the image.
        exchange: has the answer and its true masks.
        turns: the conversation up to the exchange's question, from `turns_before`.
    """
    if not exchange.masks:
        return []
    assert sample.image is not None  # pick_samples guarantees it
    found = predictor.segment(sample.image, turns, exchange.answer, exchange.spans).masks
    counted = np.ones(sample.image.shape[:2], dtype=bool) if sample.ignore_mask is None else ~sample.ignore_mask
    ious = []
    for predicted, encoded in zip(found, exchange.masks, strict=True):
        true = decode_mask(encoded).astype(bool)
        union = ((predicted | true) & counted).sum()
        ious.append(float((predicted & true & counted).sum() / union) if union else 1.0)
    return ious


def _share(reports: list[SmokeReport | None], ranks: Ranks) -> SmokeReport:
    """Send the main rank's report to all ranks, then leave the process group."""
    if ranks.world_size > 1:
        torch.distributed.broadcast_object_list(reports)
    leave_ranks(ranks)
    assert reports[0] is not None
    return reports[0]
