"""The seam to a language model that sees images: everything but how one family encodes its images.

A backbone wraps a stock image-text-to-text model of transformers instead of subclassing it: a subclass would lose
transformers' weight-name conversion and leave lm_head random with only a warning. Image placeholders are already
expanded in every input_ids, one id per image token; all indices refer to that expanded sequence. A subclass encodes
images to `ImageTokens`. The rest is the same for all: tokens are embedded, image tokens take their places, the stock
decoder runs over them with positions that the caller gives, and PLUM's own attention among tokens of many conversations
goes through transformers' registry of attention functions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache, PreTrainedModel

from partonomy.models.finite_values import LogitsWatch
from plum.config import SpecialTokensConfig
from plum.constants import constant
from plum.models.backbones.shared_beginnings import SequenceLayout, SequencePass, lay_out
from plum.structures import ConversationImages, ImageTokens, Pixels

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer. Takes the layer's number and, for n tokens with rotary positions applied, queries [n, heads,
d], keys and values [n, key-value heads, d]; returns [n, heads, d]."""

ATTENTION_BY_CALLER = "attention_by_caller"
"""Name of the attention function in transformers' registry that calls an `Attend`."""


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


class Backbone(nn.Module, ABC):
    """A stock image-text-to-text model in short stages, each usable alone.

    `network` is the stock model, wrapped in a PeftModel if it has adapters. A subclass whose layers read the images
    again under the prompt's guidance (CALICO) overrides `find_injection` and `injecting`, which here do nothing.

    Args:
        network: the stock model.
        special_tokens: ids that the model needs; None: not yet read from the tokenizer.
    """

    reads_images_again = False
    """Whether layers add what they read of `ImageTokens.details` to the states of image tokens."""
    is_guided = False
    """Whether what they read depends on the conversation's first prompt, through its last token."""
    shares_prefixes = True
    """Whether conversations can share the states of a common prefix, because every layer attends to all earlier tokens
    and to no later one. Otherwise every conversation runs by itself (the plain path)."""
    decoder_name: ClassVar[str] = "language_model"
    """Name of the decoder in the stock model, by which adapters find its layers."""

    def __init__(self, network: PreTrainedModel | PeftModel, special_tokens: SpecialTokensConfig | None) -> None:
        super().__init__()
        self.network = network
        self.weights_name = "the model"
        """Where the weights come from, for messages."""
        self._special_tokens = special_tokens

    @property
    def stock(self) -> PreTrainedModel:
        """The stock model; its linear layers carry the adapters, if any."""
        stock = self.network.get_base_model() if isinstance(self.network, PeftModel) else self.network
        assert isinstance(stock, PreTrainedModel)
        return stock

    @property
    def decoder(self) -> PreTrainedModel:
        """The stock language model without its output layer."""
        decoder = self.stock.get_decoder()
        assert isinstance(decoder, PreTrainedModel)
        return decoder

    @property
    def special_tokens(self) -> SpecialTokensConfig:
        """Ids of the image placeholder, padding and end.

        Raises:
            ValueError: the configuration leaves them to the tokenizer and was not completed from it.
        """
        if self._special_tokens is None:
            raise ValueError(
                "the model's special_tokens are not set: pass the configuration through "
                "plum.models.systems.special_tokens.with_special_tokens(config, tokenizer) before build_model"
            )
        return self._special_tokens

    @abstractmethod
    def encode_images(self, pixels: Pixels) -> ImageTokens:
        """Encode one or more preprocessed images to image tokens."""

    def no_images(self) -> ImageTokens:
        """Return the tokens of no image."""
        return ImageTokens(self.embed_text(torch.zeros(0, 0, dtype=torch.long, device=self.device)))

    @property
    def hidden_size(self) -> int:
        """Width D of the states."""
        size = self.decoder.config.hidden_size
        assert isinstance(size, int)
        return size

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.parameters()).device

    def find_injection(
        self, input_ids: Tensor, shown: ConversationImages, image_tokens: ImageTokens, starts: Tensor | None = None
    ) -> Injection | None:
        """Find where the layers read images again in a pass over rows of tokens.

        Args:
            input_ids: [N, T], image placeholders expanded.
            shown: the images of the N conversations.
            image_tokens: of the B images.
            starts: [N], where each row's conversation begins after padding on its left; None: at 0.

        Returns:
            None: nowhere.

        Raises:
            ValueError: the model is guided, and `shown` does not say where prompts end.
        """
        return None

    def injecting(self, injection: Injection | None) -> AbstractContextManager[None]:
        """Return a context in which the layers read images again, except in steps that continue a cache."""
        return nullcontext()

    def embed(self, input_ids: Tensor, shown: ConversationImages, image_tokens: ImageTokens) -> Tensor:
        """Embed text and replace image placeholders with image tokens.

        Args:
            input_ids: [N, T], image placeholders expanded.
            shown: the images of the N conversations.
            image_tokens: of the B images.

        Returns:
            Embeddings [N, T, D].

        Raises:
            ValueError: the number of placeholders in a conversation differs from its images' number of tokens.
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
        self,
        embeddings: Tensor,
        positions: Tensor,
        attend: Attend,
        injection: Injection | None = None,
        added: "AddedFeatures | None" = None,
    ) -> Tensor:
        """Run the decoder over tokens in any arrangement; the caller decides which tokens attend to which.

        Everything except attention treats each token separately, so tokens of many conversations can share one row
        without padding.

        Args:
            embeddings: [n, D].
            positions: [n] or [axes, n], position of each token in its conversation.
            attend: attention among these tokens and tokens of earlier calls, which the caller keeps.
            injection: where the layers read images again among these tokens.
            added: what the first layers add to the image tokens among these.

        Returns:
            States [n, D] of the last layer after the final norm, as from `hidden_states`.
        """
        named = {} if added is None else added.arguments()
        with _attention_of(self.decoder), self.injecting(injection):
            output = self.decoder(
                inputs_embeds=embeddings[None],
                position_ids=positions[..., None, :],
                use_cache=False,
                attend=attend,
                **named,
            )
        return output.last_hidden_state[0]

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, shown: ConversationImages, image_tokens: ImageTokens
    ) -> Tensor:
        """Return the last layer's states after the final norm.

        Args:
            input_ids: [N, T], right-padded, image placeholders expanded.
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
        positions = shown.positions_of(input_ids)
        masks = self.masks(embeddings, input_ids, None)
        named: dict[str, object] = {} if masks is None else {"attention_mask": masks}
        if positions is not None:
            named["position_ids"] = positions
        with self.injecting(self.find_injection(input_ids, shown, image_tokens)):
            return self._run_decoder(embeddings, named, self._added(input_ids, shown, image_tokens))

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
        conversations with the same first prompt share a prefix. A plain model (`shares_prefixes`) shares nothing.

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
        if not self.shares_prefixes:
            return self.hidden_states(input_ids, attention_mask, shown, image_tokens)
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
        added = None
        if len(image_tokens) > 0:
            embeddings = sequences.merge(embeddings, image_tokens.values)
            if image_tokens.layers is not None:
                _, images, numbers = sequences.patches
                is_image = sequences.input_ids == self.special_tokens.image
                added = AddedFeatures(is_image, image_tokens.layers[images, numbers])
        named: dict[str, object] = {}
        if sequences.is_branched:  # transformers uses a 4-D mask unchanged
            named["attention_mask"] = sequences.attention_mask(embeddings.dtype)
        if sequences.is_branched or sequences.positions.ndim == 3:
            named["position_ids"] = sequences.positions
        with self.injecting(self.find_injection(sequences.input_ids, sequences.shown, image_tokens)):
            return self._run_decoder(embeddings, named, added)

    def _run_decoder(self, embeddings: Tensor, named: dict[str, object], added: "AddedFeatures | None") -> Tensor:
        """Run the stock decoder over rows of embeddings [N, T, D]."""
        others = {} if added is None else added.arguments()
        return self.decoder(inputs_embeds=embeddings, use_cache=False, **named, **others).last_hidden_state

    def _added(self, input_ids: Tensor, shown: ConversationImages, image_tokens: ImageTokens) -> "AddedFeatures | None":
        if image_tokens.layers is None or len(image_tokens) == 0:
            return None
        features = shown.take_tokens(image_tokens.layers.flatten(2))
        return AddedFeatures(
            input_ids == self.special_tokens.image, features.reshape(-1, *image_tokens.layers.shape[2:])
        )

    def masks(self, embeddings: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> object | None:
        """Return what the stock decoder takes as the attention mask of whole prompts or conversations.

        Args:
            embeddings: [N, T, D].
            input_ids: [N, T], image placeholders expanded.
            attention_mask: [N, T], 1 on real tokens; None: padded on the right.

        Returns:
            `attention_mask`, if text and image tokens attend alike.
        """
        return attention_mask

    def token_logits(self, states: Tensor) -> Tensor:
        """Return next-token logits [..., V] of states [..., D]; tokens that are never text get -inf."""
        logits = self.stock.get_output_embeddings()(states)
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
        """Continue prompts greedily.

        Every position is given, so that nothing of an earlier call (`rope_deltas` of models with positions in three
        dimensions) can enter.

        Args:
            input_ids: [N, T] prompts, padded left or right, image placeholders expanded.
            attention_mask: [N, T], 1 on real tokens.
            shown: the images of the N conversations.
            image_tokens: of the B images.
            max_new_tokens: maximum length of the continuation.

        Returns:
            Token ids [N, up to max_new_tokens], the end token included, padding after it.

        Raises:
            ModelUnavailable: some next-token logits are NaN or infinite.
        """
        order, prompt_mask = pad_left(attention_mask)
        prompt_ids = input_ids.gather(1, order)
        positions = shown.positions_of(input_ids)
        if positions is None:
            placed = (prompt_mask.cumsum(1) - 1).clamp(min=0)
        else:
            placed = positions.gather(2, order.expand_as(positions))
        embeddings = self.embed(prompt_ids, shown, image_tokens)
        added = self._added(prompt_ids, shown, image_tokens)
        starts = prompt_mask.shape[1] - prompt_mask.sum(1)
        cache = DynamicCache(config=self.decoder.config)
        with self.injecting(self.find_injection(prompt_ids, shown, image_tokens, starts)):
            states = self.decoder(
                inputs_embeds=embeddings,
                attention_mask=self.masks(embeddings, prompt_ids, prompt_mask),
                position_ids=placed,
                past_key_values=cache,
                use_cache=True,
                **({} if added is None else added.arguments()),
            ).last_hidden_state
        return self._continue(states[:, -1], prompt_mask, placed[..., -1], cache, max_new_tokens)

    @torch.no_grad()
    def generate_from(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, cache: Cache, max_new_tokens: int
    ) -> Tensor:
        """Continue prompts greedily from cached keys and values, in which whatever layers read of images is contained.

        Args:
            input_ids: [N], the last token of each prompt.
            attention_mask: [N, T], 1 on the prompts' real tokens, padded on the left.
            positions: [N] or [axes, N], positions of the last tokens.
            cache: keys and values of all tokens except the last; extended in place.
            max_new_tokens: maximum length of the continuation.

        Returns:
            Token ids, as from `generate`.

        Raises:
            ModelUnavailable: see `generate`.
        """
        states = self._step(input_ids, attention_mask, positions, cache)
        return self._continue(states, attention_mask, positions, cache, max_new_tokens)

    def _step(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Return the states [N, D] of one further token per row."""
        output = self.decoder(
            inputs_embeds=self.embed_text(input_ids)[:, None],
            attention_mask=attention_mask,
            position_ids=positions[..., None],
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def _continue(
        self, states: Tensor, attention_mask: Tensor, positions: Tensor, cache: Cache, max_new_tokens: int
    ) -> Tensor:
        """Choose and read tokens until every row has ended.

        Args:
            states: [N, D], of the prompts' last tokens.
            attention_mask: [N, T] of the prompts.
            positions: [N] or [axes, N], of their last tokens.
            cache: of all their tokens.
            max_new_tokens: maximum number of tokens.
        """
        tokens, watch = self.special_tokens, LogitsWatch(self.weights_name)
        has_ended = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        chosen: list[Tensor] = []
        while True:
            logits = watch(states, self.token_logits(states).float())
            token = logits.argmax(-1).masked_fill(has_ended, tokens.pad)
            chosen.append(token)
            has_ended = has_ended | (token == tokens.eos)
            if len(chosen) == max_new_tokens or bool(has_ended.all()):
                break
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(states), 1)], dim=1)
            # Text after an image goes on from the furthest of its axes, and so do all axes of the text.
            positions = (positions if positions.ndim == 1 else positions.amax(0).expand_as(positions)) + 1
            states = self._step(token, attention_mask, positions, cache)
        watch.check()
        return torch.stack(chosen, dim=1)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the layers' activations in the backward pass instead of keeping them."""
        self.stock.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


@dataclass(frozen=True)
class AddedFeatures:
    """What the first k layers of a decoder add to the states of image tokens (Qwen3-VL's DeepStack).

    is_image: bool [N, T] or [t], the tokens of images; features: [K, k, D] of the K image tokens, in their order
    """

    is_image: Tensor
    features: Tensor

    def arguments(self) -> dict[str, Tensor | list[Tensor]]:
        """Return the stock decoder's arguments."""
        return {
            "visual_pos_masks": self.is_image if self.is_image.ndim == 2 else self.is_image[None],
            "deepstack_visual_embeds": list(self.features.unbind(1)),
        }


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


def pad_left(attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order [N, T] that moves the padding of sequences to their left, and the mask in that order."""
    # A stable sort of the mask brings its zeros to the front and keeps the order of the ones.
    order = attention_mask.argsort(dim=1, stable=True)
    return order, attention_mask.gather(1, order)


def _check_padding(attention_mask: Tensor) -> None:
    if not bool((attention_mask[:, 0] == 1).all() & (attention_mask[:, 1:] <= attention_mask[:, :-1]).all()):
        raise ValueError("sequences must be right-padded: some attention_mask has a 1 after a 0, or starts with 0")


@contextmanager
def _attention_of(decoder: PreTrainedModel) -> Iterator[None]:
    """Let a decoder's layers call the `attend` they are given, within the context."""
    usual = decoder.config._attn_implementation
    decoder.set_attn_implementation(ATTENTION_BY_CALLER)
    try:
        yield
    finally:
        decoder.set_attn_implementation(usual)


def _attend_by_caller(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attend: Attend,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: Tensor | None = None,
    sliding_window: int | None = None,
    use_cache: bool = False,
) -> tuple[Tensor, None]:
    """Call the caller's `attend` in the place of a stock attention function; one row [1, heads, n, d].

    The other arguments are what the stock layers of all families give. `Attend` scales by the width of a head, as they
    do, and knows nothing of windows.
    """
    assert isinstance(module.layer_idx, int)
    assert sliding_window is None, "families with sliding windows take the plain path"
    attended = attend(module.layer_idx, *(states[0].transpose(0, 1) for states in (query, key, value)))
    return attended[None], None


AttentionInterface.register(ATTENTION_BY_CALLER, _attend_by_caller)
AttentionMaskInterface.register(ATTENTION_BY_CALLER, lambda *_, **__: None)
