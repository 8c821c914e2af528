"""Build a TrainConfig from YAML files and command-line overrides, and check its ranges before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from partonomy.cli.config_files import config_files
from partonomy.cli.flags import add_config_flag, add_switch
from partonomy.cli.parsers import add_version, example, parse_words, settings_parser
from partonomy.yaml_files import read_yaml
from plum.config import ModelConfig, Sam2Config, SamConfig, names_sam2
from plum.train_config import PRETEXT_NEEDS_SAM, TrainConfig

AT_LEAST_ONE = (
    "num_updates",
    "log_every",
    "save_every",
    "keep_checkpoints",
    "stop_after_skipped",
    "engine.micro_batch_size",
    "engine.accumulation",
    "engine.reduce_bucket_size",
    "data.max_text_tokens",
    "data.conversations_per_image",
    "model.lora.rank",
    "validation.every",
    "validation.limit",
)
_TIMES = ("save_every_minutes", "max_minutes", "engine.timeout_minutes")
ABOVE_ZERO = (
    "optimizer.learning_rate",
    "optimizer.gradient_clip",
    "losses.kl_sigma",
    "losses.bio_margin",
    *_TIMES,
)
NOT_NEGATIVE = (
    "part_pretext.weight",
    "part_pretext.warmup_updates",
    "part_pretext.queries_per_image",
    "part_pretext.query_weight",
    "part_pretext.token_weight",
    "part_pretext.phrase_weight",
    "engine.num_workers",
    "data.group_by_length",
    "data.spread_lengths",
    "optimizer.warmup_updates",
    "optimizer.weight_decay",
    "losses.language",
    "losses.bio",
    "losses.kl",
    "losses.mask_overlap",
    "losses.mask_bce",
    "validation.patience",
)
ZERO_STAGES = (1, 2)
"""Stages that tests compare with the mean of the ranks' own gradients (tests/plum/training/unlike_batches.py)."""
REFUSED_STAGES = {
    0: "stage 0 neither skips updates with non-finite gradients nor resumes on another number of ranks",
    3: (
        "stage 3, like FSDP, shards the weights too, so ranks gather a module's weights together when it runs; here, "
        "which modules run and how often depends on the batch (images, phrases, decoding steps), and a rank that skips "
        "a module leaves the others waiting forever. If memory is short, see docs/train/full_scale.md, 'Sharding'"
    ),
}


SAM_2_KEY = "model.sam.model_type"
"""Key that configurations with SAM 2 or one of its relatives have."""
_FLAGS = ("config", "local_rank", "overwrite")
"""Arguments of train.py that are not keys of TrainConfig."""


@dataclass(frozen=True)
class Start:
    """A run's configuration, and whether this start of it removes the run that its folder holds."""

    config: TrainConfig
    overwrite: bool


@dataclass(frozen=True)
class _WithSam(ModelConfig):
    """Architecture of a system: backbone + query selector + mask predictor + optional parts."""

    sam: SamConfig


@dataclass(frozen=True)
class _WithSam2(ModelConfig):
    """Architecture of a system: backbone + query selector + mask predictor + optional parts."""

    sam: Sam2Config


@dataclass(frozen=True)
class _RunWithSam(TrainConfig):
    """One training run."""

    model: _WithSam


@dataclass(frozen=True)
class _RunWithSam2(TrainConfig):
    """One training run."""

    model: _WithSam2


def check_ranges(config: TrainConfig) -> None:
    """Check the numbers of a configuration.

    Raises:
        ValueError: a setting is out of range; the message names it and its value.
    """
    for keys, smallest, may_equal in ((AT_LEAST_ONE, 1, True), (ABOVE_ZERO, 0, False), (NOT_NEGATIVE, 0, True)):
        for key in keys:
            value = _read(config, key)
            if value is not None and not (value >= smallest if may_equal else value > smallest):
                raise ValueError(f"{key} is {value}, it must be {'at least' if may_equal else 'above'} {smallest}")
    if not all(0 <= beta < 1 for beta in config.optimizer.betas):
        raise ValueError(f"optimizer.betas is {config.optimizer.betas}, each must be at least 0 and below 1")
    stage = config.engine.zero_stage
    if stage not in ZERO_STAGES:
        reason = REFUSED_STAGES.get(stage, "DeepSpeed has no such stage")
        raise ValueError(f"engine.zero_stage is {stage}, but this engine only runs stages 1 and 2: {reason}")
    if config.engine.base_quantization != "none":
        _check_quantization(config)


def _check_quantization(config: TrainConfig) -> None:
    """Refuse to quantize weights that are trained, initialised from scratch, or saved."""
    needs = {
        "trainable.language_model lora": config.trainable.language_model == "lora",
        "save_model trained": config.save_model == "trained",
        "init_from": config.init_from is not None,
    }
    if lacking := [name for name, is_met in needs.items() if not is_met]:
        raise ValueError(f"engine.base_quantization {config.engine.base_quantization!r} needs {', '.join(lacking)}")


def check_losses(config: TrainConfig) -> None:
    """Check that a run's losses and trained weights fit its system.

    Raises:
        ValueError: a loss has nothing to act on, or cannot act on this architecture, or the [SEG] token would never be
            learnt.
    """
    model, losses, trainable = config.model, config.losses, config.trainable
    if model.seg_token is None and losses.kl > 0 and model.lora is None:
        raise ValueError(
            f"losses.kl is {losses.kl}: the KL term compares the model with itself without its adapters, and "
            "model.lora is null: set losses.kl to 0, or train adapters (model.lora, trainable.language_model lora)"
        )
    if model.tagger is None and losses.bio > 0:
        raise ValueError(f"losses.bio is {losses.bio}, but model.tagger is null: set it to 0")
    if model.tagger is not None and model.tagger.use_crf:
        if losses.bio_form != "cross_entropy":
            raise ValueError(
                f"losses.bio_form is {losses.bio_form!r}, but a CRF (model.tagger.use_crf) has its own loss, the "
                "likelihood of the tags: leave losses.bio_form at 'cross_entropy', or set model.tagger.use_crf to false"
            )
        if losses.bio_scope != "answer":
            raise ValueError(
                f"losses.bio_scope is {losses.bio_scope!r}, but the sequences of a CRF (model.tagger.use_crf) are "
                "answers: set losses.bio_scope to 'answer'"
            )
    if config.part_pretext is not None and isinstance(model.sam, Sam2Config):
        raise ValueError(PRETEXT_NEEDS_SAM)
    reads_again = model.calico is not None and model.calico.adaptation is not None
    if config.part_pretext is not None and model.of_llava.vision.num_query_tokens is not None and not reads_again:
        raise ValueError(
            "part_pretext classifies what is read of an image by its place, and the tokens of a Q-Former "
            "(model.llava.vision.num_query_tokens) have none: set part_pretext to null, or give the model adaptation "
            "modules (model.calico.adaptation), which read features that have places"
        )
    if model.calico is not None and model.calico.adaptation is None and model.calico.dino is not None:
        raise ValueError(
            "model.calico.dino is set, but nothing reads it without adaptation modules (model.calico.adaptation): set "
            "it to null"
        )
    if model.seg_token is None:
        return
    if losses.kl > 0:
        raise ValueError(
            f"losses.kl is {losses.kl}: the KL term compares tagged phrases with a teacher, and a system with "
            "model.seg_token has neither; set it to 0"
        )
    # CALICO starts from GLaMM, which knows [SEG]; a run that has to add it is refused when it does.
    if model.system != "calico" and not trainable.embeddings and trainable.language_model != "full":
        raise ValueError(
            "model.seg_token adds [SEG] to the vocabulary, so its rows must be trained: set trainable.embeddings to "
            "true (and model.lora.train_embeddings)"
        )


def _read(config: TrainConfig, key: str) -> float | None:
    """Return the value of a dotted key; None if a group on its path is null."""
    value: object = reduce(lambda group, name: None if group is None else getattr(group, name), key.split("."), config)
    assert value is None or isinstance(value, int | float), key
    return value


def load_train_config(arguments: Sequence[str]) -> TrainConfig:
    """Return the configuration of `--config FILE [--config OVERLAY ...] [--key value ...]`; later values win.

    Raises:
        ValueError: a key is unknown or missing, or a value has the wrong type or is out of range; the message names the
            key and the files.
    """
    return load_start(arguments).config


def load_start(arguments: Sequence[str]) -> Start:
    """Return a configuration as `load_train_config` does, with the flags of this start; raises what it raises."""
    try:
        parser = build_parser(has_sam2=_have_sam2(arguments))
        chosen: dict[str, Any] = vars(parser.instantiate(parse_words(parser, arguments)))
        overwrite = bool(chosen["overwrite"])
        chosen["model"] = ModelConfig(**vars(chosen["model"]))
        config = TrainConfig(**{key: value for key, value in chosen.items() if key not in _FLAGS})
        check_ranges(config)
        check_losses(config)
    except (ArgumentError, ValueError) as error:
        where = " + ".join(config_files(arguments)) or "no --config FILE given"
        raise ValueError(f"{where}: {error} (see python train.py --help)") from error
    return Start(config, overwrite)


def _have_sam2(arguments: Sequence[str]) -> bool:
    """Return whether the files or the command line give `model.sam` a `model_type`.

    jsonargparse would try one type of the segmenter after the other: a misspelt key would be reported against both, and
    a single size on the command line would silently turn SAM 2 into SAM.

    Raises:
        ValueError: a file is not YAML, or the sizes are of both; the message names the key and the files.
    """
    blocks: dict[str, dict[str, object]] = {}
    for file in config_files(arguments):
        content = read_yaml(Path(file)) if Path(file).is_file() else None
        model = content.get("model") if isinstance(content, dict) else None
        sam = model.get("sam") if isinstance(model, dict) else None
        blocks[file] = sam if isinstance(sam, dict) else {}
    givers = [file for file, sam in blocks.items() if names_sam2(sam)]
    if any(word.split("=")[0] == f"--{SAM_2_KEY}" for word in arguments):
        givers.append("the command line")
    of_sam = {one.name for one in fields(SamConfig)} - {one.name for one in fields(Sam2Config)}
    for file, sam in blocks.items() if givers else ():
        if both := [key for key in sam if key in of_sam]:
            raise ValueError(
                f"model.sam.{both[0]} of {file} is a size of SAM's, but {givers[0]} gives {SAM_2_KEY}: give the sizes "
                "of one segmenter only (docs/segmenters.md)"
            )
    return bool(givers)


def build_parser(has_sam2: bool = False) -> ArgumentParser:
    """Return train.py's parser, for configurations with SAM or with SAM 2 or one of its relatives."""
    parser = settings_parser(
        prog="train.py",
        description="Train a grounded multimodal model.",
        epilog=example("python train.py --config configs/plum_tiny_stage0.yaml --optimizer.learning_rate 1e-4"),
        exit_on_error=False,
    )
    add_version(parser)
    add_keys(parser, has_sam2)
    return parser


def add_keys(parser: ArgumentParser, has_sam2: bool = False) -> None:
    """Add the keys of a configuration as flags, those of SAM's or of SAM 2's sizes, and the flags of this start."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    add_config_flag(parser, "YAML of plum.train_config.TrainConfig; may be given several times")
    parser.add_class_arguments(_RunWithSam2 if has_sam2 else _RunWithSam)
    add_switch(parser, "overwrite", "remove the run that run_dir holds, and start anew")
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher; ignored")
