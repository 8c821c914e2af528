"""LLaVA backbone: wraps a stock LlavaForConditionalGeneration instead of subclassing it (paper, section 4).

A subclass would lose transformers' weight-name conversion and leave lm_head random with only a warning. `<image>` is
already repeated once per patch in every input_ids; all indices refer to that expanded sequence.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    Cache,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessorList,
)
from transformers import LlavaConfig as StockLlavaConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from partonomy.models.finite_values import LogitsWatch
from plum.config import LlavaConfig, LoraConfig, Quantization, SpecialTokensConfig
from plum.constants import constant
from plum.models.backbones.lora import add_adapters
from plum.models.backbones.quantization import quantize_language_model
from plum.models.backbones.shared_beginnings import SequenceLayout, SequencePass, lay_out
from plum.models.frozen import grad_if_trainable
from plum.models.weightless import without_weights
from plum.structures import ConversationImages, ImageTokens

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer. Takes the layer's number and, for n tokens with rotary positions applied, queries [n, heads,
d], keys and values [n, key-value heads, d]; returns [n, heads, d]."""


@dataclass(frozen=True)
class Injection:
    """Where the layers of a pass over t tokens read images again: P pairs of a conversation and one of its images.

    guides: LongTensor [P], place among the t tokens of the last token of the pair's first prompt; None: no guide
    places: LongTensor [P, n], places of the image's tokens
    details: [P, S, E], the image's `ImageTokens.details`
    num_tokens: t, padding included
    """

    guides: Tensor | None
    places: Tensor
    details: Tensor
    num_tokens: int


class LlavaBackbone(nn.Module):
    """CLIP tower, projector and LLaMA in short stages, each usable alone.

    `network` is the stock model, wrapped in a PeftModel if it has adapters. A subclass whose layers read the images
    again (CALICO) overrides `reads_images_again`, `is_guided`, `find_injection`, `inject` and `injecting`; here these
    do nothing.
    """

    reads_images_again = False
    """Whether layers add what they read of `ImageTokens.details` to the states of image tokens."""
    is_guided = False
    """Whether what they read depends on the conversation's first prompt, through its last token."""

    def __init__(
        self,
        network: LlavaForConditionalGeneration | PeftModel,
        num_image_tokens: int,
        num_vision_layers: int,
        special_tokens: SpecialTokensConfig | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_image_tokens = num_image_tokens
        self.num_vision_layers = num_vision_layers
        self.weights_name = "the model"
        """Where the weights come from, for messages."""
        self._special_tokens = special_tokens

    @property
    def stock(self) -> LlavaForConditionalGeneration:
        """The stock model; its linear layers carry the adapters, if any."""
        stock = self.network.get_base_model() if isinstance(self.network, PeftModel) else self.network
        assert isinstance(stock, LlavaForConditionalGeneration)
        return stock

    @property
    def special_tokens(self) -> SpecialTokensConfig:
        """Ids of `<image>`, padding and end.

        Raises:
            ValueError: the configuration leaves them to the tokenizer and was not completed from it.
        """
        if self._special_tokens is None:
            raise ValueError(
                "llava.special_tokens is not set: pass the configuration through "
                "plum.models.systems.special_tokens.with_special_tokens(config, tokenizer) before build_model"
            )
        return self._special_tokens

    def encode_images(self, clip_pixels: Tensor) -> ImageTokens:
        """Encode normalised images [B, 3, p, p] to image tokens.

        The tower stops at the selected layer; stock LLaVA also runs the layers after it.
        """
        tower, projector = self.stock.model.vision_tower, self.stock.model.multi_modal_projector
        with grad_if_trainable(tower):
            pixels = clip_pixels.to(tower.embeddings.patch_embedding.weight.dtype)
            states = tower.pre_layrnorm(tower.embeddings(pixels))
            for layer in tower.encoder.layers[: self.num_vision_layers]:
                states = layer(states, None)
        with grad_if_trainable(tower, projector):
            return ImageTokens(projector(states[:, 1:]))  # without the class token

    def find_injection(
        self, input_ids: Tensor, shown: ConversationImages, image_tokens: ImageTokens, starts: Tensor | None = None
    ) -> Injection | None:
        """Find where the layers read images again in a pass over rows of tokens.

        Args:
            input_ids: [N, T], `<image>` expanded.
            shown: the images of the N conversations.
            image_tokens: of the B images.
            starts: [N], where each row's conversation begins after padding on its left; None: at 0.

        Returns:
            None: nowhere.

        Raises:
            ValueError: the model is guided, and `shown` does not say where prompts end.
        """
        return None

    def inject(self, layer: int, states: Tensor, injection: Injection | None) -> Tensor:
        """Return the states [t, D] that enter a layer, with what it reads of the images added."""
        return states

    def injecting(self, injection: Injection | None) -> AbstractContextManager[None]:
        """Return a context in which the stock layers call `inject`, except in steps that continue a cache."""
        return nullcontext()

    def embed(self, input_ids: Tensor, shown: ConversationImages, image_tokens: ImageTokens) -> Tensor:
        """Embed text and replace `<image>` with image tokens.

        Args:
            input_ids: [N, T], `<image>` expanded.
            shown: the images of the N conversations.
            image_tokens: of the B images.

        Returns:
            Embeddings [N, T, D].

        Raises:
            ValueError: the number of `<image>` ids in a conversation differs from its image's number of tokens.
        """
        self._check_image_tokens(input_ids, shown)
        embeddings = self.embed_text(input_ids)
        if len(image_tokens) == 0:
            return embeddings
        patches = shown.take_tokens(image_tokens.values).to(embeddings.dtype)
        return embeddings.masked_scatter((input_ids == self.special_tokens.image)[..., None], patches)

    def _check_image_tokens(self, input_ids: Tensor, shown: ConversationImages) -> None:
        found = (input_ids == self.special_tokens.image).sum(1)  # [N]
        expected = shown.num_tokens()
        if not bool((found == expected).all()):
            row = int((found != expected).nonzero()[0])
            raise ValueError(
                f"conversation {row} of the batch has {int(found[row])} <image> tokens and needs "
                f"{int(expected[row])}: expand each <image> to its image's number of ids before the model"
            )

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Embed token ids of any shape [...] as [..., D]."""
        return self.stock.get_input_embeddings()(input_ids)

    def run_layers(
        self, embeddings: Tensor, positions: Tensor, attend: Attend, injection: Injection | None = None
    ) -> Tensor:
        """Run LLaMA over tokens in any arrangement; the caller decides which tokens attend to which.

        Everything except attention treats each token separately, so tokens of many conversations can share one row
        without padding.

        Args:
            embeddings: [n, D].
            positions: [n], position of each token in its conversation.
            attend: attention among these tokens and tokens of earlier calls, which the caller keeps.
            injection: where the layers read images again among these tokens.

        Returns:
            States [n, D] of the last layer after the final norm, as from `hidden_states`.
        """
        model = self.stock.model.language_model
        cosine, sine = model.rotary_emb(embeddings, positions[None])  # [1, n, d]
        states = embeddings
        for number, layer in enumerate(model.layers):
            states = self.inject(number, states, injection)
            attention = layer.self_attn
            normed = layer.input_layernorm(states)
            queries, keys, values = (
                project(normed).unflatten(-1, (-1, attention.head_dim))  # [n, heads, d]
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            queries, keys = apply_rotary_pos_emb(queries, keys, cosine[0], sine[0], unsqueeze_dim=1)
            states = states + attention.o_proj(attend(number, queries, keys, values).flatten(1))
            states = states + layer.mlp(layer.post_attention_layernorm(states))
        return model.norm(states)

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, shown: ConversationImages, image_tokens: ImageTokens
    ) -> Tensor:
        """Return the last layer's states after the final norm.

        Args:
            input_ids: [N, T], right-padded, `<image>` expanded.
            attention_mask: [N, T], 1 on real tokens.
            shown: the images of the N conversations.
            image_tokens: of the B images.

        Returns:
            States [N, T, D]; those of padding are meaningless.

        Raises:
            ValueError: sequences are not right-padded, or see `embed`.
        """
        _check_padding(attention_mask)
        # With right padding, causal attention alone hides padding, so no mask is needed.
        embeddings = self.embed(input_ids, shown, image_tokens)
        with self.injecting(self.find_injection(input_ids, shown, image_tokens)):
            return self.stock.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state

    def shared_hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        shown: ConversationImages,
        image_tokens: ImageTokens,
        layout: SequenceLayout | None = None,
    ) -> Tensor:
        """Return the states of `hidden_states`, computing the common prefix of conversations about one image only once.

        Sequences of similar length run together; see `plum.models.backbones.shared_beginnings`. In a guided model, only
        conversations with the same first prompt share a prefix.

        Args:
            input_ids: as `hidden_states`.
            attention_mask: as `hidden_states`.
            shown: as `hidden_states`.
            image_tokens: as `hidden_states`.
            layout: of these conversations, made by the collator, which has checked them; None: it is made here, and the
                host waits for the device.

        Raises:
            ValueError: as `hidden_states`.
        """
        if layout is None:
            layout = self._lay_out(input_ids, attention_mask, shown, has_images=len(image_tokens) > 0)
        states = [self._run_pass(one, image_tokens).flatten(0, 1) for one in layout.passes]
        return torch.cat(states)[layout.places]

    def _lay_out(
        self, input_ids: Tensor, attention_mask: Tensor, shown: ConversationImages, *, has_images: bool
    ) -> SequenceLayout:
        _check_padding(attention_mask)
        self._check_image_tokens(input_ids, shown)
        tokens = self.special_tokens
        is_guided = self.is_guided and has_images
        if is_guided:
            require_prompt_ends(shown)
        return lay_out(input_ids, attention_mask, shown, tokens.image, tokens.pad, by_prompt=is_guided)

    def _run_pass(self, sequences: SequencePass, image_tokens: ImageTokens) -> Tensor:
        """Return states [G, L, D] of sequences."""
        embeddings = self.embed_text(sequences.input_ids)
        if len(image_tokens) > 0:
            embeddings = sequences.merge(embeddings, image_tokens.values)
        named = {}
        if sequences.is_branched:  # transformers uses a 4-D mask unchanged
            mask = sequences.attention_mask(embeddings.dtype)
            named = {"attention_mask": mask, "position_ids": sequences.positions}
        with self.injecting(self.find_injection(sequences.input_ids, sequences.shown, image_tokens)):
            return self.stock.model.language_model(inputs_embeds=embeddings, use_cache=False, **named).last_hidden_state

    def token_logits(self, states: Tensor) -> Tensor:
        """Return next-token logits [..., V] of states [..., D]; tokens that are never text get -inf."""
        logits = self.stock.lm_head(states)
        suppressed = self.special_tokens.suppressed
        if not suppressed:
            return logits
        return logits.index_fill(-1, constant(tuple(suppressed), torch.long, logits.device), float("-inf"))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        shown: ConversationImages,
        image_tokens: ImageTokens,
        max_new_tokens: int,
    ) -> Tensor:
        """Continue prompts greedily, with transformers' own `generate` and its key-value cache.

        Args:
            input_ids: [N, T] prompts, padded left or right, `<image>` expanded.
            attention_mask: [N, T], 1 on real tokens.
            shown: the images of the N conversations.
            image_tokens: of the B images.
            max_new_tokens: maximum length of the continuation.

        Returns:
            Token ids [N, up to max_new_tokens], the end token included, padding after it.

        Raises:
            ModelUnavailable: some next-token logits are NaN or infinite.
        """
        prompt_ids, prompt_mask = pad_left(input_ids, attention_mask)
        watch = LogitsWatch(self.weights_name)
        embeddings = self.embed(prompt_ids, shown, image_tokens)
        starts = prompt_mask.shape[1] - prompt_mask.sum(1)
        with self.injecting(self.find_injection(prompt_ids, shown, image_tokens, starts)):
            # transformers types `self` as a protocol that its own models do not meet.
            generated = self.stock.generate(  # type: ignore[misc]
                inputs_embeds=embeddings,
                attention_mask=prompt_mask,
                generation_config=self._greedy(max_new_tokens),
                logits_processor=LogitsProcessorList([watch]),
            )
        watch.check()
        assert isinstance(generated, Tensor)
        return generated

    @torch.no_grad()
    def generate_from(self, input_ids: Tensor, attention_mask: Tensor, cache: Cache, max_new_tokens: int) -> Tensor:
        """Continue prompts greedily from cached keys and values, in which whatever layers read of images is contained.

        Args:
            input_ids: [N, T] prompts, padded on the left, `<image>` expanded.
            attention_mask: [N, T], 1 on real tokens.
            cache: keys and values of all tokens except the last; extended in place.
            max_new_tokens: maximum length of the continuation.

        Returns:
            Token ids, as from `generate`.

        Raises:
            ModelUnavailable: see `generate`.
        """
        watch = LogitsWatch(self.weights_name)
        generated = self.stock.generate(  # type: ignore[misc]
            input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            generation_config=self._greedy(max_new_tokens),
            logits_processor=LogitsProcessorList([watch]),
        )
        watch.check()
        assert isinstance(generated, Tensor)
        return generated[:, input_ids.shape[1] :]

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
        tokens = self.special_tokens
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=tokens.pad,
            eos_token_id=tokens.eos,
            suppress_tokens=list(tokens.suppressed) or None,
        )

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the layers' activations in the backward pass instead of keeping them."""
        self.stock.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def require_prompt_ends(shown: ConversationImages) -> Tensor:
    """Return where first prompts end, LongTensor [N].

    Raises:
        ValueError: the batch does not say it.
    """
    if shown.prompt_ends is None:
        raise ValueError(
            "this model reads images again under the guidance of the prompt's last token, and the batch has no "
            "ConversationImages.prompt_ends: fill it from EncodedText.prompt_end"
        )
    return shown.prompt_ends


def _check_padding(attention_mask: Tensor) -> None:
    if not bool((attention_mask[:, 0] == 1).all() & (attention_mask[:, 1:] <= attention_mask[:, :-1]).all()):
        raise ValueError("sequences must be right-padded: some attention_mask has a 1 after a 0, or starts with 0")


def pad_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of [N, T] sequences to their left; generation continues at the right end."""
    # A stable sort of the mask brings its zeros to the front and keeps the order of the ones.
    order = attention_mask.argsort(dim=1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def build_llava(
    config: LlavaConfig, lora: LoraConfig | None, is_empty: bool = False, quantization: Quantization = "none"
) -> LlavaBackbone:
    """Build a LLaVA of the configured sizes with random weights.

    Args:
        config: sizes.
        lora: adapters, if any.
        is_empty: allocate no memory for the parameters, adapters included; see `plum.models.weightless`.
        quantization: of the language model under the adapters; requires `is_empty`.
    """
    assert is_empty or quantization == "none", "a language model is quantized as its weights are loaded"
    vision, tokens = config.vision, config.special_tokens
    with without_weights(is_empty):
        stock = LlavaForConditionalGeneration(stock_config(config))
        if config.projector == "linear":
            # LLaVA v1's single layer: the second one is the identity and stays frozen.
            nn.init.eye_(stock.model.multi_modal_projector.linear_2.weight)
            nn.init.zeros_(stock.model.multi_modal_projector.linear_2.bias)
        quantize_language_model(stock, quantization)
        layer = vision.select_layer
        num_vision_layers = layer if layer >= 0 else vision.num_layers + 1 + layer
        backbone = LlavaBackbone(stock, vision.num_image_tokens, num_vision_layers, tokens)
        if lora is not None:
            backbone.network = add_adapters(backbone.stock, lora)
    return backbone


def stock_config(config: LlavaConfig) -> StockLlavaConfig:
    """Translate to transformers' configuration."""
    vision, language, tokens = config.vision, config.language, config.special_tokens
    return StockLlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_layers,
            num_attention_heads=vision.num_heads,
            projection_dim=vision.hidden_size,
        ),
        text_config=LlamaConfig(
            vocab_size=language.vocab_size,
            hidden_size=language.hidden_size,
            intermediate_size=language.intermediate_size,
            num_hidden_layers=language.num_layers,
            num_attention_heads=language.num_heads,
            num_key_value_heads=language.num_key_value_heads,
            max_position_embeddings=language.max_positions,
            rms_norm_eps=language.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
            bos_token_id=None,
            eos_token_id=tokens.eos if tokens else None,
            pad_token_id=None,
            tie_word_embeddings=False,
        ),
        image_token_index=tokens.image if tokens else 0,
        image_seq_length=vision.num_image_tokens,
        projector_hidden_act="linear" if config.projector == "linear" else "gelu",
        vision_feature_layer=vision.select_layer,
        vision_feature_select_strategy="default",
    )
