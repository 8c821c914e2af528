"""Adopts a stock checkpoint of transformers as the base of a run: SAM beside it, its own weights where they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from plum.checkpoints.model_config_io import write_model_config
from plum.checkpoints.published.sam2_weights import own_sam2_name, read_sam2
from plum.checkpoints.published.sam_weights import own_sam_name, read_sam_config
from plum.checkpoints.published.source_files import open_weights
from plum.checkpoints.stock_folder import list_stock_tensors, read_stock_checkpoint, write_stock_record
from plum.checkpoints.store import CARD_FILE, MODEL_STEM, write_folder
from plum.checkpoints.weights import write_tensors
from plum.config import ModelConfig, SegmenterConfig
from plum.models.segmenters.build import build_segmenter
from plum.models.systems.special_tokens import with_special_tokens


@dataclass(frozen=True)
class AdoptedModel:
    """What was written: the architecture, and notes on what was found."""

    config: ModelConfig
    notes: tuple[str, ...]


def adopt(stock: Path, sam: Path, destination: Path) -> AdoptedModel:
    """Write a base over a stock checkpoint, to train from (`init_from`).

    The folder holds SAM's weights, the tokenizer, the configuration and a reference to the checkpoint, which is not
    copied and has to be kept. Writing is atomic.

    Args:
        stock: folder of an image-text-to-text checkpoint of transformers.
        sam: `sam_vit_{b,l,h}_*.pth`, or the folder of a SAM 2 in transformers' form.
        destination: new folder.

    Raises:
        FileNotFoundError: a file or folder is missing.
        FileExistsError: `destination` exists.
        ValueError: the checkpoint's architecture is none that PLUM's heads run on, a file is damaged, or tensors are
            missing or unknown; the message names the file.
    """
    with write_folder(destination) as partial:
        checkpoint = read_stock_checkpoint(stock)
        num_tensors = len(list_stock_tensors(stock, checkpoint.config))
        segmenter, weights, licence = _read_segmenter(sam)
        config = with_special_tokens(ModelConfig(hf=checkpoint.config, sam=segmenter, lora=None), checkpoint.tokenizer)
        write_tensors(weights, partial, MODEL_STEM)
        write_model_config(config, partial)
        checkpoint.tokenizer.save_pretrained(str(partial))
        write_stock_record(partial, stock)
        notes = (
            f"Backbone: {checkpoint.config.model_type}, {num_tensors} tensors, read from {stock} and not copied",
            f"End of an answer: {checkpoint.config.end_tokens[0]}",
            f"Segmenter: {getattr(segmenter, 'model_type', 'sam')}, {segmenter.image_size} px; {licence}",
        )
        lines = "\n".join(f"- {note}" for note in notes)
        (partial / CARD_FILE).write_text(
            "A base over a stock checkpoint, made by `python -m plum adopt`. PLUM's heads are not in this folder: "
            f"train from it (`init_from`).\n\n{lines}\n\nThe stock weights keep their own licence.\n",
            encoding="utf-8",
        )
    return AdoptedModel(config, notes)


def _read_segmenter(sam: Path) -> tuple[SegmenterConfig, Mapping[str, Tensor], str]:
    """Return sizes, weights by our names, and licence of a segmenter."""
    if sam.is_dir():
        published = read_sam2(sam)
        weights = {own_sam2_name(name): tensor for name, tensor in published.weights.items()}
        return published.config, weights, published.licence
    config = read_sam_config(sam)
    segmenter = build_segmenter(config)
    with open_weights(sam) as file:
        own = {own_sam_name(name): file.read(name) for name in file.names}
    expected = {own_sam_name(name): tuple(tensor.shape) for name, tensor in segmenter.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if found != expected:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(f"{sam} is not SAM's checkpoint: {len(differing)} tensors differ, such as {differing[0]}")
    return config, own, "SAM: Apache 2.0"
