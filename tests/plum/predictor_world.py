"""A tiny random model behind a Predictor, and words to ask it."""

import numpy as np
import torch

from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan
from plum.inference.predictor import Predictor, WrittenAnswer
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from tests.plum.data.tokenizers_for_tests import byte_level

QUESTION = (Turn(Role.USER, "What visible parts does the biplane have?"),)
ANSWER = "It has a front wheel, a wheel and a propeller."
WRITTEN = WrittenAnswer(ANSWER, 12, "stop")
"""`ANSWER` as the model's own."""
SPANS = (CharSpan(9, 20), CharSpan(24, 29), CharSpan(36, 45))
HISTORY = (Turn(Role.USER, "Where is the wheel?"), Turn(Role.ASSISTANT, "It is the wheel."), *QUESTION)


def make_model() -> GroundedLMM:
    torch.manual_seed(0)
    tokenizer = byte_level()
    return build_model(with_special_tokens(tiny_model_config(len(tokenizer)), tokenizer))


def make_predictor() -> Predictor:
    model = make_model()
    return Predictor(model, byte_level(), model.config)


def make_image(seed: int = 0, height: int = 20, width: int = 28) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
