"""Tiny folders of CALICO's towers in the files that are published; names are written out here, not taken from the
converter's tables. transformers' own classes load them (`from_pretrained`)."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    OPTConfig,
)

from tests.plum.checkpoints.published.published_llava import write_shards

WIDTH, EVA, QFORMER, DINO = 32, 24, 16, 12
"""Widths of the language model, EVA-CLIP, the Q-Former and DINOv2."""
NUM_QUERIES = 3
Change = Callable[[dict[str, Tensor]], object]
EVA_SIZES = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": EVA,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
QFORMER_SIZES = {
    "hidden_size": QFORMER,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "encoder_hidden_size": EVA,
    "vocab_size": 30,
    "max_position_embeddings": 9,
}
TEXT_SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}


def layers(prefix: str, *modules: str) -> list[str]:
    return [f"{prefix}{module}.{kind}" for module in modules for kind in ("weight", "bias")]


def blip_names(is_instruct: bool) -> set[str]:
    """The names of Salesforce's files, less the language model's."""
    vision = "vision_model."
    names = [f"{vision}embeddings.class_embedding", f"{vision}embeddings.position_embedding", "query_tokens"]
    names += layers(vision, "embeddings.patch_embedding", "post_layernorm")
    names += layers("", "language_projection")
    for number in range(2):
        layer = f"{vision}encoder.layers.{number}."
        names += layers(layer, "self_attn.qkv", "self_attn.projection", "layer_norm1", "layer_norm2")
        names += layers(layer, "mlp.fc1", "mlp.fc2")
        layer = f"qformer.encoder.layer.{number}."
        for attention in ("attention", "crossattention") if number == 0 else ("attention",):
            names += layers(f"{layer}{attention}.attention.", "query", "key", "value")
            names += layers(f"{layer}{attention}.output.", "dense", "LayerNorm")
        names += layers(layer, "intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
        if is_instruct:
            names += layers(layer, "intermediate.dense", "output.dense", "output.LayerNorm")
    if is_instruct:
        names += layers("qformer.embeddings.", "layernorm")
        names += ["qformer.embeddings.word_embeddings.weight", "qformer.embeddings.position_embeddings.weight"]
    else:
        names += layers("qformer.", "layernorm")
    return set(names)


def shaken(model: nn.Module) -> nn.Module:
    """Give every parameter a value that matters: biases, norms and EVA-CLIP's start as constants."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_instruct_blip() -> InstructBlipForConditionalGeneration:
    """Salesforce/instructblip-vicuna-7b, tiny."""
    torch.manual_seed(31)
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**EVA_SIZES),
        qformer_config=InstructBlipQFormerConfig(**QFORMER_SIZES),
        text_config=LlamaConfig(intermediate_size=20, **TEXT_SIZES),
        num_query_tokens=NUM_QUERIES,
    )
    model = shaken(InstructBlipForConditionalGeneration(config))
    assert isinstance(model, InstructBlipForConditionalGeneration)
    return model


def make_blip_2() -> Blip2ForConditionalGeneration:
    """Salesforce/blip2-opt-2.7b, tiny."""
    torch.manual_seed(32)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**EVA_SIZES),
        qformer_config=Blip2QFormerConfig(**QFORMER_SIZES),
        text_config=OPTConfig(ffn_dim=20, word_embed_proj_dim=WIDTH, **TEXT_SIZES),
        num_query_tokens=NUM_QUERIES,
    )
    model = shaken(Blip2ForConditionalGeneration(config))
    assert isinstance(model, Blip2ForConditionalGeneration)
    return model


def write_blip(
    folder: Path,
    model: InstructBlipForConditionalGeneration | Blip2ForConditionalGeneration,
    change: Change = lambda state: None,
    kind: str = "safetensors",
) -> Path:
    """Write config.json and two shards; older InstructBLIP files also hold the positions' numbers."""
    folder.mkdir()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    is_instruct = isinstance(model, InstructBlipForConditionalGeneration)
    assert {name for name in state if not name.startswith("language_model.")} == blip_names(is_instruct)
    if is_instruct:
        state["qformer.embeddings.position_ids"] = torch.arange(9)[None]
    change(state)
    write_shards(state, folder, kind)
    model.config.save_pretrained(str(folder))
    return folder


def make_dino(has_registers: bool = False, is_gated: bool = True) -> Dinov2Model | Dinov2WithRegistersModel:
    """facebook/dinov2-giant (gated) or -base, or with registers, tiny."""
    torch.manual_seed(33)
    kind, config = (
        (Dinov2WithRegistersModel, Dinov2WithRegistersConfig) if has_registers else (Dinov2Model, Dinov2Config)
    )
    model = kind(
        config(
            image_size=32,
            patch_size=8,
            hidden_size=DINO,
            num_hidden_layers=2,
            num_attention_heads=2,
            use_swiglu_ffn=is_gated,
        )
    )
    shaken(model)
    return model


def dino_state(model: Dinov2Model | Dinov2WithRegistersModel) -> dict[str, Tensor]:
    """The tensors under facebook's names: attention as in BERT, gate and values in one matrix."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {n: own.pop(n) for n in list(own) if not n.startswith("encoder.")}
    for number in range(2):
        layer = f"encoder.layer.{number}."
        for name in (*layers("", "norm1", "norm2"), "layer_scale1.lambda1", "layer_scale2.lambda1"):
            state[layer + name] = own.pop(layer + name)
        for kind in ("weight", "bias"):
            for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
                state[f"{layer}attention.attention.{theirs}.{kind}"] = own.pop(f"{layer}attention.{ours}_proj.{kind}")
            state[f"{layer}attention.output.dense.{kind}"] = own.pop(f"{layer}attention.o_proj.{kind}")
            if model.config.use_swiglu_ffn:
                halves = [own.pop(f"{layer}mlp.{name}_proj.{kind}") for name in ("gate", "up")]
                state[f"{layer}mlp.weights_in.{kind}"] = torch.cat(halves)
                state[f"{layer}mlp.weights_out.{kind}"] = own.pop(f"{layer}mlp.down_proj.{kind}")
            else:
                for name in ("fc1", "fc2"):
                    state[f"{layer}mlp.{name}.{kind}"] = own.pop(f"{layer}mlp.{name}.{kind}")
    assert not own
    return state


def write_dino(
    folder: Path, model: Dinov2Model | Dinov2WithRegistersModel, state: dict[str, Tensor], kind: str = "safetensors"
) -> Path:
    """Write config.json and one file."""
    folder.mkdir()
    write_shards(state, folder, kind, 1)
    content = model.config.to_dict() | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(content))
    return folder
