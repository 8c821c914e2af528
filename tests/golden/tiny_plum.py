"""A random PLUM whose weights depend on nothing but their names and shapes, so that golden values outlive a refactor.

The weights come from NumPy's generator, seeded by each parameter's name: neither the order in which modules are built
nor torch's generator matters. The output layer is tilted towards the words of `WORDS` and the end of the answer, and
the tagger towards spans, so that the model's own answers are short, sometimes right, and have masks.
"""

import shutil
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from plum.checkpoints.store import save_pretrained
from plum.config import LoraConfig, ModelConfig
from plum.inputs.bio_labels import Tag
from plum.inputs.tokenizer import train_tokenizer
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from tests.plum.data.tokenizers_for_tests import TEXTS

SEED = 1
GAIN = 1.5
"""Spread of a matrix's output relative to its input: large enough that answers, tags and masks differ by image."""
LETTERS = tuple("ABCDE")
WORDS = (*LETTERS, "yes", "no", "red", "head", "torso", "wheel", "wing")
WORD_GAIN, LETTER_GAIN = 3.0, 4.5
EOS_GAIN = 14.0
SPAN_BIAS = 0.5
VOCABULARY = 640
MAX_POSITIONS = 1024


@lru_cache(maxsize=1)
def golden_tokenizer() -> PreTrainedTokenizerFast:
    """The tests' byte-level tokenizer, in which each of `WORDS` is one token with and without the space before it."""
    return train_tokenizer([*TEXTS, *(text for word in WORDS for text in 20 * [word, f"x {word}"])], VOCABULARY)


def save_tiny_plum(folder: Path, relative_noise: float = 0.0) -> None:
    """Write the model as a checkpoint folder, with the config.json that the code of the stored runs wrote.

    Its hash is part of their settings, and today's format would change it.

    Args:
        folder: New folder.
        relative_noise: Standard deviation of a relative change of every weight: how far rounding may move the scores.
    """
    tokenizer = golden_tokenizer()
    model = build_model(_long_config(tokenizer))
    with torch.no_grad():
        # SAM's random Fourier features are a buffer
        for name, parameter in (*model.named_parameters(), *_drawn_buffers(model)):
            values = _draw(name, tuple(parameter.shape), parameter.numpy())
            if name.endswith("lm_head.weight"):
                for word in WORDS:
                    values[_ids(tokenizer, word)] *= LETTER_GAIN if word in LETTERS else WORD_GAIN
                values[tokenizer.eos_token_id] *= EOS_GAIN
            if name.endswith("tagger.classifier.bias"):
                values[Tag.B] += SPAN_BIAS
            noise = np.random.default_rng(1).standard_normal(values.shape)
            parameter.copy_(torch.from_numpy(values * (1 + relative_noise * noise)))
    save_pretrained(model, tokenizer, folder, "A random model.")
    shutil.copyfile(Path(__file__).with_name("checkpoint_config.json"), folder / "config.json")


def _long_config(tokenizer: PreTrainedTokenizerFast) -> ModelConfig:
    """The tiny configuration with room for a question that shows all its choices."""
    config = tiny_model_config(len(tokenizer), lora=LoraConfig(rank=2))
    language = replace(config.llava.language, max_positions=MAX_POSITIONS)
    return with_special_tokens(replace(config, llava=replace(config.llava, language=language)), tokenizer)


def _ids(tokenizer: PreTrainedTokenizerFast, word: str) -> list[int]:
    """The tokens of a word at the beginning of an answer and within it."""
    ids = [tokenizer.encode(space + word, add_special_tokens=False) for space in ("", " ")]
    assert all(len(one) == 1 for one in ids), f"{word!r} is several tokens"
    return [one[0] for one in ids]


def _drawn_buffers(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if "gaussian" in name]
    assert buffers, "SAM's position features have another name"
    return buffers


def _draw(name: str, shape: tuple[int, ...], initial: np.ndarray) -> np.ndarray:
    """Vectors near their constant start (1 of a norm's scale, 0 of a bias), matrices that keep the spread."""
    generator = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    noise = generator.standard_normal(shape)
    if len(shape) < 2:
        return (1.0 if np.all(initial == 1) else 0.0) + 0.1 * noise
    if "embed" in name:
        return noise
    return GAIN * noise / np.sqrt(np.prod(shape[1:]))
