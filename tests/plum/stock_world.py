"""PLUM over tiny stock checkpoints of transformers, one per family, with the checkpoint's own weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin

from partonomy.models.processors import load_processor
from plum.checkpoints.stock_folder import list_stock_tensors, read_stock_checkpoint
from plum.checkpoints.weights import copy_tensors
from plum.config import LoraConfig, ModelConfig
from plum.inference.predictor import Predictor
from plum.models.backbones.lora import name_without_adapters
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from tests.partonomy.models.tiny_checkpoints import ARCHITECTURES

VOCAB = 400
"""No checkpoint has more tokens; the tiny model's other sizes do not depend on it."""


def image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


WIDE, TALL = image(0, 24, 40), image(1, 50, 20)


@dataclass(frozen=True)
class StockWorld:
    """A family's checkpoint: transformers' own model and processor, and PLUM over the same weights."""

    folder: Path
    stock: PreTrainedModel
    processor: ProcessorMixin
    predictor: Predictor

    def inputs(self, text: str, *images: np.ndarray) -> dict[str, torch.Tensor]:
        """What the processor makes of a rendered text."""
        if whole := getattr(self.processor, "full_image_sequence", None):  # our texts have what surrounds an image
            start, *_, end = whole.split("<image_soft_token>")
            text = text.replace(f"{start}<image_soft_token>{end}", self.processor.image_token)
        pictures = [[Image.fromarray(one) for one in images]] if images else None
        adds_begin = self.predictor.encoder.template.adds_begin_token(text)  # type: ignore[union-attr]
        return dict(self.processor(text=[text], images=pictures, return_tensors="pt", add_special_tokens=adds_begin))


def stock_config(folder: Path, lora: LoraConfig | None = None) -> ModelConfig:
    found = read_stock_checkpoint(folder)
    config = replace(tiny_model_config(VOCAB), llava=None, hf=found.config, lora=lora)
    return with_special_tokens(config, found.tokenizer)


def make_world(folder: Path, family: str) -> StockWorld:
    ARCHITECTURES[family](folder)
    return open_world(folder)


def open_world(folder: Path) -> StockWorld:
    found = read_stock_checkpoint(folder)
    config = stock_config(folder, LoraConfig(rank=2, dropout=0.0))
    torch.manual_seed(0)
    model = build_model(config)
    assert config.hf is not None
    saved = list_stock_tensors(folder, config.hf)
    tensors = model.state_dict(keep_vars=True).items()
    names = [(tensor, name_without_adapters(name)) for name, tensor in tensors]
    copy_tensors([(tensor, name) for tensor, name in names if name in saved], saved)
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return StockWorld(folder, stock, load_processor(folder), Predictor(model, found.tokenizer, config))
