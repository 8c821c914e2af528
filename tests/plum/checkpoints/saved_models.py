"""Tiny models with adapters that do something, as they are before and after training, and what they compute."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from plum.config import FeedbackConfig, LoraConfig
from plum.inputs.tokenizer import train_tokenizer
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import GroundedOutput
from plum.train_config import TrainableConfig
from plum.training.initialise import initialise_from

VOCAB = 300
LORA = LoraConfig(rank=2)


def make_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["It is the front wheel.", "USER: What parts does the plane have?"], VOCAB)


def make_model(
    tokenizer: PreTrainedTokenizerFast,
    lora: LoraConfig | None = LORA,
    feedback: FeedbackConfig | None = None,
    seed: int = 0,
) -> GroundedLMM:
    torch.manual_seed(seed)
    model = build_model(with_special_tokens(tiny_model_config(VOCAB, lora=lora, feedback=feedback), tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modulations" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


@torch.no_grad()
def run(model: GroundedLMM) -> GroundedOutput:
    """Run conversations with later masks, so that feedback shows."""
    config = model.config
    tiny = replace(config, llava=replace(config.llava, special_tokens=TINY_TOKENS))
    batch = tiny_batch(tiny, (3, 1), torch.Generator().manual_seed(3))
    ids = batch.input_ids.masked_fill(batch.input_ids == TINY_TOKENS.image, model.llava.special_tokens.image)
    ids[:, -18:] = ids[:, -18:].masked_fill(ids[:, -18:] == model.llava.special_tokens.image, 20)
    return model(replace(batch, input_ids=ids), with_teacher=False)


def assert_same(ours: GroundedOutput, theirs: GroundedOutput, tolerance: float = 0.0) -> None:
    for name in ("hidden_states", "token_logits", "tag_logits", "mask_logits"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=tolerance, rtol=tolerance, msg=name)


def make_trained(tokenizer: PreTrainedTokenizerFast, base: Path, lora: LoraConfig | None) -> GroundedLMM:
    """A run that started from `base` and moved everything it trains."""
    torch.manual_seed(5)
    model = build_model(with_special_tokens(tiny_model_config(VOCAB, lora=lora), tokenizer))
    initialise_from(model, str(base))
    set_trainable(model, TrainableConfig(embeddings=lora is not None and lora.train_embeddings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()
