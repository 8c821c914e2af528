"""Tiny LISA and M2SA, with the test tokenizers."""

import copy
from dataclasses import replace
from typing import Literal

import torch
from transformers import PreTrainedTokenizerFast

from plum.config import LoraConfig, ModelConfig, SegTokenConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.seg_token import add_seg_token
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from tests.plum.data.tokenizers_for_tests import FAMILIES

EMBEDDINGS = LoraConfig(rank=2, train_embeddings=True)
ROOM = 8
"""Embedding rows beyond the tokenizer, one of which [SEG] takes."""


def seg_tokenizer(family: str = "byte_level") -> PreTrainedTokenizerFast:
    """A copy of a test tokenizer, with [SEG]: the shared ones are cached and must stay as they are."""
    own = copy.deepcopy(FAMILIES[family]())
    add_seg_token(own)
    return own


def sister_config(
    system: Literal["plum", "lisa", "m2sa"] = "lisa",
    targets: Literal["many", "single"] = "many",
    has_feedback: bool = False,
    lora: LoraConfig | None = EMBEDDINGS,
) -> ModelConfig:
    """A tiny configuration of a system, token ids left to the tokenizer."""
    tokenizer = FAMILIES["byte_level"]()
    config = tiny_model_config(len(tokenizer) + ROOM, lora=lora)
    if system == "plum":
        return config
    return replace(
        config,
        system=system,
        tagger=None,
        seg_token=SegTokenConfig(targets),
        feedback=replace(config.feedback, is_enabled=has_feedback),
    )


def make_sister(config: ModelConfig, seed: int = 0) -> GroundedLMM:
    """A random model of a configuration."""
    torch.manual_seed(seed)
    return build_model(with_special_tokens(config, seg_tokenizer())).eval()
