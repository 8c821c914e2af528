"""Low-rank adapters on the language model's attention (paper, Table 6), through peft, on the inner LLaVA only."""

from collections.abc import Iterator
from contextlib import contextmanager

import peft
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import LlavaForConditionalGeneration

from plum.config import LoraConfig


def add_adapters(llava: LlavaForConditionalGeneration, config: LoraConfig) -> PeftModel:
    """Wrap a stock LLaVA with fresh adapters; the base is frozen by peft.

    Args:
        llava: changed in place: targeted linear layers become LoRA layers.
        config: the targets are looked for in the language model's layers alone (plain names would also hit CLIP's).

    Raises:
        ValueError: embeddings are to be trained and lm_head is tied to them, or no layer has a target's name.
    """
    if config.train_embeddings and llava.lm_head.weight is llava.get_input_embeddings().weight:
        raise ValueError(
            "lora.train_embeddings: lm_head is tied to embed_tokens, so the adapters-off teacher would drift with it; "
            "untie them or set it false"
        )
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=rf".*language_model\.layers\.\d+\..*\.({'|'.join(config.target_modules)})",
        modules_to_save=["embed_tokens"] if config.train_embeddings else None,
    )
    return peft.get_peft_model(llava, settings)


def is_adapter(name: str) -> bool:
    """Say whether a tensor of a model belongs to an adapter (a trained copy of embeddings does not)."""
    return ".lora_" in name


def name_without_adapters(name: str) -> str:
    """Return the name that a tensor of the base, or its trained copy, has in a model without adapters."""
    plain = name.replace("llava.network.base_model.model.", "llava.network.").replace(".base_layer.", ".")
    return plain.replace(".original_module.", ".").replace(".modules_to_save.default.", ".")


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Let `module` compute as if it had no adapters, trained embedding copies included.

    peft's own `disable_adapter` leaves requires_grad on for adapters that were frozen; this restores every flag.
    """
    switchable = [layer for layer in module.modules() if isinstance(layer, (BaseTunerLayer, ModulesToSaveWrapper))]
    flags = [(parameter, parameter.requires_grad) for layer in switchable for parameter in layer.parameters()]
    for layer in switchable:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in switchable:
            layer.enable_adapters(True)
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


def merge_adapters(adapted: PeftModel) -> LlavaForConditionalGeneration:
    """Fold the adapters into the base weights and return the stock model, in the dtype it had.

    The sum is taken in float32: in bfloat16 it moves logits by several thousandths.
    """
    dtype = next(adapted.parameters()).dtype
    names = [name for name, layer in adapted.get_base_model().named_modules() if isinstance(layer, LoraLayer)]
    for name in names:
        adapted.get_base_model().get_submodule(name).to(torch.float32)
    merged = adapted.merge_and_unload(safe_merge=True)
    for name in names:  # these alone: a cast of the whole model would round its frequencies
        merged.get_submodule(name).to(dtype)
    return merged
