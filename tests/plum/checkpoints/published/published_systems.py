"""Tiny checkpoints of systems with heads as their authors publish them, and what the authors' code computes with them.

Names, tokenizers and forward passes are written out here, from the original code, and use nothing of the converter.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from tests.plum.checkpoints.published.published_llava import (
    ORIGINAL,
    ORIGINAL_LINEAR,
    VOCAB,
    make_sam_parts,
    make_stock,
    rename,
    sam_state,
    sentencepiece_model,
    write_clip,
    write_original,
    write_shards,
)

NUM_PATCHES = 4
WIDTH, PROMPT = 32, 16
CLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."
SYSTEM_PROMPT = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. "
)
LISA_TOKENS = ("[SEG]", "<im_start>", "<im_end>")
GLAMM_TOKENS = ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>")
PLUM_TOKENS = ("<im_start>", "<im_end>")
LISA_CONFIG = {"train_mask_decoder": True, "out_dim": PROMPT, "mm_use_im_start_end": True}


@dataclass
class Original:
    """A checkpoint in memory: its modules, and its tensors under the published names."""

    stock: LlavaForConditionalGeneration
    state: dict[str, Tensor]
    tokens: dict[str, int]
    text_fc: nn.Sequential
    fusion: dict[str, Tensor] = field(default_factory=dict)

    @property
    def seg(self) -> int:
        return self.tokens["[SEG]"]


def make_text_fc() -> nn.Sequential:
    """`text_hidden_fcs[0]`, whose dropout has the probability 0."""
    torch.manual_seed(9)
    layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, PROMPT), nn.Dropout(0.0)).eval()
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return layers


def make_original(
    tokens: Sequence[str], sam_prefix: str, projector: str = "linear", with_clip: bool = False
) -> Original:
    """LLaVA without CLIP, SAM and `text_hidden_fcs`; a merged folder."""
    stock = make_stock(projector, vocab_size=VOCAB + len(tokens))
    names = ORIGINAL_LINEAR if projector == "linear" else ORIGINAL
    whole = {n: t for n, t in stock.state_dict().items() if projector != "linear" or "linear_2" not in n}
    state = rename(whole, names)
    if not with_clip:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(CLIP_PREFIX)}
    text_fc = make_text_fc()
    state |= {f"{sam_prefix}{name}": tensor for name, tensor in sam_state().items()}
    state |= {f"model.text_hidden_fcs.0.{name}": tensor for name, tensor in text_fc.state_dict().items()}
    return Original(stock, state, {token: VOCAB + i for i, token in enumerate(tokens)}, text_fc)


def make_lisa(with_clip: bool = False) -> Original:
    """LISA-13B-llama2-v1's layout."""
    return make_original(LISA_TOKENS, "model.visual_model.", with_clip=with_clip)


def make_m2sa(with_clip: bool = False) -> Original:
    """LISA's with `compress_vit` in the mask decoder."""
    original = make_original(LISA_TOKENS, "model.visual_model.", with_clip=with_clip)
    torch.manual_seed(13)
    shapes = {"0.weight": (PROMPT, 32, 3, 3), "0.bias": (PROMPT,), "1.weight": (PROMPT,), "1.bias": (PROMPT,)}
    shapes |= {"3.weight": (PROMPT, PROMPT, 3, 3), "3.bias": (PROMPT,)}
    original.fusion = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    prefix = "model.visual_model.mask_decoder.compress_vit."
    original.state |= {f"{prefix}{name}": tensor for name, tensor in original.fusion.items()}
    return original


def make_glamm() -> Original:
    """GLaMM's layout: SAM as `grounding_encoder`, two projector layers, the region encoder as a decoy."""
    original = make_original(GLAMM_TOKENS, "model.grounding_encoder.", "gelu")
    original.state |= {
        "model.region_encoder.mlvl_fuse.fuse_convs.0.conv.weight": torch.randn(4, 4, 1, 1),
        "model.region_encoder.roi_align.flatten_linear.weight": torch.randn(4, 4),
    }
    return original


def write_tokens(folder: Path, tokens: Mapping[str, int]) -> None:
    """The files of transformers 4.31 beside tokenizer.model."""
    (folder / "added_tokens.json").write_text(json.dumps(tokens))
    special = {
        name: {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        for name, token in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special | {"pad_token": "<unk>"}))


def write_system(
    tmp_path: Path, original: Original, legacy: bool | None = None, kind: str = "bin", **config: object
) -> tuple[Path, Path]:
    """Write a merged folder and its CLIP; return both."""
    vocab_size = VOCAB + len(original.tokens)
    settings = LISA_CONFIG | {"vocab_size": vocab_size, "vision_tower": "openai/clip-vit-large-patch14"}
    folder = write_original(tmp_path / "source", original.state, kind, **(settings | config))
    write_tokens(folder, original.tokens)
    if legacy is not None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"legacy": legacy}))
    return folder, write_clip(tmp_path / "clip", original.stock)


def write_unmerged(tmp_path: Path, original: Original, factors: Mapping[str, Tensor]) -> tuple[Path, Path]:
    """Write zero_to_fp32's file (peft's prefix, adapters beside plain weights) and the LLaVA it began with."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    state = {f"base_model.model.{name}": tensor for name, tensor in (original.state | dict(factors)).items()}
    write_shards(state, folder, "bin", 1)
    base = {name: tensor for name, tensor in original.state.items() if name.startswith(("model.layers.", "model.norm"))}
    return folder, write_original(tmp_path / "llava", base, "bin")


# The original tokenizers, on SentencePiece alone.


def split_at(text: str, tokens: Sequence[str]) -> list[str]:
    """Cut tokens out of a text."""
    return [piece for piece in re.split(f"({'|'.join(map(re.escape, tokens))})", text) if piece]


def slow_ids(text: str, tokens: Mapping[str, int]) -> list[int]:
    """Ids of one chunk by the slow tokenizer of transformers 4.31 with `legacy`.

    White space around an added token is stripped, and each piece begins with the word mark.
    """
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    pieces = split_at(text, [*tokens, "</s>"])
    for place, piece in enumerate(pieces):
        if piece in tokens:
            if place + 1 < len(pieces):
                pieces[place + 1] = pieces[place + 1].lstrip()
            if place > 0:
                pieces[place - 1] = pieces[place - 1].rstrip()
    ids: list[int] = []
    for piece in pieces:
        if piece in tokens or piece == "</s>":
            ids.append(tokens.get(piece, model.eos_id()))
        elif piece:
            ids += model.encode(piece)
    return ids


def newer_slow_ids(text: str, tokens: Mapping[str, int], has_lone_mark: bool = True) -> list[int]:
    """Ids of one chunk by the slow tokenizer of GLaMM's commit, `legacy` false.

    The mark is before the chunk only, alone if an added token follows (version 4.31 leaves that one out); later pieces
    are read whole, without the mark.
    """
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    mark = "\N{LOWER ONE EIGHTH BLOCK}"
    before = model.encode("<unk>")
    pieces = split_at(mark + text, [*tokens, "</s>"])
    ids: list[int] = []
    for place, piece in enumerate(pieces):
        if piece in tokens or piece == "</s>":
            ids.append(tokens.get(piece, model.eos_id()))
            continue
        is_after, is_before = (pieces[i : i + 1] and pieces[i] in tokens for i in (max(place - 1, 0), place + 1))
        kept = piece.lstrip() if is_after else piece
        kept = kept.rstrip() if is_before else kept
        if kept and (has_lone_mark or kept != mark):
            ids += model.encode(f"<unk>{kept}")[len(before) :]
    return ids


def fast_ids(text: str, tokens: Mapping[str, int]) -> list[int]:
    """Ids of one chunk by the fast tokenizer of transformers 4.31: nothing is stripped, every piece has the mark."""
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    ids: list[int] = []
    for piece in split_at(text, [*tokens, "</s>"]):
        is_token = piece in tokens or piece == "</s>"
        ids += [tokens.get(piece, model.eos_id())] if is_token else model.encode(piece)
    return ids


# The original forward passes.


def clip_pixels(image: np.ndarray, size: int = 16) -> Tensor:
    """CLIPImageProcessor: shortest side, bicubic, centre crop, CLIP's statistics."""
    picture = Image.fromarray(image)
    scale = size / min(picture.size)
    width, height = (int(side * scale) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    values = torch.from_numpy(np.asarray(picture.crop((left, top, left + size, top + size))).copy()).float() / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return ((values - mean) / deviation).permute(2, 0, 1)[None]


def sam_pixels(image: np.ndarray, size: int = 32) -> tuple[Tensor, tuple[int, int]]:
    """ResizeLongestSide, SAM's statistics, zeros at the bottom and on the right; and the size without them."""
    scale = size / max(image.shape[:2])
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.asarray(resized).copy()).float().permute(2, 0, 1)
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    deviation = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    values = (values - mean) / deviation
    return functional.pad(values, (0, size - width, 0, size - height))[None], (height, width)


@dataclass(frozen=True)
class Computed:
    """Ids with the image as NUM_PATCHES times -200, states [T, D], logits [T, V]."""

    ids: list[int]
    states: Tensor
    logits: Tensor


@torch.no_grad()
def run_llava(original: Original, image: np.ndarray, chunks: Sequence[list[int]]) -> Computed:
    """Run the language model on chunks of ids around the image; the first begins with <s>."""
    stock = original.stock
    embed = stock.get_input_embeddings()
    features = stock.model.vision_tower(clip_pixels(image), output_hidden_states=True).hidden_states[-2][:, 1:]
    before, after = ([1, *chunks[0]], chunks[1])
    embedded = [embed(torch.tensor([before])), stock.model.multi_modal_projector(features)]
    embedded.append(embed(torch.tensor([after])))
    states = stock.model.language_model(inputs_embeds=torch.cat(embedded, 1)).last_hidden_state
    return Computed([*before, *[-200] * NUM_PATCHES, *after], states[0], stock.lm_head(states)[0])


def seg_queries(original: Original, computed: Computed, shift: int = 1) -> Tensor:
    """Queries as LISA selects them: the mask of `ids[1:] == seg` with one placeholder's patches less one in front."""
    placeholder = [i for i in computed.ids if i != -200]
    at = computed.ids.index(-200)
    placeholder.insert(at, -200)
    is_seg = torch.tensor([token == original.seg for token in placeholder[1:]] + [False])
    is_seg = torch.cat([torch.zeros(NUM_PATCHES - 1, dtype=torch.bool), is_seg])
    if shift != 1:
        is_seg = is_seg.roll(1 - shift)
    with torch.no_grad():
        return original.text_fc(computed.states)[is_seg]


@torch.no_grad()
def encode_image(original: Original, image: np.ndarray) -> Tensor:
    """SAM's embedding; with M2SA's early features where the checkpoint has them."""
    encoder = make_sam_parts()[0]
    pixels, _ = sam_pixels(image)
    if not original.fusion:
        return encoder(pixels)
    x = encoder.patch_embed(pixels) + encoder.pos_embed
    early = None
    for block in encoder.blocks:
        x = block(x)
        if early is None and block.window_size == 0:  # the first block with global attention
            early = x
    assert early is not None
    w = original.fusion
    fused = functional.conv2d(early.permute(0, 3, 1, 2), w["0.weight"], w["0.bias"], padding=1)
    mean = fused.mean(1, keepdim=True)
    fused = (fused - mean) / ((fused - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    fused = functional.gelu(fused * w["1.weight"][:, None, None] + w["1.bias"][:, None, None])
    fused = functional.conv2d(fused, w["3.weight"], w["3.bias"], padding=1)
    return encoder.neck(x.permute(0, 3, 1, 2)) + fused


@torch.no_grad()
def decode_mask(embedding: Tensor, query: Tensor, dense: Tensor | None = None) -> Tensor:
    """SAM's low-resolution mask [16, 16] of one query; `dense`: a mask prompt in place of `no_mask_embed`."""
    _, prompt, decoder = make_sam_parts()
    none = prompt.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 4, 4)
    low, _ = decoder(
        image_embeddings=embedding,
        image_pe=prompt.get_dense_pe(),
        sparse_prompt_embeddings=query[None, None],
        dense_prompt_embeddings=none if dense is None else dense[None],
        multimask_output=False,
    )
    return low[0, 0]


def finish_mask(low: Tensor, image: np.ndarray) -> np.ndarray:
    """SAM's postprocess_masks and threshold."""
    _, (height, width) = sam_pixels(image)
    large = functional.interpolate(low[None, None], (32, 32), mode="bilinear", align_corners=False)
    large = large[..., :height, :width]
    return (functional.interpolate(large, image.shape[:2], mode="bilinear", align_corners=False)[0, 0] > 0).numpy()


# PLUM of its authors: tagger and mask feedback.


@dataclass
class OriginalPlum(Original):
    """Also the tagger's block and layers, and the pooler's tensors."""

    block: nn.TransformerEncoderLayer = field(default_factory=lambda: nn.TransformerEncoderLayer(WIDTH, 8))
    classifier: nn.Sequential = field(default_factory=nn.Sequential)
    pooler: dict[str, Tensor] = field(default_factory=dict)


def make_plum(with_clip: bool = False) -> OriginalPlum:
    """The layout of `PLUMForCausalLM`, feedback included: second names of SAM's prompt encoder, an unused layer."""
    llava = make_original(PLUM_TOKENS, "model.visual_model.", with_clip=with_clip)
    torch.manual_seed(21)
    block = nn.TransformerEncoderLayer(WIDTH, 8, 48, 0.1, batch_first=True).eval()
    classifier = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3)).eval()
    attention = nn.MultiheadAttention(PROMPT, 8, batch_first=True)
    pooler = {"queries": torch.randn(16, 1, PROMPT)}
    pooler |= {f"attn.{name}": tensor.detach() + 0.1 for name, tensor in attention.state_dict().items()}
    for number, channels in enumerate((4, 16, PROMPT)):
        layer = nn.Linear(PROMPT, 2 * channels)
        names = {f"mask_modulator.projections.{number}.{kind}": getattr(layer, kind) for kind in ("weight", "bias")}
        pooler |= {name: tensor.detach() for name, tensor in names.items()}
    prompt = {n.removeprefix("prompt_encoder."): t for n, t in sam_state().items() if n.startswith("prompt_encoder.")}
    aliases = {f"prompt_encoder.{name}": tensor for name, tensor in prompt.items()}
    for place, layer in (("block1.0.0", 0), ("block1.0.1", 1), ("block2.0.3", 3), ("block2.0.4", 4), ("final_conv", 6)):
        for kind in ("weight", "bias"):
            aliases[f"{place}.{kind}"] = prompt[f"mask_downscaling.{layer}.{kind}"]
    state = llava.state | {f"bio_encoder.encoder.layers.0.{name}": t for name, t in block.state_dict().items()}
    state |= {f"model.token_to_mask_fcs.0.{name}": tensor for name, tensor in classifier.state_dict().items()}
    state |= {f"mask_pooler.{name}": tensor.clone() for name, tensor in (pooler | aliases).items()}
    return OriginalPlum(
        llava.stock, state, llava.tokens, llava.text_fc, block=block, classifier=classifier, pooler=pooler
    )


@torch.no_grad()
def plum_tags(original: OriginalPlum, states: Tensor, is_block_first: bool = True) -> Tensor:
    """Logits [T, 3] of all tokens: the block, then the two layers; or the wrong way round."""
    if is_block_first:
        return original.classifier(original.block(states[None]))[0]
    first, relu, last = original.classifier
    return last(original.block(relu(first(states))[None]))[0]


@torch.no_grad()
def pool_masks(original: OriginalPlum, queries: Tensor, masks: Tensor, in_values: bool = True) -> Tensor:
    """The authors' mask pooler [C, h, w]: modulated maps, SAM's position in keys and values, one query per place."""
    _, prompt, _ = make_sam_parts()
    conv_1, norm_1, gelu_1, conv_2, norm_2, gelu_2, project = prompt.mask_downscaling

    def modulate(features: Tensor, number: int) -> Tensor:
        prefix = f"mask_modulator.projections.{number}."
        layer = functional.linear(queries, original.pooler[f"{prefix}weight"], original.pooler[f"{prefix}bias"])
        scale, shift = layer[..., None, None].chunk(2, 1)
        return features * (scale + 1) + shift

    features = gelu_1(modulate(norm_1(conv_1(masks[:, None])), 0))
    features = project(gelu_2(modulate(norm_2(conv_2(features)), 1)))
    placed = features + prompt.get_dense_pe()
    attention = nn.MultiheadAttention(PROMPT, 8, batch_first=True)
    attention.load_state_dict({n.removeprefix("attn."): t for n, t in original.pooler.items() if n.startswith("attn.")})
    keys, values = (x.flatten(2).permute(2, 0, 1) for x in (placed, placed if in_values else features))
    pooled, _ = attention(original.pooler["queries"], keys, values)
    return pooled[:, 0].T.unflatten(1, (4, 4))


@torch.no_grad()
def plum_masks(
    original: OriginalPlum, image: np.ndarray, queries: Tensor, with_feedback: bool, in_values: bool = True
) -> list[Tensor]:
    """Low-resolution masks in order; with feedback each sees the earlier ones."""
    embedding = encode_image(original, image)
    masks: list[Tensor] = []
    for number, query in enumerate(queries):
        dense = None
        if with_feedback and masks:
            dense = pool_masks(original, queries[:number], torch.stack(masks), in_values)
        masks.append(decode_mask(embedding, query, dense))
    return masks
