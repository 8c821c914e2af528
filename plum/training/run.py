"""One training run from a configuration: ranks, model, data, engine, trainer, saved model (`train.py` calls it)."""

import logging
import time
from collections.abc import Iterator

import torch
import torch.distributed
from transformers import PreTrainedTokenizerBase

from plum.checkpoints.store import save_pretrained, save_trained
from plum.config import TrainConfig
from plum.data.build import build_mixture
from plum.data.collate import Collator
from plum.data.loader import make_loader
from plum.data.mixture import MixtureDataset
from plum.data.tokenizer import load_tokenizer
from plum.models.grounded_lmm import GroundedLMM
from plum.models.registry import build_model
from plum.models.special_tokens import with_special_tokens
from plum.models.trainable import TrainableRow, set_trainable
from plum.structures import Batch
from plum.training.engine import Engine, Ranks, build_engine, start_ranks
from plum.training.initialise import initialise_from
from plum.training.objective import Objective
from plum.training.optimizer import learning_rate_factor
from plum.training.part_pretext import PartPretext
from plum.training.run_directory import RunDirectory
from plum.training.trainer import Trainer

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> None:
    """Train, or resume, the run `config` describes, and save its model to `run_dir/model`."""
    ranks = start_ranks(config.engine)
    run = RunDirectory(config)
    if ranks.is_main:
        run.prepare()
    _barrier(ranks)
    if run.is_finished:
        logger.info("%s is finished; its model is in %s", run.root, run.model_dir)
        _leave(ranks)
        return
    started = time.perf_counter()
    tokenizer, model = build_or_load(config)
    rows = set_trainable(model, config.trainable)
    collator = Collator(tokenizer, config.model, config.data)
    mixture = build_mixture(config.data, config.seed, collator.encoder)
    objective = build_objective(model, config, mixture.num_part_classes)
    if config.engine.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    engine = build_engine(objective, config.engine, config.optimizer, config.num_updates, ranks)
    if ranks.is_main:
        logger.info("%s", describe_run(config, ranks, rows, mixture))

    def make_batches(first: int, count: int) -> Iterator[Batch]:
        return iter(
            make_loader(
                mixture,
                collator,
                rank=ranks.rank,
                world_size=ranks.world_size,
                micro_batch_size=config.engine.micro_batch_size,
                start_micro_batch=first,
                num_workers=config.engine.num_workers,
                num_micro_batches=count,
            )
        )

    Trainer(config, engine, make_batches, run).fit()
    save_final_model(config, engine, model, tokenizer, run, seconds=time.perf_counter() - started)
    _leave(ranks)


def build_or_load(config: TrainConfig) -> tuple[PreTrainedTokenizerBase, GroundedLMM]:
    """Return tokenizer and model: fresh from the seed, then weights of `init_from` where it is given."""
    folder = config.tokenizer or config.init_from
    if folder is None:
        raise ValueError("set tokenizer to a tokenizer folder, or init_from to a saved model that holds one")
    if config.save_model == "trained" and config.init_from is None:
        raise ValueError("save_model 'trained' leaves out the weights of init_from, which is not set: use 'full'")
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(config.seed)
    model = build_model(with_special_tokens(config.model, tokenizer))
    if config.init_from is not None:
        for line in initialise_from(model, config.init_from, config.reset_modules):
            logger.info("%s", line)
    return tokenizer, model


def build_objective(model: GroundedLMM, config: TrainConfig, num_part_classes: int) -> Objective:
    """Return the model with its losses, and with the part pretext where the configuration has one."""
    if config.part_pretext is None:
        return Objective(model, config.losses)
    pretext = PartPretext(model.prompt_dim, config.model.llava.language.hidden_size, num_part_classes)
    return Objective(model, config.losses, pretext, config.part_pretext.weight)


def describe_run(config: TrainConfig, ranks: Ranks, rows: list[TrainableRow], mixture: MixtureDataset) -> str:
    """Return what a researcher checks before leaving a run alone."""
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
    engine: Engine,
    model: GroundedLMM,
    tokenizer: PreTrainedTokenizerBase,
    run: RunDirectory,
    *,
    seconds: float,
) -> None:
    """Write the trained model and mark the run as finished (main rank)."""
    if not engine.ranks.is_main:
        _barrier(engine.ranks)
        return
    card = (
        f"Trained by `train.py` for {config.num_updates} updates"
        + (f", starting from `{config.init_from}`" if config.init_from else ", from scratch")
        + f".\n\nData: {', '.join(f'{one.kind} ({one.path or one.dataset})' for one in config.data.sources)}.\n"
        + f"Images left out of training: {', '.join(config.data.exclude_images) or 'none'}.\n"
        + f"Benchmark images that were not left out: {', '.join(config.data.count_images) or 'none'}.\n"
        + "Configuration, provenance and metrics are in the run folder beside this one.\n"
    )
    if run.model_dir.exists():  # complete: the run was killed after its last step but one
        logger.info("%s is there already", run.model_dir)
    elif config.save_model == "trained":
        assert config.init_from is not None  # build_or_load has checked it
        save_trained(model, tokenizer, run.model_dir, card, base=config.init_from)
    else:
        save_pretrained(model, tokenizer, run.model_dir, card)
    run.finish({"num_updates": config.num_updates, "seconds_this_session": round(seconds, 1)})
    logger.info("saved %s", run.model_dir)
    _barrier(engine.ranks)


def _barrier(ranks: Ranks) -> None:
    if ranks.world_size > 1:
        torch.distributed.barrier()


def _leave(ranks: Ranks) -> None:
    """Leave the process group in step, so that no rank sees a closed connection."""
    if torch.distributed.is_initialized():
        _barrier(ranks)
        torch.distributed.destroy_process_group()
