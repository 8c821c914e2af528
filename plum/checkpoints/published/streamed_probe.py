"""Logits of a model that is not in memory: its forward pass reads each layer's weights as it runs, then drops them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plum.checkpoints.model_weights import Weights, empty_model
from plum.models.grounded_lmm import GroundedLMM
from plum.structures import ConversationImages, ImageTokens

PROBE_LENGTH = 32


@torch.inference_mode()
def probe_logits(weights: Weights) -> Tensor:
    """Return next-token logits [PROBE_LENGTH, V] of the language model on a fixed text, computed in float32.

    The text is made of ordinary tokens spread over the vocabulary. No more than one decoder layer, or the embeddings,
    is held at a time. Tokens that are never text have the logit 0.
    """
    model = empty_model(weights.config)
    _stream_weights(model, weights)
    input_ids = _probe_text(model)
    no_images = ImageTokens(torch.zeros(0, 0, model.config.language.hidden_size))
    shown = ConversationImages.no_image(1, input_ids.device)
    states = model.hidden_states(input_ids, torch.ones_like(input_ids), shown, no_images)
    return model.token_logits(states[0]).float().nan_to_num(neginf=0.0)


def _probe_text(model: GroundedLMM) -> Tensor:
    tokens, vocab_size = model.backbone.special_tokens, model.config.language.vocab_size
    stride = max(1, vocab_size // (4 * PROBE_LENGTH))
    silent = {tokens.image, tokens.pad, *tokens.suppressed}
    ordinary = [token for token in range(0, vocab_size, stride) if token not in silent]
    return torch.tensor([(ordinary * PROBE_LENGTH)[:PROBE_LENGTH]])


def _stream_weights(model: GroundedLMM, weights: Weights) -> None:
    """Make every piece of the language model fetch its weights before it runs and drop them afterwards."""
    language = model.backbone.decoder
    names = {id(module): name for name, module in model.named_modules()}
    layers, frequencies = language.get_submodule("layers"), language.get_submodule("rotary_emb")
    outer = (
        language.get_input_embeddings(),
        language.get_submodule("norm"),
        model.backbone.stock.get_output_embeddings(),
    )
    pieces = (*layers.children(), *outer)
    for piece in pieces:
        piece.register_forward_pre_hook(_fetch(names[id(piece)], weights))
        piece.register_forward_hook(_drop)
    # Its frequencies are computed, not saved.
    language.rotary_emb = type(frequencies)(config=language.config)


def _fetch(name: str, weights: Weights) -> Callable[[nn.Module, object], None]:
    def fetch(piece: nn.Module, inputs: object) -> None:
        piece.to_empty(device="cpu")
        for key, tensor in piece.state_dict(keep_vars=True).items():
            tensor.data.copy_(weights.read(f"{name}.{key}"))

    return fetch


def _drop(piece: nn.Module, inputs: object, output: object) -> None:
    piece.to("meta")
