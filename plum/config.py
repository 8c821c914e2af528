"""Architecture of a model, saved with its weights in config.json.

Training settings (loss weights, trainable modules, schedule, data) are in plum/train_config.py and are never part of a
saved model.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Quantization = Literal["none", "int8", "nf4"]
"""Storage of a frozen language model: unchanged, or quantized to 8 or 4 bits by bitsandbytes."""
Fit = Literal["crop", "pad", "stretch"]
"""How an image becomes CLIP's square; see `VisionConfig.fit`."""
TagScheme = Literal["bio", "binary"]
"""Classes of the span tagger; see `TaggerConfig.scheme`."""
PositionDtype = Literal["float32", "bfloat16"]
"""Arithmetic of SAM's positional encoding; see `SamConfig.position_dtype`."""
Conversation = Literal[
    "llava_v1",
    "vicuna_v1.1",
    "llava_llama_2",
    "plain",
    "llava_v1_im_start_end",
    "vicuna_v1.1_im_start_end",
    "glamm",
    "glamm_legacy",
]
"""Name of a conversation template; see plum.inputs.conversation."""


@dataclass(frozen=True)
class VisionConfig:
    """CLIP vision tower of LLaVA; EVA-CLIP in CALICO, whose last state after the final norm is read."""

    image_size: int
    """Side of the square input in pixels."""
    patch_size: int
    """Side of a patch in pixels. An image has (image_size / patch_size)^2 tokens."""
    hidden_size: int
    """Width of the states."""
    intermediate_size: int
    """Width of the feed-forward layers."""
    num_layers: int
    """Number of transformer layers."""
    num_heads: int
    """Attention heads per layer."""
    select_layer: int = -2
    """Index of the hidden state passed to the projector (LLaVA: the second to last)."""
    fit: Fit | None = None
    """How an image becomes CLIP's square. `crop`: the shortest side is resized to `image_size` and the centre is cut
    out, as CLIPImageProcessor does (LLaVA v1, LISA, M2SA and the code of PLUM's authors; the PLUM paper does not say).
    `pad`: padded to a square with CLIP's mean colour (LLaVA v1.5). `stretch`: resized without regard to proportions
    (the embedded default). None: that of `init_from`; without `init_from`, the usual one of the conversation template
    (`usual_fit`). Always set in a saved model."""

    num_query_tokens: int | None = None
    """Tokens of an image if a Q-Former condenses its patches (CALICO: 32); None: one token per patch."""

    @property
    def num_patches(self) -> int:
        """Number of patches of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_image_tokens(self) -> int:
        """Number of tokens of one image in the language model's input."""
        return self.num_patches if self.num_query_tokens is None else self.num_query_tokens


@dataclass(frozen=True)
class LanguageConfig:
    """LLaMA decoder of LLaVA."""

    vocab_size: int
    """Number of tokens, with the special ones; rows of the embedding and output matrices."""
    hidden_size: int
    """Width D of the states."""
    intermediate_size: int
    """Width of the feed-forward layers."""
    num_layers: int
    """Number of decoder layers."""
    num_heads: int
    """Attention heads per layer."""
    num_key_value_heads: int
    """Heads of keys and values; fewer than `num_heads` is grouped-query attention."""
    max_positions: int = 4096
    """Longest sequence in tokens, image tokens included."""
    rms_norm_eps: float = 1e-5
    """Added to the variance in the norms."""
    rope_theta: float = 10000.0
    """Base of the rotary position embedding."""


@dataclass(frozen=True)
class SpecialTokensConfig:
    """Token ids that the model itself needs, read from the tokenizer (plum.models.systems.special_tokens)."""

    image: int
    """Image placeholder, repeated once per image patch in input_ids."""
    pad: int
    """Padding."""
    eos: int
    """End of an answer."""
    suppressed: tuple[int, ...] = ()
    """Ids that are never text (image and padding placeholders); their logits are masked."""


@dataclass(frozen=True)
class LlavaConfig:
    """LLaVA: CLIP tower, projector, LLaMA (paper, Table 6 "Backbone")."""

    vision: VisionConfig
    language: LanguageConfig
    projector: Literal["linear", "mlp2x_gelu"] = "mlp2x_gelu"
    """LLaVA v1 has one linear layer; v1.5 has two with a GELU in between."""
    conversation: Conversation = "llava_v1"
    """Conversation template of the model's training. `plain` is the short template of the embedded default; the
    `im_start_end` templates are for checkpoints with `mm_use_im_start_end`, and for runs that add the two tokens, as
    the code of LISA's, M2SA's and PLUM's authors does. `glamm` is for converted GLaMM checkpoints; `glamm_legacy` for
    those whose tokenizer puts `▁` before every piece of text."""
    special_tokens: SpecialTokensConfig | None = None
    """None reads them from the tokenizer when a run starts; a saved model always has them."""


@dataclass(frozen=True)
class HfBackboneConfig:
    """An image-text-to-text model of transformers, with its own chat template and image processor.

    `plum adopt` copies all of this from the model's folder. A run that starts from an adopted model needs none of it
    and takes the model's; sizes in `stock` are for a run from random weights and for `plum doctor`.
    """

    stock: dict[str, object] = field(default_factory=dict)
    """The model's config.json: `model_type`, `text_config`, `vision_config`, ... What is missing has the default of
    transformers' configuration class."""
    image_processor: dict[str, object] = field(default_factory=dict)
    """Its preprocessor_config.json; `image_processor_type` names the class. Limits on an image's size (`size`) decide
    how many tokens an image has."""
    processor: dict[str, object] = field(default_factory=dict)
    """Its processor_config.json without the image processor; `processor_class` names the class."""
    end_tokens: tuple[str, ...] = ()
    """Tokens that end an answer, the chat template's own first (generation_config.json)."""
    special_tokens: SpecialTokensConfig | None = None
    """None reads them from the tokenizer when a run starts; a saved model always has them."""

    @property
    def model_type(self) -> str:
        """Name of the architecture in transformers, such as `qwen3_vl`; empty if `stock` does not say it."""
        return str(self.stock.get("model_type", ""))

    def with_vocabulary(self, num_rows: int) -> "HfBackboneConfig":
        """Return the configuration with another number of embedding rows.

        Published files name it in the text model's block, at the top (before there was a block), or in both.
        """
        stock, text = dict(self.stock), self.stock.get("text_config")
        if isinstance(text, Mapping):
            stock["text_config"] = {**text, "vocab_size": num_rows}
        if "vocab_size" in stock or not isinstance(text, Mapping):
            stock["vocab_size"] = num_rows
        return replace(self, stock=stock)

    @cached_property
    def language(self) -> LanguageConfig:
        """Sizes of the decoder.

        Raises:
            ValueError: transformers knows no such architecture, or refuses the sizes.
        """
        decoder = stock_hf_config(self).get_text_config(decoder=True)
        rope = decoder.rope_parameters or {}
        return LanguageConfig(
            vocab_size=decoder.vocab_size,
            hidden_size=decoder.hidden_size,
            intermediate_size=decoder.intermediate_size,
            num_layers=decoder.num_hidden_layers,
            num_heads=decoder.num_attention_heads,
            num_key_value_heads=decoder.num_key_value_heads,
            max_positions=decoder.max_position_embeddings,
            rms_norm_eps=decoder.rms_norm_eps,
            rope_theta=float(rope.get("rope_theta", LanguageConfig.rope_theta)),
        )


@dataclass(frozen=True)
class SamConfig:
    """Segment Anything: image encoder, prompt encoder, mask decoder."""

    image_size: int = 1024
    """Longer side of the resized image in pixels; the rest of the square is padded."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    encoder_dim: int = 1280
    """Width of the image encoder's states."""
    encoder_depth: int = 32
    """Number of blocks of the image encoder."""
    encoder_heads: int = 16
    """Attention heads of each of these blocks."""
    encoder_global_blocks: tuple[int, ...] = (7, 15, 23, 31)
    """Blocks, from 0, that attend to the whole image; the others attend within windows."""
    encoder_window_size: int = 14
    """Side of such a window in patches."""
    prompt_dim: int = 256
    """Prompt width C."""
    mask_in_channels: int = 16
    """Channels of the prompt encoder's mask-downscaling convolutions."""
    decoder_depth: int = 2
    """Number of two-way attention blocks of the mask decoder."""
    decoder_heads: int = 8
    """Attention heads of each of these blocks."""
    decoder_mlp_dim: int = 2048
    """Width of their feed-forward layers."""
    position_init: Literal["zeros", "sincos"] = "zeros"
    """Initial absolute position embedding of the image encoder. SAM uses zeros; the tiny recipe, which trains the
    encoder from scratch, uses `sincos`."""
    position_dtype: PositionDtype = "float32"
    """Arithmetic of the mask decoder's dense positional encoding. `float32`: SAM's own. `bfloat16`: what the code of
    LISA's, M2SA's and PLUM's authors computes in a bfloat16 model, whose grid, frequencies, sines and cosines are all
    rounded (off by .0055 on average and .14 at most at SAM's size)."""


@dataclass(frozen=True)
class Sam2Config:
    """SAM 2 or 2.1, or a relative with the same mask decoder, built from transformers' own modules.

    Prompt encoder and mask decoder are SAM 2's in all of them; `vision` describes the image encoder. An image is
    stretched to the square input instead of padded.
    """

    model_type: Literal["sam2", "edgetam", "sam3_tracker"]
    """Which of transformers' models: `sam2` (SAM 2 and 2.1), `edgetam` (needs timm and torchvision) or `sam3_tracker`
    (the part of SAM 3 that takes prompts). Its presence in `model.sam` selects this configuration instead of SAM's."""
    image_size: int = 1024
    """Side of the square input in pixels (SAM 3: 1008)."""
    patch_size: int = 16
    """Pixels of the input per cell of the embedding grid, in each direction (SAM 3: 14)."""
    prompt_dim: int = 256
    """Prompt width C."""
    mask_in_channels: int = 16
    """Channels of the prompt encoder's mask-downscaling convolutions."""
    decoder_depth: int = 2
    """Number of two-way attention blocks of the mask decoder."""
    decoder_heads: int = 8
    """Attention heads of each of these blocks."""
    decoder_mlp_dim: int = 2048
    """Width of their feed-forward layers."""
    vision: dict[str, Any] = field(default_factory=dict)
    """The image encoder, by the names of transformers' `vision_config` for this model type. What is left out has
    transformers' default: `{}` is SAM 2.1's Hiera-tiny. Always complete in a saved model."""


SegmenterConfig = SamConfig | Sam2Config
"""What turns queries into masks: SAM, or SAM 2 and its relatives. Both have the fields that other modules read."""


@dataclass(frozen=True)
class TaggerConfig:
    """Span extractor (paper, section 4)."""

    context: Literal["bidirectional", "causal", "none"] = "bidirectional"
    """Context of the encoder block. For the ablation in Table 12, `causal` keeps the block's capacity and `none`
    removes the block."""
    num_heads: int = 8
    """Attention heads of the encoder block."""
    feedforward_dim: int = 2048
    """Width of the block's feed-forward layer (paper, Table 6)."""
    dropout: float = 0.1
    """Dropout in the block during training."""
    order: Literal["mlp_first", "block_first"] = "mlp_first"
    """`mlp_first` (paper, section 4): MLP (D -> D -> D), block, linear layer (D -> 3). `block_first` (authors' code):
    block, MLP (D -> D -> 3)."""
    scheme: TagScheme = "bio"
    """`bio`: three classes, O, B and I (paper, section 4). `binary`: two, in a phrase or not (`pred_binary_span` of the
    authors' code; the IO scheme of chunking); each contiguous run of tokens in a phrase is a phrase, so that phrases
    without a token between them become one."""
    use_crf: bool = False
    """Score whole sequences of tags with a linear-chain CRF (plum/models/heads/crf.py; `use_crf_bio` of the authors'
    code). Each answer is a sequence."""
    use_cross_attention: bool = False
    """Let tokens attend to the image tokens of LLaVA's projector, after the encoder block (paper, Table 6, double
    dagger: in ablations only; see plum/models/heads/span_tagger.py)."""


@dataclass(frozen=True)
class SegTokenConfig:
    """[SEG] tokens in the answer instead of a span tagger (LISA, M2SA, CALICO)."""

    targets: Literal["many", "single"] = "many"
    """`many` puts a [SEG] after every phrase to segment; `single` puts one at the end of the answer, for the union of
    the masks."""
    has_phrase_tags: bool = False
    """Put `<p>` and `</p>` around each phrase with a [SEG] (GLaMM, CALICO); with `many` only."""
    unnamed_image: Literal["last", "none"] = "last"
    """Image of a [SEG] without a name such as (IMAGE1) after it, in an answer about several images: the last one, or
    none, so that it has no mask."""


@dataclass(frozen=True)
class FeedbackConfig:
    """Mask feedback loop (paper, section 4)."""

    is_enabled: bool = True
    """Condition each mask on the earlier masks of its answer."""
    detach_feedback: bool = False
    """Stop gradients through earlier masks."""
    use_order_embedding: bool = False
    """Add an embedding of each earlier mask's position (not in the paper)."""
    max_order: int = 32
    """Number of order embeddings; masks beyond it share the last one."""
    num_heads: int = 8
    """Attention heads of the pooler of earlier masks."""
    position_in: Literal["keys", "keys_and_values"] = "keys"
    """Where the pooler adds SAM's positional encoding to the earlier masks' maps. The paper does not mention a
    positional encoding. `keys_and_values`: authors' code. `keys`: this project's choice, because SAM's decoder adds the
    encoding itself."""


@dataclass(frozen=True)
class QFormerConfig:
    """Q-Former of BLIP-2, which condenses an image to a few tokens (CALICO, section 3.2; the values are BLIP-2's)."""

    num_layers: int = 12
    """Number of layers."""
    num_heads: int = 12
    """Attention heads per layer."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    cross_attention_frequency: int = 2
    """Every how many layers, from the first, attend to the image."""


@dataclass(frozen=True)
class DinoConfig:
    """DINOv2, the self-supervised tower of CALICO's correspondences (section 3.3).

    The paper names neither version nor size. Of the published sizes only the giant one gives the 29 M trained
    parameters that the paper reports; it is the default. The paper's figures speak of DINOv2, the text of the keys of
    DINO's last layer (Amir et al.), which `facet` selects.
    """

    image_size: int = 518
    """Side in pixels of DINOv2's own training images, to which its position embeddings belong; they are interpolated to
    the size of the images it reads."""
    patch_size: int = 14
    """Side of a patch in pixels."""
    hidden_size: int = 1536
    """Width of the states."""
    num_layers: int = 40
    """Number of transformer layers."""
    num_heads: int = 24
    """Attention heads per layer."""
    use_swiglu: bool = True
    """Gated feed-forward layers; of the published sizes, only the giant one has them."""
    num_register_tokens: Literal[0, 4] = 0
    """4 for the checkpoints with registers."""
    facet: Literal["token", "key"] = "token"
    """Features of a patch: its last state after the final norm, or its keys in the last layer's attention."""


@dataclass(frozen=True)
class CorrespondenceConfig:
    """Correspondence extraction: CLIP's features attend to semantic ones (CALICO, section 3.3, equations 4 to 6).

    The queries are always EVA-CLIP's tokens, as in equation 6. The paper gives no number of heads, no norm and no
    residual connection.
    """

    source: Literal["dino", "eva", "none"] = "dino"
    """Where keys and values come from: `dino`: DINOv2's patches; `eva`: EVA-CLIP's own tokens, so that the module stays
    and DINOv2 goes; `none`: there is no attention, and the adaptation modules read EVA-CLIP's tokens (VPG-C; the
    paper's ablation without extraction)."""
    num_heads: int = 16
    """Attention heads."""
    residual: bool = True
    """Add the attention to its queries, so that the frozen Q-Former reads what it was trained on. The paper's equation
    has no such term; False follows it to the letter."""


@dataclass(frozen=True)
class AdaptationConfig:
    """Adaptation modules: layers read the images again, asked by the prompt (CALICO, section 3.4, equations 7 to 9)."""

    num_modules: int = 2
    """Number k of modules, in the layers i * round(N / (k + 1)) of N, i = 1 to k: 11 and 22 of 32. The caption of the
    paper's figure 3, "every N / k layers", contradicts its text."""
    layers: tuple[int, ...] | None = None
    """Layers, from 0, before which modules stand; None: by the rule above."""
    offset: Literal[0, -1] = 0
    """Added to each layer. The paper's "input to layer l" is ambiguous by one; 0 is VPG-C's code."""
    init: Literal["zero_reintegration", "zero_guide"] = "zero_reintegration"
    """Initial weights. `zero_reintegration`: the last projection is zero, so that a fresh module changes nothing; it
    alone has a gradient in the first update. `zero_guide`: the guide's projection is zero and the last one small, so
    that everything learns from the first update, but the start is not the unchanged model. VPG-C: both zero."""
    follows_prompt: bool = True
    """Shift the queries by the state of the prompt's last token. False: q' = q (the paper's ablation without
    adaptation)."""


@dataclass(frozen=True)
class CalicoConfig:
    """What CALICO adds to LLaVA (paper, sections 3.2 to 3.4). `LlavaConfig.vision` describes its EVA-CLIP."""

    embedding_size: int = 768
    """Width D_I of the Q-Former and of an image's tokens before they are projected to the language model."""
    qformer: QFormerConfig | None = field(default_factory=QFormerConfig)
    """None: one linear layer takes its place, and an image has one token per patch (the paper's ablation without a
    Q-Former); the guide's shift is then added to the output, since there are no queries."""
    dino: DinoConfig | None = field(default_factory=DinoConfig)
    """Required by `correspondence.source` dino; None otherwise."""
    correspondence: CorrespondenceConfig = field(default_factory=CorrespondenceConfig)
    adaptation: AdaptationConfig | None = field(default_factory=AdaptationConfig)
    """None: images are read once, before the first layer."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the language model (paper, Table 6)."""

    rank: int = 8
    """Rank of the adapters."""
    alpha: int = 16
    """Scale of the adapters; their output is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout of their input during training."""
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers of the language model that have an adapter, by peft's names."""
    train_embeddings: bool = False
    """Train a copy of embed_tokens (PEFT's modules_to_save), so that the model without adapters remains the teacher.
    `TrainableConfig.embeddings` needs it."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a system: backbone + query selector + mask predictor + optional parts."""

    llava: LlavaConfig | None = None
    """The backbone, if it is LLaVA; None if it is `hf`."""
    hf: HfBackboneConfig | None = None
    """The backbone, if it is another image-text-to-text model of transformers; None if it is LLaVA."""
    sam: SegmenterConfig
    """SAM, or SAM 2 and its relatives if it has a `model_type`."""
    tagger: TaggerConfig | None = field(default_factory=TaggerConfig)
    """Span tagger of PLUM; None in systems that write [SEG] tokens instead."""
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    """None for no adapters (training from scratch, or a merged model)."""
    system: Literal["plum", "lisa", "m2sa", "calico"] = "plum"
    """System to build; see plum.models.systems.registry."""
    seg_token: SegTokenConfig | None = None
    """Required by systems other than PLUM, which adds no token; None in PLUM."""
    calico: CalicoConfig | None = None
    """Required by `calico`; None in the other systems."""

    @property
    def backbone(self) -> LlavaConfig | HfBackboneConfig:
        """The configured backbone.

        Raises:
            ValueError: there is none, or there are two.
        """
        if self.llava is not None and self.hf is not None:
            raise ValueError("model.llava and model.hf are two backbones; set one of them to null")
        backbone = self.llava or self.hf
        if backbone is None:
            raise ValueError("the model has no backbone: give model.llava (LLaVA's sizes) or model.hf (see plum adopt)")
        return backbone

    @property
    def of_llava(self) -> LlavaConfig:
        """The configuration of LLaVA, for what exists only there.

        Raises:
            ValueError: the backbone is another one.
        """
        if not isinstance(self.backbone, LlavaConfig):
            raise ValueError(f"this needs LLaVA as the backbone (model.llava), not {self.backbone.model_type}")
        return self.backbone

    @property
    def language(self) -> LanguageConfig:
        """Sizes of the language model."""
        return self.backbone.language

    def with_backbone(self, backbone: LlavaConfig | HfBackboneConfig) -> "ModelConfig":
        """Return the configuration with another backbone."""
        if isinstance(backbone, LlavaConfig):
            return replace(self, llava=backbone, hf=None)
        return replace(self, llava=None, hf=backbone)


def stock_hf_config(config: HfBackboneConfig) -> "PretrainedConfig":
    """Return transformers' configuration of a model.

    Raises:
        ValueError: transformers knows no such architecture, or refuses the sizes.
    """
    known = importlib.import_module("transformers").CONFIG_MAPPING  # here: commands that only parse do not need it
    if config.model_type not in known:
        raise ValueError(
            f"model.hf.stock.model_type: {config.model_type or 'nothing'!r} is no architecture of transformers; adopt "
            "a model's folder with plum adopt, or copy its config.json"
        )
    try:
        return known[config.model_type].from_dict(dict(config.stock))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # transformers' own checks
        raise ValueError(f"model.hf.stock: transformers refuses it: {' '.join(str(error).split())}") from error


def names_sam2(block: object) -> bool:
    """Return whether a `model.sam` block of a file is a `Sam2Config`'s."""
    return isinstance(block, Mapping) and "model_type" in block


def usual_fit(conversation: Conversation) -> Fit:
    """Return the fit that checkpoints with a conversation template were trained with.

    `plain` is the embedded default's, which stretches; the vicuna_v1.1 templates are LLaVA v1.5's, which pads; the
    others are LLaVA v1's, which crops.
    """
    if conversation == "plain":
        return "stretch"
    return "pad" if conversation.startswith("vicuna_v1.1") else "crop"


def earlier_fit(conversation: Conversation) -> Fit:
    """Return the fit of models and runs from before `VisionConfig.fit` existed."""
    return "stretch" if conversation == "plain" else "pad"


def with_fit(config: ModelConfig, fit: Fit | None = None) -> ModelConfig:
    """Return a configuration whose `llava.vision.fit` is set, if it has LLaVA.

    Args:
        config: a value that it already has is kept.
        fit: what replaces None; None: `usual_fit` of its conversation template.
    """
    llava = config.llava
    if llava is None or llava.vision.fit is not None:
        return config
    vision = replace(llava.vision, fit=fit or usual_fit(llava.conversation))
    return replace(config, llava=replace(llava, vision=vision))
