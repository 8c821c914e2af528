"""A stock checkpoint of transformers as the base of a model, read where it is: its weights are never copied.

Published files name tensors in several ways. Their names become the stock class's through transformers' own renaming
rules, so that each tensor is read from the published file under the name that it has there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from partonomy.files import parse_json, read_json_as
from partonomy.models.processors import describe_processor, load_processor
from plum.checkpoints.weights import SavedTensor, fingerprint, list_tensors
from plum.config import HfBackboneConfig, stock_hf_config
from plum.inputs.stock_inputs import StockInputs, image_token_id
from plum.inputs.tokenizer import load_stock_tokenizer
from plum.models.backbones.hf import find_family
from plum.models.weightless import without_weights
from plum.structures import Exchange

STOCK_FILE = "stock.json"
"""Folder and fingerprint of the stock checkpoint under an adopted model."""
STOCK_STEM = "model"
OWN_PREFIX = "llava.network."
"""Prefix of the stock model's tensors in a `GroundedLMM`."""
_PROBE = Exchange("What is it?", "It is a wheel.")


@dataclass(frozen=True)
class StockRecord:
    """The content of `stock.json`: where the stock checkpoint is, and the fingerprint of its weights."""

    folder: str
    fingerprint: str


@dataclass(frozen=True)
class StockCheckpoint:
    """A stock checkpoint: its configuration and its tokenizer with the chat template."""

    config: HfBackboneConfig
    tokenizer: PreTrainedTokenizerBase


def read_stock_checkpoint(folder: Path) -> StockCheckpoint:
    """Read everything but the weights of a checkpoint folder.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        ValueError: the architecture is none that PLUM's heads run on, or a file is damaged; the message names it.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint of transformers: it has no config.json")
    stock = parse_json(path.read_bytes(), f"{path} is not JSON")
    if not isinstance(stock, dict):
        raise ValueError(f"{path}: expected an object")
    bare = HfBackboneConfig(stock=dict(stock))
    find_family(bare)
    image_token_id(bare)
    try:
        processor = load_processor(folder)
    except (ImportError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: its processor cannot be read ({' '.join(str(error).split())})") from error
    images, own = describe_processor(processor)
    template = processor.chat_template
    tokenizer = load_stock_tokenizer(folder, template if isinstance(template, str) else None)
    config = HfBackboneConfig(dict(stock), images, own, _end_tokens(folder, tokenizer))
    return StockCheckpoint(_with_written_end(config, tokenizer), tokenizer)


def list_stock_tensors(folder: Path, config: HfBackboneConfig) -> dict[str, SavedTensor]:
    """List the weights of a stock checkpoint under the names that they have in a `GroundedLMM` without adapters.

    Raises:
        FileNotFoundError: no weights.
        ValueError: a tensor is missing, unknown or of another shape, or has to be converted, not only renamed.
    """
    found = list_tensors(folder, STOCK_STEM)
    stock = _empty_stock(config)
    own = {name: tuple(tensor.shape) for name, tensor in stock.state_dict().items()}
    rules = get_model_conversion_mapping(stock)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    listed: dict[str, SavedTensor] = {}
    unknown, converted = [], []
    for key, saved in found.items():
        name, converter = rename_source_key(key, renamings, converters, stock.base_model_prefix, stock.state_dict())
        if converter is not None:
            converted.append(key)
        elif name not in own:
            unknown.append(key)
        else:
            listed[name] = SavedTensor(saved.file, saved.shape, saved.key or key)
    for tied, source in stock.all_tied_weights_keys.items():
        if tied not in listed and source in listed:
            listed[tied] = listed[source]
    missing = sorted(own.keys() - listed.keys())
    where = f"{folder} does not fit its config.json ({config.model_type})"
    if converted:
        raise ValueError(
            f"{folder}: transformers converts {len(converted)} tensors as it reads them, such as {converted[0]}; save "
            "the model again with transformers (from_pretrained, save_pretrained) and adopt that folder"
        )
    if missing or unknown:
        raise ValueError(
            f"{where}: {len(missing)} tensors are missing {missing[:3]}, {len(unknown)} are unknown {unknown[:3]}"
        )
    for name, saved in listed.items():
        if saved.shape != own[name]:
            raise ValueError(f"{where}: {saved.key} is {saved.shape}, the model needs {own[name]}")
    return {f"{OWN_PREFIX}{name}": saved for name, saved in listed.items()}


def write_stock_record(folder: Path, stock: Path) -> None:
    """Write `folder`/stock.json."""
    record = {"folder": str(stock.resolve()), "fingerprint": fingerprint(stock)}
    (folder / STOCK_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def find_stock(folder: Path) -> Path | None:
    """Return the stock checkpoint under an adopted model; None if the model is none.

    Raises:
        FileNotFoundError: the checkpoint no longer exists.
        ValueError: its weights have changed, or stock.json is damaged.
    """
    path = folder / STOCK_FILE
    if not path.is_file():
        return None
    record = read_json_as(path, StockRecord, "adopt the checkpoint again")
    stock = Path(record.folder)
    if not stock.is_dir():
        raise FileNotFoundError(
            f"{folder} is a base over {stock}, which no longer exists: restore it, or set its new path in {path}"
        )
    if fingerprint(stock) != record.fingerprint:
        raise ValueError(f"{folder} is a base over {stock}, whose weights have changed since; adopt it again")
    return stock


def _empty_stock(config: HfBackboneConfig) -> PreTrainedModel:
    with torch.device("meta"), without_weights():
        stock = AutoModelForImageTextToText.from_config(stock_hf_config(config))
    stock.tie_weights()
    return stock


def tied_names(config: HfBackboneConfig) -> Mapping[str, str]:
    """Return the names of a stock model's tied tensors, and those of the tensors that they are."""
    return dict(_empty_stock(config).all_tied_weights_keys)


def _end_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the tokens that end an answer (generation_config.json), and the tokenizer's end token."""
    ids: list[int] = []
    if (folder / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(folder).eos_token_id
        ids = [found] if isinstance(found, int) else list(found or ())
    tokens = [str(tokenizer.convert_ids_to_tokens(token)) for token in ids]
    if tokenizer.eos_token is not None:
        tokens.append(str(tokenizer.eos_token))
    return tuple(dict.fromkeys(tokens))


def _with_written_end(config: HfBackboneConfig, tokenizer: PreTrainedTokenizerBase) -> HfBackboneConfig:
    """Put the end token that the chat template writes first."""
    text = StockInputs(config, tokenizer).render_conversation([_PROBE], num_images=0).text
    written = [token for token in config.end_tokens if text.endswith(token)]
    ordered = tuple(dict.fromkeys([*written, *config.end_tokens]))
    return HfBackboneConfig(config.stock, config.image_processor, config.processor, ordered)
