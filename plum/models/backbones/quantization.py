"""Quantization of a frozen language model to 8 or 4 bits by bitsandbytes (QLoRA); optional, not yet verified on CUDA.

bitsandbytes is imported only on request. Its layers keep weights as loaded and pack them when they move to their
device; until then, names and shapes are those of the dense model.
"""

import importlib
import importlib.util
from types import ModuleType

import torch
from torch import nn
from transformers import PreTrainedModel

from plum.config import Quantization

UNVERIFIED = (
    "engine.base_quantization %s: unverified until run on CUDA. The frozen language model is packed by bitsandbytes; "
    "compare the first losses with an unquantized run before a long run"
)
INT8_THRESHOLD = 6.0
"""Activations beyond it are computed in 16 bits (LLM.int8's outliers)."""


def quantize_language_model(stock: PreTrainedModel, kind: Quantization) -> None:
    """Replace the linear layers of the language model's blocks in place; embeddings and lm_head are unchanged.

    Args:
        stock: a model without adapters; peft chooses its layer types by the layers it finds.
        kind: "int8" (LLM.int8) or "nf4" (4 bits, double quantization); "none" changes nothing.

    Raises:
        ModuleNotFoundError: bitsandbytes is not installed.
    """
    if kind == "none":
        return
    library = _import_bitsandbytes(kind)
    for block in stock.get_decoder().layers:
        for owner in list(block.modules()):
            for name, layer in list(owner.named_children()):
                if type(layer) is nn.Linear:
                    setattr(owner, name, _packed_like(layer, kind, library))
    # peft reads this attribute to choose matching adapters.
    setattr(stock, "is_loaded_in_8bit" if kind == "int8" else "is_loaded_in_4bit", True)


def _import_bitsandbytes(kind: Quantization) -> ModuleType:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"engine.base_quantization {kind!r} needs bitsandbytes, which is not installed: pip install bitsandbytes, "
            "or set it to 'none'"
        )
    return importlib.import_module("bitsandbytes")


def _packed_like(layer: nn.Linear, kind: Quantization, library: ModuleType) -> nn.Module:
    """Return the library's layer of the same sizes; it takes the dense weights and packs them on its device."""
    sizes, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    if kind == "int8":
        return library.nn.Linear8bitLt(*sizes, bias=has_bias, has_fp16_weights=False, threshold=INT8_THRESHOLD)
    return library.nn.Linear4bit(
        *sizes, bias=has_bias, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
    )
