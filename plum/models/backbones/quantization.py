"""A frozen language model in 8 or 4 bits through bitsandbytes (QLoRA): an option, unverified until run on CUDA.

bitsandbytes is imported only when it is asked for. Its layers keep their weights as they are loaded and pack them when
they move to their device, so that names and shapes are the dense model's until then.
"""

import importlib
import importlib.util
from types import ModuleType

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from plum.config import Quantization

UNVERIFIED = (
    "engine.base_quantization %s: unverified until run on CUDA. The frozen language model is packed by bitsandbytes; "
    "compare the first losses with an unquantized run before leaving it alone"
)
INT8_THRESHOLD = 6.0
"""Activations beyond it are computed in 16 bits (LLM.int8's outliers)."""


def quantize_language_model(llava: LlavaForConditionalGeneration, kind: Quantization) -> None:
    """Replace the linear layers of the language model's blocks, in place; embeddings and lm_head stay as they are.

    Args:
        llava: without adapters: peft chooses its layers by what it finds.
        kind: "int8" (LLM.int8) or "nf4" (4 bits, double quantization); "none" changes nothing.

    Raises:
        ModuleNotFoundError: bitsandbytes is not installed.
    """
    if kind == "none":
        return
    library = _import_bitsandbytes(kind)
    for block in llava.model.language_model.layers:
        for owner in list(block.modules()):
            for name, layer in list(owner.named_children()):
                if type(layer) is nn.Linear:
                    setattr(owner, name, _packed_like(layer, kind, library))
    # What peft asks a model for before it makes adapters that fit.
    setattr(llava, "is_loaded_in_8bit" if kind == "int8" else "is_loaded_in_4bit", True)


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
