"""CALICO's backbone: LLaVA with EVA-CLIP, a Q-Former and layers that read the images again (CALICO, section 3).

An image is read twice. Before the first layer, a frozen Q-Former condenses EVA-CLIP's tokens to a few (X_embed), which
f_image projects to the language model's width. Then, before some layers, an adaptation module (CAM) asks again: the
state of the prompt's last token shifts a copy of the Q-Former's queries, the same Q-Former puts them to X'_global, and
the answers are added to the states of the image's tokens. X'_global is EVA-CLIP's tokens after attention to DINOv2's
patches (correspondence extraction, CEM); it does not depend on the prompt and is computed once an image.

The guide is the end of the *first* prompt. At the end of a later one, the states of the image tokens, and so the states
that predict earlier answers, would depend on these answers.

`network` is the same stock model as LLaVA's, with another tower and another projector; everything else lies beside it,
so that adapters, gradient checkpointing and `generate` do not touch it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlavaForConditionalGeneration,
)

from plum.config import (
    AdaptationConfig,
    CalicoConfig,
    CorrespondenceConfig,
    DinoConfig,
    LlavaConfig,
    LoraConfig,
    QFormerConfig,
    Quantization,
    VisionConfig,
)
from plum.constants import constant
from plum.inputs.image_transforms import CLIP_MEAN, CLIP_STD
from plum.models.backbones.backbone import Injection, require_prompt_ends
from plum.models.backbones.llava import LlavaBackbone, stock_config
from plum.models.backbones.lora import add_adapters
from plum.models.backbones.quantization import quantize_language_model
from plum.models.frozen import NeverRounded, grad_if_trainable, without_autocast
from plum.models.weightless import without_weights
from plum.structures import TEXT_ONLY, ConversationImages, ImageTokens, Pixels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of DINOv2's pixels."""
INITIAL_DEVIATION = 0.02
"""Standard deviation of new weights and queries (BLIP-2's `initializer_range` of the Q-Former)."""
SMALL_DEVIATION = 1e-3
"""That of the last projection under `init: zero_guide`: added to the stream, an image's answers then have a deviation
of .03 (this project's choice; the Q-Former's output is normalised)."""


class QFormer(NeverRounded):
    """BLIP-2's Q-Former and its queries: frozen in all of CALICO, float32 as in transformers, never in training mode.

    Gradients pass through it to whatever shifts its queries or changes the features that it reads.
    """

    def __init__(self, config: QFormerConfig, width: int, features_width: int, num_queries: int) -> None:
        super().__init__()
        self.network = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=width,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.intermediate_size,
                cross_attention_frequency=config.cross_attention_frequency,
                encoder_hidden_size=features_width,
            )
        )
        self.queries = nn.Parameter(torch.randn(num_queries, width) * INITIAL_DEVIATION)
        self.train(False)

    def train(self, mode: bool = True) -> "QFormer":
        """Stay in evaluation mode: its dropout of 0.1 belongs to its own training."""
        return super().train(False)

    def forward(self, features: Tensor, queries: Tensor | None = None) -> Tensor:
        """Put queries to images.

        Args:
            features: [P, S, E], EVA-CLIP's tokens.
            queries: [P, n, D_I]; None: its own.

        Returns:
            Answers [P, n, D_I], float32.
        """
        if queries is None:
            queries = self.queries.expand(len(features), -1, -1)
        dtype = self.queries.dtype
        with without_autocast(features.device):
            asked = self.network(query_embeds=queries.to(dtype), encoder_hidden_states=features.to(dtype))
        states = asked.last_hidden_state
        assert isinstance(states, Tensor)
        return states


class PatchProjection(nn.Module):
    """Stands in for the Q-Former: one linear layer (E -> D_I) on every patch (paper, ablation without a Q-Former)."""

    def __init__(self, features_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features_width, width)

    def forward(self, features: Tensor, shift: Tensor | None = None) -> Tensor:
        """Project [P, S, E], whose first token is the class token, to [P, S - 1, D_I].

        Args:
            features: EVA-CLIP's tokens.
            shift: [P, D_I], added to every token of an image; None: nothing is.
        """
        projected = self.linear(features[:, 1:])
        return projected if shift is None else projected + shift[:, None]


class DinoFeatures(nn.Module):
    """DINOv2's features of patches (paper, section 3.3; class token and registers are left out)."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.network = _build_dinov2(config)
        self.num_layers = config.num_layers
        self.num_leading = 1 + config.num_register_tokens
        self.facet = config.facet

    def forward(self, clip_pixels: Tensor) -> Tensor:
        """Return features [B, patches, D_S] of pixels [B, 3, p, p], normalised for CLIP, which are normalised anew."""
        pixels = _normalised_for_imagenet(clip_pixels.float()).to(next(self.network.parameters()).dtype)
        if self.facet == "token":
            return self.network(pixels).last_hidden_state[:, self.num_leading :]
        keys: list[Tensor] = []
        last = self.network.get_submodule(f"encoder.layer.{self.num_layers - 1}.attention.k_proj")
        listener = last.register_forward_hook(lambda _layer, _inputs, output: keys.append(output))
        try:
            self.network(pixels)
        finally:
            listener.remove()
        return keys[0][:, self.num_leading :]


class CorrespondenceExtraction(nn.Module):
    """Attention of EVA-CLIP's tokens to semantic ones (CEM; paper, section 3.3, equation 6).

    Both sides are normalised first; see `CorrespondenceConfig` for what the paper leaves open.
    """

    def __init__(self, config: CorrespondenceConfig, width: int, semantic_width: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.semantic_norm = nn.LayerNorm(semantic_width)
        self.attention = nn.MultiheadAttention(
            width, config.num_heads, kdim=semantic_width, vdim=semantic_width, batch_first=True
        )
        self.residual = config.residual

    def forward(self, features: Tensor, semantic: Tensor) -> Tensor:
        """Return X'_global [B, S, E] of X_global [B, S, E] and X_semantic [B, S', D_S]."""
        dtype = self.query_norm.weight.dtype
        keys = self.semantic_norm(semantic.to(dtype))
        found = self.attention(self.query_norm(features.to(dtype)), keys, keys, need_weights=False)[0]
        return features + found if self.residual else found


class AdaptationModule(nn.Module):
    """What one layer trains (CAM; paper, section 3.4): f_adaptation (D -> D_I) and f_reintegration (D_I -> D)."""

    def __init__(self, config: AdaptationConfig, hidden_size: int, width: int) -> None:
        super().__init__()
        self.adaptation = nn.Linear(hidden_size, width) if config.follows_prompt else None
        self.reintegration = nn.Linear(width, hidden_size)
        nn.init.zeros_(self.reintegration.bias)
        if config.init == "zero_reintegration":
            nn.init.zeros_(self.reintegration.weight)
        else:
            nn.init.normal_(self.reintegration.weight, std=SMALL_DEVIATION)
        if self.adaptation is not None:
            nn.init.zeros_(self.adaptation.bias)
            if config.init == "zero_reintegration":
                nn.init.normal_(self.adaptation.weight, std=INITIAL_DEVIATION)
            else:
                nn.init.zeros_(self.adaptation.weight)


class Adaptation(nn.Module):
    """The modules of all adapted layers, and the queries that they share.

    `queries` is a trained copy of the Q-Former's (VPG-C's code); None without a Q-Former.
    """

    def __init__(
        self, config: AdaptationConfig, layers: tuple[int, ...], hidden_size: int, width: int, queries: Tensor | None
    ) -> None:
        super().__init__()
        self.layers = layers
        self.queries = None if queries is None else nn.Parameter(queries)
        self.of_layer = nn.ModuleDict({str(layer): AdaptationModule(config, hidden_size, width) for layer in layers})


class CalicoBackbone(LlavaBackbone):
    """LLaVA that reads images through a Q-Former, and again in its layers.

    Args:
        network: stock LLaVA with EVA-CLIP as its tower and f_image as its projector.
        llava: sizes of the language model and of EVA-CLIP.
        reader: Q-Former, or what stands in for it.
        dino: source of the correspondences, if it is DINOv2.
        correspondence: None: layers read EVA-CLIP's own tokens.
        adaptation: None: layers read nothing.
    """

    def __init__(
        self,
        network: LlavaForConditionalGeneration,
        llava: LlavaConfig,
        reader: QFormer | PatchProjection,
        *,
        dino: DinoFeatures | None,
        correspondence: CorrespondenceExtraction | None,
        adaptation: Adaptation | None,
    ) -> None:
        super().__init__(network, llava.vision.num_image_tokens, llava.vision.num_layers, llava.special_tokens)
        self.qformer = reader if isinstance(reader, QFormer) else None
        self.patch_projection = reader if isinstance(reader, PatchProjection) else None
        self.dino = dino
        self.correspondence = correspondence
        self.adaptation = adaptation
        self.reads_images_again = adaptation is not None
        self.is_guided = adaptation is not None and any(
            isinstance(module, AdaptationModule) and module.adaptation is not None
            for module in adaptation.of_layer.values()
        )

    def encode_images(self, pixels: Pixels) -> ImageTokens:
        """Encode normalised images [B, 3, p, p]: I^0 [B, n, D], and with adaptation modules X'_global [B, S, E]."""
        assert isinstance(pixels, Tensor), "EVA-CLIP's square input"
        clip_pixels = pixels
        tower, projector = self.stock.model.vision_tower, self.stock.model.multi_modal_projector
        reader = self.qformer or self.patch_projection
        assert reader is not None, "one of the two is always built"
        with grad_if_trainable(tower):
            features = tower(clip_pixels.to(tower.embeddings.patch_embedding.weight.dtype)).last_hidden_state
        with grad_if_trainable(tower, reader):
            embedded = reader(features)
        with grad_if_trainable(tower, reader, projector):
            values = projector(embedded.to(projector.weight.dtype))
        return ImageTokens(values, self._extract(clip_pixels, features) if self.reads_images_again else None)

    def _extract(self, clip_pixels: Tensor, features: Tensor) -> Tensor:
        """Return X'_global [B, S, E] of X_global [B, S, E]."""
        if self.correspondence is None:
            return features
        if self.dino is None:
            return self.correspondence(features, features)
        with grad_if_trainable(self.dino):
            semantic = self.dino(clip_pixels)
        return self.correspondence(features, semantic)

    def find_injection(
        self, input_ids: Tensor, shown: ConversationImages, image_tokens: ImageTokens, starts: Tensor | None = None
    ) -> Injection | None:
        """Find where the layers read images again; see `Backbone.find_injection`.

        Raises:
            ValueError: `shown` does not say where prompts end, or an image has another number of tokens than all, or
                `image_tokens` has no details.
        """
        is_shown = shown.rows != TEXT_ONLY  # [N, I]
        if not self.reads_images_again or len(image_tokens) == 0 or not bool(is_shown.any()):
            return None
        if image_tokens.details is None:
            raise ValueError("this model's layers read images again: give it the ImageTokens of its own encode_images")
        if other := set(shown.lengths) - {self.num_image_tokens}:
            raise ValueError(f"an image has {min(other)} tokens; every image of this model has {self.num_image_tokens}")
        is_patch = (input_ids == self.special_tokens.image).flatten()
        places = is_patch.nonzero()[:, 0].view(-1, self.num_image_tokens)
        guides = None
        if self.is_guided:
            ends = require_prompt_ends(shown) if starts is None else require_prompt_ends(shown) + starts
            rows = torch.arange(len(input_ids), device=ends.device) * input_ids.shape[1]
            guides = (rows + ends)[:, None].expand_as(is_shown)[is_shown]
        return Injection(guides, places, image_tokens.details[shown.rows[is_shown]], input_ids.numel())

    def inject(self, layer: int, states: Tensor, injection: Injection | None) -> Tensor:
        """Add f_reintegration(Q(q + f_adaptation(guide), X'_global)) to image tokens (paper, equations 7 to 9)."""
        if injection is None or self.adaptation is None or layer not in self.adaptation.layers:
            return states
        module = self.adaptation.of_layer[str(layer)]
        assert isinstance(module, AdaptationModule)
        shift = None
        if module.adaptation is not None:
            assert injection.guides is not None, "a guided model's injection has guides"
            shift = module.adaptation(states[injection.guides].to(module.adaptation.weight.dtype))  # [P, D_I]
        answers = self._read_again(injection.details, shift).to(module.reintegration.weight.dtype)  # [P, n, D_I]
        added = module.reintegration(answers).flatten(0, 1)
        return states.index_add(0, injection.places.flatten(), added.to(states.dtype))

    def _read_again(self, details: Tensor, shift: Tensor | None) -> Tensor:
        """Return the answers [P, n, D_I] of X'_global [P, S, E] to the queries, shifted by [P, D_I]."""
        if self.patch_projection is not None:
            return self.patch_projection(details.to(self.patch_projection.linear.weight.dtype), shift)
        assert self.qformer is not None, "one of the two is always built"
        assert self.adaptation is not None, "an injection needs modules"
        assert self.adaptation.queries is not None, "a Q-Former's queries are copied"
        queries = self.adaptation.queries.to(self.qformer.queries.dtype).expand(len(details), -1, -1)
        return self.qformer(details, queries if shift is None else queries + shift[:, None])

    @contextmanager
    def injecting(self, injection: Injection | None) -> Iterator[None]:
        """Let the stock layers call `inject`, except in steps that continue a cache."""
        if injection is None or self.adaptation is None:
            yield
            return
        layers = self.stock.model.language_model.layers
        hooks = [
            layers[number].register_forward_pre_hook(self._hook(number, injection), with_kwargs=True)
            for number in self.adaptation.layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, number: int, injection: Injection) -> Callable[..., object]:
        def before(_layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, object]) -> object:
            cache = named.get("past_key_values")
            if cache is not None and cache.get_seq_length(number) > 0:  # type: ignore[attr-defined]
                return None  # the image tokens' keys and values are in it
            states, *others = inputs
            flat = states.flatten(0, 1)
            assert len(flat) == injection.num_tokens, "the pass has the tokens for which the injection was made"
            return (self.inject(number, flat, injection).view_as(states), *others), named

        return before


def adapted_layers(config: AdaptationConfig, num_layers: int) -> tuple[int, ...]:
    """Return the layers, from 0, before which adaptation modules stand (paper, section 3.4 and Table 3).

    Args:
        config: number of modules or layers, and the offset.
        num_layers: N, of the language model.

    Raises:
        ValueError: a layer does not exist, or is named twice, or there is none.
    """
    distance = round(num_layers / (config.num_modules + 1))
    by_rule = tuple(number * distance for number in range(1, config.num_modules + 1))
    layers = tuple(layer + config.offset for layer in (by_rule if config.layers is None else config.layers))
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer < num_layers for layer in layers):
        raise ValueError(
            f"model.calico.adaptation: modules before the layers {list(layers)} do not fit {num_layers} layers "
            f"(0 to {num_layers - 1}); change num_modules, layers or offset, or set adaptation to null"
        )
    return layers


def build_calico_backbone(
    config: LlavaConfig,
    calico: CalicoConfig,
    lora: LoraConfig | None,
    is_empty: bool = False,
    quantization: Quantization = "none",
) -> CalicoBackbone:
    """Build CALICO's backbone of the configured sizes with random weights.

    Args:
        config: sizes of EVA-CLIP and of the language model.
        calico: what is added to them.
        lora: adapters of the language model, if any.
        is_empty: allocate no memory for the parameters of what is published (EVA-CLIP, Q-Former, DINOv2, LLaMA); the
            modules that CALICO itself adds always get random weights.
        quantization: of the language model under the adapters; requires `is_empty`.

    Raises:
        ValueError: parts of the configuration contradict each other.
    """
    assert is_empty or quantization == "none", "a language model is quantized as its weights are loaded"
    _check(config, calico)
    vision, width, hidden_size = config.vision, calico.embedding_size, config.language.hidden_size
    with without_weights(is_empty):
        network = LlavaForConditionalGeneration(stock_config(config))
        network.model.vision_tower = _build_eva_clip(vision)
        network.model.multi_modal_projector = nn.Linear(width, hidden_size)
        quantize_language_model(network, quantization)
        dino = None if calico.dino is None else DinoFeatures(calico.dino)
        qformer = None
        if calico.qformer is not None:
            qformer = QFormer(calico.qformer, width, vision.hidden_size, vision.num_image_tokens)
    correspondence = None
    if calico.correspondence.source != "none" and calico.adaptation is not None:
        semantic_width = vision.hidden_size if calico.dino is None else calico.dino.hidden_size
        correspondence = CorrespondenceExtraction(calico.correspondence, vision.hidden_size, semantic_width)
    adaptation = None
    if calico.adaptation is not None:
        layers = adapted_layers(calico.adaptation, config.language.num_layers)
        queries = None if qformer is None else _copy_queries(qformer, is_empty)
        adaptation = Adaptation(calico.adaptation, layers, hidden_size, width, queries)
    backbone = CalicoBackbone(
        network,
        config,
        qformer or PatchProjection(vision.hidden_size, width),
        dino=dino,
        correspondence=correspondence,
        adaptation=adaptation,
    )
    if lora is not None:
        with without_weights(is_empty):
            backbone.network = add_adapters(backbone.stock, lora)
    return backbone


def _copy_queries(qformer: QFormer, is_empty: bool) -> Tensor:
    """Return what the trained queries start as; without weights there is nothing to copy yet."""
    queries = qformer.queries.detach()
    return torch.randn(queries.shape) * INITIAL_DEVIATION if is_empty else queries.clone()


def _check(config: LlavaConfig, calico: CalicoConfig) -> None:
    """Refuse a configuration whose parts contradict each other."""
    if (calico.qformer is None) != (config.vision.num_query_tokens is None):
        raise ValueError(
            f"model.calico.qformer is {'null' if calico.qformer is None else 'set'} and "
            f"model.llava.vision.num_query_tokens is {config.vision.num_query_tokens}: a Q-Former needs a number of "
            "queries, and without one both are null"
        )
    needs_dino = calico.correspondence.source == "dino"
    # Without modules, a model may carry DINOv2 for the run that adds them (`plum convert --system calico`).
    if calico.adaptation is not None and needs_dino != (calico.dino is not None):
        raise ValueError(
            f"model.calico.dino is {'null' if calico.dino is None else 'set'}, but adaptation modules "
            f"{'need it' if needs_dino else 'do not read it'} with model.calico.correspondence.source "
            f"{calico.correspondence.source!r}: {'set it' if needs_dino else 'set it to null'}"
        )
    if config.projector != "linear":
        raise ValueError(f"model.llava.projector is {config.projector!r}: CALICO's f_image is one layer, 'linear'")
    if calico.dino is not None and config.vision.image_size % calico.dino.patch_size:
        raise ValueError(
            f"model.llava.vision.image_size {config.vision.image_size}, whose pixels DINOv2 reads, is no multiple of "
            f"model.calico.dino.patch_size {calico.dino.patch_size}"
        )


def _build_eva_clip(vision: VisionConfig) -> Blip2VisionModel:
    return Blip2VisionModel(
        Blip2VisionConfig(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_layers,
            num_attention_heads=vision.num_heads,
            initializer_range=INITIAL_DEVIATION,  # transformers' 1e-10 would make all random images alike
        )
    )


def _build_dinov2(config: DinoConfig) -> Dinov2Model | Dinov2WithRegistersModel:
    sizes = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "use_swiglu_ffn": config.use_swiglu,
    }
    if config.num_register_tokens == 0:
        return Dinov2Model(Dinov2Config.from_dict(sizes))
    registers = {"num_register_tokens": config.num_register_tokens}
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig.from_dict(sizes | registers))


def _normalised_for_imagenet(clip_pixels: Tensor) -> Tensor:
    """Return pixels [B, 3, p, p], normalised for CLIP, with ImageNet's statistics instead."""
    clip_mean, clip_std, mean, std = (
        constant(values, clip_pixels.dtype, clip_pixels.device)[:, None, None]
        for values in (CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD)
    )
    return (clip_pixels * clip_std + clip_mean - mean) / std
