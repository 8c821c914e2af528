"""One training run from a configuration: ranks, model, data, engine, trainer, saved model (`train.py` calls it)."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed
from transformers import PreTrainedTokenizerBase

from partonomy.datasets.photographs import copy_training_images
from plum.checkpoints.store import has_heads, has_projector, save_pretrained, save_trained
from plum.data.build import benchmark_images, build_mixture, held_out_images
from plum.data.collate import Collator
from plum.data.excluded_images import TrainingImages
from plum.data.loader import load_batches
from plum.data.mixture import MixtureDataset
from plum.data.sam_feature_cache import SamFeatureCache
from plum.inputs.tokenizer import load_model_tokenizer
from plum.models.backbones.quantization import UNVERIFIED
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.sam import IMAGES_AT_ONCE, SegmentAnything
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import add_written_tokens, initialise_new_rows
from plum.models.trainable import TrainableRow, set_trainable
from plum.structures import Batch
from plum.train_config import PRETEXT_NEEDS_SAM, TrainConfig
from plum.training.engine import Engine, build_engine
from plum.training.exit_status import RunStoppedError
from plum.training.initialise import Placement, architecture_of, build_from, with_fit_of
from plum.training.objective import Objective
from plum.training.optimizer import learning_rate_factor
from plum.training.part_pretext import PartPretext
from plum.training.ranks import Ranks, on_main_rank, require_shared_folder, start_ranks
from plum.training.run_checkpoints import ResumePoint, find_resume_point
from plum.training.run_folder import RunFolder
from plum.training.sam_features import describe_feature_cache, open_feature_cache
from plum.training.trackers import require_trackers
from plum.training.trained_images import record_training_images
from plum.training.trainer import Trainer
from plum.training.validation import HeldOutImages, RunValidation

CPU = torch.device("cpu")
HELD_OUT_SEED = 0
"""Seed of the questions that a validation draws: the same in every run."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingParts:
    """Model, losses and data of a run."""

    tokenizer: PreTrainedTokenizerBase
    model: GroundedLMM
    rows: list[TrainableRow]
    objective: Objective
    collator: Collator
    mixture: MixtureDataset
    images: TrainingImages
    sam_features: SamFeatureCache | None
    held_out: MixtureDataset | None = None


@dataclass(frozen=True)
class FittedRun:
    """A run after its last update: its engine, and its validations if it has any."""

    engine: Engine
    validation: RunValidation | None


def train(config: TrainConfig, *, overwrite: bool = False) -> None:
    """Train or resume the run that `config` describes, and save its model to `run_dir/model`.

    Args:
        config: the run.
        overwrite: whether to remove the run that its folder holds, and start anew.

    Raises:
        RunStoppedError: a signal or the clock stopped the run, which has written a checkpoint.
        OSError, ValueError, FloatingPointError, CheckpointError: something is wrong with configuration, files, numbers
            or disk; the message is one line. Of errors that the main rank finds alone, the others end by SystemExit.
    """
    started = time.monotonic()
    require_trackers(config.all_trackers)  # before anything is loaded
    ranks = start_ranks(config.engine)
    run = RunFolder(config)
    on_main_rank(ranks, lambda: run.prepare(overwrite=overwrite))
    require_shared_folder(run.root, ranks)
    if run.is_finished:
        logger.info("%s is finished; its model is in %s", run.root, run.model_dir)
        leave_ranks(ranks)
        return
    # Before anything is loaded, so that a mismatch is reported at once.
    resume_point = find_resume_point(run.checkpoints, config.engine, ranks)
    parts = build_parts(config, ranks.device)
    if ranks.is_main:
        record_training_images(run.root, config, parts.images)
    try:
        fitted = fit(config, parts, run, ranks, resume_point, started=started)
    except RunStoppedError:
        leave_ranks(ranks)
        raise
    save_final_model(config, fitted, parts.model, parts.tokenizer, run, seconds=time.monotonic() - started)
    leave_ranks(ranks)


def build_parts(config: TrainConfig, device: torch.device) -> TrainingParts:
    """Build the model on `device`, set which weights are trained, and read the data."""
    tokenizer, model = build_or_load(config, device)
    rows = set_trainable(model, config.trainable)
    sam_features = open_feature_cache(config, model)
    if sam_features is None and device.type == "cuda" and isinstance(model.sam, SegmentAnything):
        model.sam.images_at_once = IMAGES_AT_ONCE
    collator = Collator(tokenizer, model.config, config.data, sam_features)
    held_out = () if config.validation is None else held_out_images(config.validation.sources)
    images = benchmark_images(config.data, held_out)
    has_pretext = config.part_pretext is not None
    mixture = build_mixture(
        config.data,
        config.seed,
        collator.encoder,
        images,
        with_part_maps=has_pretext,
        has_marks=bool(collator.notation.protocol_note),
        notation=collator.notation,
    )
    objective = build_objective(model, config, mixture.class_pixels, sam_features)
    if config.engine.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    validated = _read_held_out(config, collator)
    return TrainingParts(tokenizer, model, rows, objective, collator, mixture, images, sam_features, validated)


def _read_held_out(config: TrainConfig, collator: Collator) -> MixtureDataset | None:
    """Read the data of a run's validations; None if it has none."""
    if config.validation is None:
        return None
    data = replace(
        config.data,
        sources=config.validation.sources,
        groups=(),
        group_by_length=0,
        spread_lengths=0,
        sampling="epoch",
        exclude_images=(),
        count_images=(),
    )
    return build_mixture(
        data,
        HELD_OUT_SEED,
        collator.encoder,
        with_part_maps=False,
        has_marks=bool(collator.notation.protocol_note),
        notation=collator.notation,
    )


def fit(
    config: TrainConfig,
    parts: TrainingParts,
    run: RunFolder,
    ranks: Ranks,
    resume_point: ResumePoint | None,
    *,
    started: float | None = None,
) -> FittedRun:
    """Train `parts` to the run's last update, from the start or from a checkpoint; see `Trainer` for `started`.

    Raises:
        RunStoppedError: a signal or the clock stopped the run, which has written a checkpoint.
    """
    engine = build_engine(
        parts.objective,
        config.engine,
        config.optimizer,
        config.num_updates,
        ranks,
        loads_universal=resume_point is not None and resume_point.is_universal,
    )
    if ranks.is_main:
        run.record_start(ranks.world_size, resume_point.folder if resume_point else None)
        logger.info("%s", describe_run(config, ranks, parts.rows, parts.mixture))

    def make_batches(first: int, count: int) -> Iterator[Batch]:
        return load_batches(
            parts.mixture,
            parts.collator,
            rank=ranks.rank,
            world_size=ranks.world_size,
            micro_batch_size=config.engine.micro_batch_size,
            start_micro_batch=first,
            num_workers=config.engine.num_workers,
            num_micro_batches=count,
            device=ranks.device,
        )

    if ranks.is_main and parts.sam_features is not None:
        logger.info("%s", describe_feature_cache(parts.sam_features, parts.model.sam, config.engine.precision))
    validation = None
    if config.validation is not None and parts.held_out is not None:
        held_out = HeldOutImages(
            parts.objective,
            parts.held_out,
            parts.collator,
            config.validation,
            micro_batch_size=config.engine.micro_batch_size,
            ranks=ranks,
        )
        validation = RunValidation(run.root, config.validation, held_out, parts.model, ranks)
    Trainer(config, engine, make_batches, run, resume_point, started=started, validation=validation).fit()
    if ranks.is_main and parts.sam_features is not None:
        logger.info("%s", describe_feature_cache(parts.sam_features, parts.model.sam, config.engine.precision))
    return FittedRun(engine, validation)


def build_or_load(config: TrainConfig, device: torch.device = CPU) -> tuple[PreTrainedTokenizerBase, GroundedLMM]:
    """Return tokenizer and model: fresh from the seed, or with the weights of `init_from` read straight to `device`.

    Raises:
        FileNotFoundError: `init_from` does not exist.
        ValueError: the configuration names neither a tokenizer nor `init_from`, saves only the trained weights of a
            model from scratch, adds tokens whose rows it does not train, or does not fit the model of `init_from`.
    """
    folder = config.tokenizer or config.init_from
    if folder is None:
        raise ValueError("set tokenizer to a tokenizer folder, or init_from to a saved model that holds one")
    if config.save_model == "trained" and config.init_from is None:
        raise ValueError("save_model 'trained' leaves out the weights of init_from, which is not set: use 'full'")
    if not config.trainable.query_projection and not _starts_with_projection(config):
        raise ValueError(
            "trainable.query_projection is false, and init_from holds no trained projection that this run keeps: it "
            "would stay random; set it to true, or start from a model with heads"
        )
    if config.init_from is not None and not Path(config.init_from).is_dir():
        command = "adopt" if config.model.hf is not None else "convert-llava"
        command = "convert --system calico" if config.model.calico is not None else command
        raise FileNotFoundError(
            f"init_from: {config.init_from} does not exist: train the stage that writes it, make it with `python -m "
            f"plum {command}`, or name another saved model"
        )
    if config.init_from is not None and not config.trainable.projector and not has_projector(config.init_from):
        raise ValueError(
            f"trainable.projector is false, and {config.init_from} holds no projector of images (CALICO's f_image): it "
            "would stay random; set it to true, or convert the start with InstructBLIP whose language model is Vicuna"
        )
    tokenizer = load_model_tokenizer(folder, config.model)
    added = add_written_tokens(config.model, tokenizer)
    _require_trained_rows(config, tokenizer.convert_ids_to_tokens(list(added)))
    torch.manual_seed(config.seed)
    architecture = architecture_of(config.model, config.init_from, tokenizer, added)
    if config.init_from is None:
        return tokenizer, build_model(architecture).to(device)  # on the CPU: the same weights on any device
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32  # DeepSpeed would round to it anyway
    quantization = config.engine.base_quantization
    if quantization != "none":
        logger.warning(UNVERIFIED, quantization)
    placement = Placement(dtype, device, quantization)
    initialised = build_from(architecture, config.init_from, placement, config.reset_modules)
    for line in initialised.notes:
        logger.info("%s", line)
    if added:
        own_rows = with_fit_of(config.model, config.init_from).language.vocab_size
        new_rows = sorted({*added, *range(own_rows, architecture.language.vocab_size)})
        initialise_new_rows(initialised.model, new_rows, config.new_token_rows)
        logger.info(
            "Added the tokens %s: their rows start as %s",
            dict(zip(tokenizer.convert_ids_to_tokens(list(added)), added, strict=True)),
            "the mean of the others" if config.new_token_rows == "mean" else "normal noise",
        )
    return tokenizer, initialised.model


def _starts_with_projection(config: TrainConfig) -> bool:
    """Return whether the run starts with the query projection of a trained model."""
    start = config.init_from
    if start is None or "query_projection" in config.reset_modules:
        return False
    return not Path(start).is_dir() or has_heads(start)


def _require_trained_rows(config: TrainConfig, added: Sequence[str]) -> None:
    """Refuse to add tokens whose rows would stay as they start."""
    if added and not config.trainable.embeddings and config.trainable.language_model != "full":
        conversation = "none" if config.model.llava is None else config.model.llava.conversation
        raise ValueError(
            f"the run adds {', '.join(added)} to the vocabulary (model.system {config.model.system}, "
            f"model.llava.conversation {conversation}), so their rows must be trained: set "
            "trainable.embeddings and model.lora.train_embeddings to true, or choose a template without <im_start>"
        )


def build_objective(
    model: GroundedLMM, config: TrainConfig, class_pixels: Sequence[int], sam_features: SamFeatureCache | None = None
) -> Objective:
    """Return the model with its losses, and with the part pretext if the configuration has one.

    Raises:
        ValueError: the pretext needs layers that the segmenter does not have.
    """
    if config.part_pretext is None:
        return Objective(model, config.losses, sam_features=sam_features)
    if not isinstance(model.sam, SegmentAnything):
        raise ValueError(PRETEXT_NEEDS_SAM)
    llava = config.model.of_llava
    width = llava.vision.hidden_size if model.backbone.reads_images_again else llava.language.hidden_size
    pretext = PartPretext(model.prompt_dim, width, class_pixels)
    return Objective(model, config.losses, pretext, config.part_pretext, sam_features)


def describe_run(config: TrainConfig, ranks: Ranks, rows: list[TrainableRow], mixture: MixtureDataset) -> str:
    """Return the summary that a researcher checks before leaving a run unattended."""
    optimizer, engine = config.optimizer, config.engine
    effective = engine.micro_batch_size * engine.accumulation * ranks.world_size
    rates = ", ".join(
        f"{update}: {optimizer.learning_rate * learning_rate_factor(update, config.num_updates, optimizer):.2e}"
        for update in (0, 1, config.num_updates - 1)
    )
    sources = ", ".join(
        f"{source.name} ({len(source)} records, {share / sum(mixture.block_counts):.0%})"
        for source, share in zip(mixture.sources, mixture.block_counts, strict=True)
    )
    trained = sum(row.trainable for row in rows)
    lines = [
        f"Run {config.run_dir}: {config.num_updates} updates of {effective} images "
        f"({engine.micro_batch_size} per rank x {engine.accumulation} accumulated x {ranks.world_size} ranks, "
        f"{engine.kind}, {engine.precision}, {ranks.device.type})",
        f"Learning rate at updates {rates}",
        f"Data: {sources}",
        f"Parameters: {trained:,} trained of {sum(row.total for row in rows):,}",
        *(f"  {row.module:<28} {row.trainable:>14,} of {row.total:>14,}" for row in rows),
    ]
    return "\n".join(lines)


def save_final_model(
    config: TrainConfig,
    fitted: FittedRun,
    model: GroundedLMM,
    tokenizer: PreTrainedTokenizerBase,
    run: RunFolder,
    *,
    seconds: float,
) -> None:
    """Write the model of the best validation, or else of the last update, and mark the run as finished (main rank)."""
    ranks, best = fitted.engine.ranks, None
    if not ranks.is_main:
        ranks.barrier()
        return
    num_updates = fitted.engine.num_updates_done
    if fitted.validation is not None:
        best = fitted.validation.restore_best()
    card = (
        f"Trained by `train.py` for {num_updates if best is None else best.update} updates"
        + (f", starting from `{config.init_from}`" if config.init_from else ", from scratch")
        + f".\n\nData: {', '.join(f'{one.kind} ({one.path or one.dataset})' for one in config.data.sources)}.\n"
        + (f"Held-out images during training: {best.describe()}.\n" if best is not None else "")
        + f"Images left out of training: {', '.join(config.data.exclude_images) or 'none'}.\n"
        + f"Benchmark images that were not left out: {', '.join(config.data.count_images) or 'none'}.\n"
        + "Configuration, provenance and metrics are in the run folder that holds this one.\n"
    )
    if run.model_dir.exists():  # complete: the run was killed before it was marked as finished
        logger.info("%s already exists", run.model_dir)
    elif config.save_model == "trained":
        assert config.init_from is not None  # build_or_load has checked it
        save_trained(model, tokenizer, run.model_dir, card, base=config.init_from)
    else:
        save_pretrained(model, tokenizer, run.model_dir, card)
    copy_training_images((run.root,), run.model_dir)
    summary: dict[str, float | int] = {"num_updates": num_updates, "seconds_this_session": round(seconds, 1)}
    if best is not None:
        summary |= {"best_update": best.update}
    run.finish(summary)
    logger.info("saved %s", run.model_dir)
    ranks.barrier()


def leave_ranks(ranks: Ranks) -> None:
    """Leave the process group together, so that no rank sees a closed connection."""
    if torch.distributed.is_initialized():
        ranks.barrier()
        torch.distributed.destroy_process_group()
