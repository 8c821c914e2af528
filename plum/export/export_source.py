"""Sources of an export: a saved model, a run's finished model, or a checkpoint that a run resumes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plum.checkpoints.model_config_io import CONFIG_FILE, read_model_config
from plum.checkpoints.model_weights import ModelWeights
from plum.checkpoints.store import BASE_FILE, CARD_FILE, read_base_record, require_heads, saved_tensors
from plum.checkpoints.weights import SavedTensor
from plum.export.training_checkpoint import read_trained
from plum.inputs.tokenizer import load_model_tokenizer
from plum.models.systems.special_tokens import add_written_tokens, with_special_tokens
from plum.training.config_file import load_train_config
from plum.training.initialise import architecture_of
from plum.training.run import build_or_load
from plum.training.run_checkpoints import RunCheckpoints

RUN_CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class ExportSource:
    """Weights to export, and their origin.

    Attributes:
        weights: tensors, read one at a time.
        tokenizer: the model's tokenizer.
        run: folder of the run that trained the model, if known.
        base: folder of the saved model under all trained weights, if known.
        card: the saved model's own card; empty for a checkpoint.
        described_as: human-readable description of the source.
    """

    weights: ModelWeights
    tokenizer: PreTrainedTokenizerBase
    run: Path | None
    base: Path | None
    card: str
    described_as: str


def find_source(path: Path) -> ExportSource:
    """Open the folder of a saved model, of a run (its model, or its newest checkpoint), or one checkpoint of a run.

    Raises:
        FileNotFoundError: it is none of these, or something it refers to is missing.
        ValueError: it is damaged or of another architecture.
    """
    if (path / RUN_CONFIG).is_file():
        if (path / "model" / CONFIG_FILE).is_file():
            return _open_saved(path / "model", path)
        return _open_checkpoint(_newest_checkpoint(path), path)
    if path.parent.name == CHECKPOINTS and (path.parent.parent / RUN_CONFIG).is_file():
        return _open_checkpoint(path, path.parent.parent)
    if (path / CONFIG_FILE).is_file():
        return _open_saved(path, path.parent if (path.parent / RUN_CONFIG).is_file() else None)
    raise FileNotFoundError(
        f"{path} is neither a saved model (no {CONFIG_FILE}), a run (no {RUN_CONFIG}) nor a checkpoint of a run "
        f"(RUN/{CHECKPOINTS}/update_NNNNNN)"
    )


def root_base(folder: Path) -> Path:
    """Follow trained weights to the saved model at the bottom, which holds everything else."""
    while (folder / BASE_FILE).is_file():
        folder = Path(read_base_record(folder).base)
    return folder


def _open_saved(folder: Path, run: Path | None) -> ExportSource:
    config = read_model_config(folder)
    tokenizer = load_model_tokenizer(folder, config)
    with_special_tokens(config, tokenizer)
    require_heads(folder)
    is_light = (folder / BASE_FILE).is_file()
    weights = ModelWeights(config, saved_tensors(folder), {}, str(folder), is_strict=not is_light)
    base = root_base(folder) if is_light else _base_of_run(run)
    card = folder / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return ExportSource(weights, tokenizer, run, base, text, f"saved model {folder}")


def _open_checkpoint(checkpoint: Path, run: Path) -> ExportSource:
    config = load_train_config(["--config", str(run / RUN_CONFIG)])
    trained = read_trained(checkpoint)
    saved: Mapping[str, SavedTensor] = {}
    if config.init_from is None:
        # Trained from scratch: weights that were not trained still have their seeded initial values.
        tokenizer, model = build_or_load(config)
        fresh: dict[str, Tensor] = model.state_dict()
        trained = fresh | trained
        model_config = model.config
    else:
        saved = saved_tensors(config.init_from)
        tokenizer = load_model_tokenizer(config.tokenizer or config.init_from, config.model)
        added = add_written_tokens(config.model, tokenizer)
        model_config = architecture_of(config.model, config.init_from, tokenizer, added)
    weights = ModelWeights(model_config, saved, trained, str(checkpoint), is_strict=False)
    return ExportSource(weights, tokenizer, run, _base_of_run(run), "", f"checkpoint {checkpoint}")


def _newest_checkpoint(run: Path) -> Path:
    newest = RunCheckpoints(run / CHECKPOINTS).newest()
    if newest is None:
        raise FileNotFoundError(
            f"{run} has neither a model nor a complete checkpoint yet; resume the run until it has written one "
            "(save_every updates)"
        )
    return newest.folder


def _base_of_run(run: Path | None) -> Path | None:
    """Return the saved model at the bottom of a run's chain."""
    if run is None:
        return None
    init_from = load_train_config(["--config", str(run / RUN_CONFIG)]).init_from
    return None if init_from is None else root_base(Path(init_from))
