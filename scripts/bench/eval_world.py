"""Models with random weights and drawn questions that the evaluation benchmarks measure."""

import contextlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from partonomy.cli.build import build
from partonomy.datasets.store import load_questions
from partonomy.harness.ranks import ImageGroup, select_questions, shard_images
from partonomy.harness.ranks import Rank as WholeRun
from partonomy.structures import TABLE_TYPES, QuestionType
from plum.cli.train_tokenizer import collect_texts
from plum.config import ModelConfig, SamConfig
from plum.inference.predictor import Predictor
from plum.inputs.conversation import TEMPLATES
from plum.inputs.tokenizer import load_tokenizer, train_tokenizer
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from scripts.bench.sizes import Size, training_config

Dtype = Literal["auto", "float32", "bfloat16"]

VOCAB_SIZE = 1024
MIN_DRAWN_IMAGES = 36
"""Two of every object: with fewer, some types of question find too few wrong answers."""
TYPES = {"five": TABLE_TYPES, "ten": tuple(QuestionType)}


@dataclass(frozen=True)
class EvaluationWorld:
    """Batches of images with their questions, and a model that answers them at random."""

    predictor: Predictor
    batches: tuple[tuple[ImageGroup, ...], ...]

    @property
    def num_questions(self) -> int:
        """Questions of all batches."""
        return sum(len(group.questions) for batch in self.batches for group in batch)


def model_config(size: Size, folder: Path) -> ModelConfig:
    """Return a system's sizes; `small` has SAM's ViT-B (768 wide, 12 layers, 4 of them global) at 512 pixels."""
    config = training_config(size, 1, folder).model
    if size != "small":
        return config
    encoder = SamConfig(
        image_size=512, encoder_dim=768, encoder_depth=12, encoder_heads=12, encoder_global_blocks=(2, 5, 8, 11)
    )
    return replace(config, sam=encoder)


def draw_questions(folder: Path, images: int, types: str, image_size: int) -> None:
    """Draw the embedded data set with its questions into `folder`/train, and train its tokenizer.

    The tokenizer also knows the words of the conversation templates, as every published one does.
    """
    with Path(os.devnull).open("w") as silence, contextlib.redirect_stdout(silence):
        build(
            source="synthetic",
            output=str(folder / "train"),
            images=str(max(images, MIN_DRAWN_IMAGES)),
            image_size=image_size,
            question_types=",".join(TYPES[types]),
            embedding_model="char-ngram-tfidf",
        )
    words = [template.opening for template in TEMPLATES.values()] * 20
    tokenizer = train_tokenizer([*collect_texts([folder / "train"]), *words], VOCAB_SIZE)
    tokenizer.save_pretrained(str(folder / "tokenizer"))


def build_world(
    size: Size, folder: Path, images: int, types: str, device: torch.device, *, seed: int, dtype: Dtype = "auto"
) -> EvaluationWorld:
    """Build the model (`dtype` auto: bfloat16 on a GPU), and read the questions of `folder` as a run on all would."""
    sys.stderr.write("building the model ...\n")
    tokenizer = load_tokenizer(folder / "tokenizer")
    config = with_special_tokens(model_config(size, folder), tokenizer)
    torch.manual_seed(seed)
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    with device:
        model = build_model(config).to({"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])
    fill_constant_parameters(model, seed)
    selection = select_questions(load_questions(folder / "train"), TYPES[types], None)
    groups = [group for batch in shard_images(selection, WholeRun()) for group in batch]
    complete = [group for group in groups if len(group.questions) == len(TYPES[types])][:images]
    if len(complete) < images:
        raise ValueError(f"only {len(complete)} of the drawn images have a question of every type: ask for fewer")
    per_batch = min(4, images)
    batches = tuple(tuple(complete[start : start + per_batch]) for start in range(0, images, per_batch))
    return EvaluationWorld(Predictor(model, tokenizer, config), batches)


def fill_constant_parameters(model: nn.Module, seed: int) -> None:
    """Add noise to weights that start as constants (relative positions, FiLM, adapters), so that they matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.02 * noise.to(parameter.device, parameter.dtype))
