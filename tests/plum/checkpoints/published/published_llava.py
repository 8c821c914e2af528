"""Tiny LLaVA, CLIP and SAM checkpoints in the files that are published; names are written out here, not taken from the
converter's tables."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from plum.models.segmenters.sam_modules import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from scripts.sentencepiece_model import train_sentencepiece, write_tokenizer_files
from tests.plum.data.tokenizers_for_tests import TEXTS

VOCAB = 420
PLACEHOLDER = 7
"""Stands for the image in the stock model's ids; the original vocabularies have no `<image>`."""
Names = Mapping[str, str]
HF_4: Names = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
HF_4_LATE: Names = {"model.vision_tower.": "model.vision_tower.vision_model."}
ORIGINAL: Names = {
    "model.language_model.": "model.",
    "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
    "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
}
ORIGINAL_LINEAR: Names = {**ORIGINAL, "model.multi_modal_projector.linear_1.": "model.mm_projector."}
BUFFERS = {
    "model.language_model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    "model.vision_tower.embeddings.position_ids": torch.arange(5)[None],
}
"""What older versions saved beside the weights."""
VISION = CLIPVisionConfig(
    image_size=16,
    patch_size=8,
    hidden_size=128,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=2,
    projection_dim=128,
)
TEXT = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
)


def make_stock(projector: str = "gelu", seed: int = 0, vocab_size: int = VOCAB) -> LlavaForConditionalGeneration:
    """A random stock LLaVA; `projector` linear: one layer, the second is the identity."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=VISION,
        text_config=LlamaConfig.from_dict(TEXT.to_dict() | {"vocab_size": vocab_size}),
        image_token_index=PLACEHOLDER,
        projector_hidden_act=projector,
        vision_feature_layer=-2,
        image_seq_length=4,
    )
    stock = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        if projector == "linear":
            second = stock.model.multi_modal_projector.linear_2
            second.weight.copy_(torch.eye(32))
            second.bias.zero_()
    return stock


def rename(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Give tensors other prefixes."""
    renamed = {}
    for name, tensor in state.items():
        old = next((prefix for prefix in sorted(names, key=len, reverse=True) if name.startswith(prefix)), "")
        renamed[names.get(old, "") + name.removeprefix(old)] = tensor.clone()
    return renamed


def write_shards(state: Mapping[str, Tensor], folder: Path, kind: str, num_shards: int = 2) -> None:
    """Write weights as `bin` or `safetensors`, one file or shards with an index."""
    stem, suffix = ("pytorch_model", "bin") if kind == "bin" else ("model", "safetensors")
    names = sorted(state)
    weight_map = {}
    for i in range(num_shards):
        file = f"{stem}.{suffix}" if num_shards == 1 else f"{stem}-{i + 1:05}-of-{num_shards:05}.{suffix}"
        shard = {name: state[name].contiguous() for name in names[i::num_shards]}
        if kind == "bin":
            torch.save(shard, folder / file)
        else:
            save_file(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    if num_shards > 1:
        content = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(content))


@lru_cache(maxsize=1)
def sentencepiece_model() -> bytes:
    """The tokenizer.model of these checkpoints."""
    return train_sentencepiece(TEXTS * 3, VOCAB)


def write_tokenizer(folder: Path, **settings: object) -> None:
    """Write tokenizer.model and its settings as the original folders have them."""
    write_tokenizer_files(folder, sentencepiece_model(), settings)


def write_original(folder: Path, state: Mapping[str, Tensor], kind: str, num_shards: int = 2, **config: object) -> Path:
    """Write a folder of the original code around tensors that have its names."""
    folder.mkdir(parents=True)
    write_shards(state, folder, kind, num_shards)
    content = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "vocab_size": VOCAB,
        "hidden_size": TEXT.hidden_size,
        "intermediate_size": TEXT.intermediate_size,
        "num_hidden_layers": TEXT.num_hidden_layers,
        "num_attention_heads": TEXT.num_attention_heads,
        "hidden_act": "silu",
        "max_position_embeddings": TEXT.max_position_embeddings,
        "rms_norm_eps": TEXT.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "mm_hidden_size": VISION.hidden_size,
        "mm_use_im_start_end": False,
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14",
    }
    (folder / "config.json").write_text(json.dumps(content | config))
    write_tokenizer(folder)
    return folder


def write_hf(folder: Path, state: Mapping[str, Tensor], kind: str = "safetensors") -> Path:
    """Write a llava-hf folder of transformers 4: sparse configuration, older keys."""
    folder.mkdir(parents=True)
    write_shards(state, folder, kind)
    text = {key: TEXT.to_dict()[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "rms_norm_eps")}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512, "model_type": "llama"}
    keys = ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = {key: VISION.to_dict()[key] for key in keys}
    content = {
        "model_type": "llava",
        "text_config": text,
        "vision_config": vision | {"model_type": "clip_vision_model"},
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_token_index": PLACEHOLDER,
    }
    (folder / "config.json").write_text(json.dumps(content))
    write_tokenizer(folder)
    return folder


def write_clip(folder: Path, stock: LlavaForConditionalGeneration, image_size: int = 16) -> Path:
    """Write a whole CLIP: vision tower, text tower, projections."""
    folder.mkdir()
    vision = {
        name.replace("model.vision_tower.", "vision_model."): tensor
        for name, tensor in stock.state_dict().items()
        if name.startswith("model.vision_tower.")
    }
    others = {
        "text_model.final_layer_norm.weight": torch.ones(4),
        "logit_scale": torch.ones(()),
        "visual_projection.weight": torch.ones(4, 4),
        "text_projection.weight": torch.ones(4, 4),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    write_shards(vision | others, folder, "bin", 1)
    sizes = VISION.to_dict() | {"image_size": image_size}
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": sizes}))
    return folder


def make_sam_parts() -> tuple[ImageEncoderViT, PromptEncoder, MaskDecoder]:
    """segment-anything's own modules at 32 px: grid 4 x 4, the second of two blocks global, 8 decoder heads."""
    torch.manual_seed(5)
    encoder = ImageEncoderViT(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=16,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    prompt = PromptEncoder(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(32, 32), mask_in_chans=16)
    decoder = MaskDecoder(
        transformer_dim=16,
        transformer=TwoWayTransformer(depth=2, embedding_dim=16, num_heads=8, mlp_dim=32),
        iou_head_hidden_dim=16,
    )
    with torch.no_grad():
        for module in (encoder, prompt, decoder):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return encoder.eval(), prompt.eval(), decoder.eval()


def sam_state() -> dict[str, Tensor]:
    """The tensors of a published SAM file."""
    names = ("image_encoder", "prompt_encoder", "mask_decoder")
    return {
        f"{prefix}.{name}": tensor
        for prefix, module in zip(names, make_sam_parts(), strict=True)
        for name, tensor in module.state_dict().items()
    }


def write_sam(path: Path) -> Path:
    """Write them as `.pth`."""
    torch.save(sam_state(), path)
    return path
