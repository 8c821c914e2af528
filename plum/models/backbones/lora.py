"""Low-rank adapters on the language model's attention (paper, Table 6); peft wraps only the stock model."""

from collections.abc import Iterator
from contextlib import contextmanager

import peft
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from plum.config import LoraConfig


def add_adapters(stock: PreTrainedModel, config: LoraConfig, decoder: str = "language_model") -> PeftModel:
    """Wrap a stock model with new adapters; peft freezes the base.

    Args:
        stock: changed in place: targeted linear layers become LoRA layers.
        config: targets are matched only in the language model's layers (plain names would also match a tower's).
        decoder: name of the language model in the stock model.

    Raises:
        ValueError: no layer has a target's name, or embeddings are to be trained and peft does not find the lm_head
            that is tied to them.
    """
    is_tied = stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=rf".*{decoder}\.layers\.\d+\..*\.({'|'.join(config.target_modules)})",
        modules_to_save=["embed_tokens"] if config.train_embeddings else None,
        # A tied lm_head gets a copy too, so that the model without adapters keeps both of its own.
        ensure_weight_tying=is_tied and config.train_embeddings,
    )
    adapted = peft.get_peft_model(stock, settings)
    if settings.ensure_weight_tying and not isinstance(stock.get_output_embeddings(), ModulesToSaveWrapper):
        raise ValueError(
            "lora.train_embeddings: lm_head is tied to embed_tokens, but the model's configuration does not say so "
            "(tie_word_embeddings); set it, or untie them"
        )
    tie_trained_copies(stock)
    return adapted


def tie_trained_copies(stock: PreTrainedModel) -> None:
    """Make the copies of tied embeddings one tensor, and the originals too; without such copies, do nothing.

    peft ties them when it makes them, and parameters that lose their memory lose the tie.
    """
    embeddings, head = stock.get_input_embeddings(), stock.get_output_embeddings()
    if isinstance(embeddings, ModulesToSaveWrapper) and isinstance(head, ModulesToSaveWrapper):
        head.original_module.weight = embeddings.original_module.weight
        for adapter, copy in embeddings.modules_to_save.items():
            head.modules_to_save[adapter].weight = copy.weight


def reset_adapters(module: nn.Module) -> None:
    """Reset adapters to their initial values (B zero, so that they have no effect yet), in float32, in place."""
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            for adapter in layer.lora_A:
                layer.lora_A[adapter].float()
                layer.lora_B[adapter].float()
                layer.reset_lora_parameters(adapter, init_lora_weights=True)


def is_adapter(name: str) -> bool:
    """Return whether a tensor of a model belongs to an adapter (a trained copy of embeddings does not)."""
    return ".lora_" in name


def name_without_adapters(name: str) -> str:
    """Return the name that a tensor of the base, or its trained copy, has in a model without adapters."""
    plain = name.replace("llava.network.base_model.model.", "llava.network.").replace(".base_layer.", ".")
    return plain.replace(".original_module.", ".").replace(".modules_to_save.default.", ".")


def peft_name(name: str) -> str:
    """Return the name that peft's adapter files give an adapter's tensor, or a trained copy of embeddings."""
    plain = name.removeprefix("llava.network.").replace(".modules_to_save.default.", ".")
    return plain.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")


def name_of_peft(key: str) -> str:
    """Return the model's name for a tensor of a peft adapter file; the inverse of `peft_name`."""
    for side in ("lora_A", "lora_B"):
        if f".{side}." in key:
            return "llava.network." + key.replace(f".{side}.", f".{side}.default.")
    owner, _, attribute = key.rpartition(".")
    return f"llava.network.{owner}.modules_to_save.default.{attribute}"


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Disable the adapters of `module`, trained embedding copies included, within the context.

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
