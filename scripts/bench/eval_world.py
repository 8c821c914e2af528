"""Models with random weights and drawn questions that the evaluation benchmarks measure."""

import contextlib
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.partonomy.steps import ChoiceProtocol
from partonomy.benchmarks.partonomy.task import PartonomyOptions, PartonomyTask, QuestionItem
from partonomy.benchmarks.task import AnyTask, Item, Record
from partonomy.cli.build import build
from partonomy.datasets.store import load_questions
from partonomy.harness.asking import answer_items
from partonomy.harness.ranks import MAX_IMAGES_PER_BATCH, Batch
from partonomy.models.contract import GroundedModel
from partonomy.structures import TABLE_TYPES, Question, QuestionType
from plum.config import ModelConfig, SamConfig
from plum.data.tokenizer_texts import collect_texts
from plum.inference.predictor import Predictor
from plum.inputs.conversation import TEMPLATES
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import add_written_tokens, with_special_tokens
from scripts.bench.sizes import Size, read_tokenizer, training_config, write_tokenizers

Dtype = Literal["auto", "float32", "bfloat16"]

MIN_DRAWN_IMAGES = 36
"""Two of every object: with fewer, some types of question find too few wrong answers."""
TYPES = {"five": TABLE_TYPES, "ten": tuple(QuestionType)}


@dataclass(frozen=True)
class EvaluationWorld:
    """Images with their questions, `images_per_batch` of them asked together, and a model that answers at random."""

    predictor: Predictor
    images: tuple[tuple[Question, ...], ...]
    images_per_batch: int = MAX_IMAGES_PER_BATCH

    @property
    def questions(self) -> tuple[Question, ...]:
        """Questions of all images."""
        return tuple(question for image in self.images for question in image)

    @property
    def num_questions(self) -> int:
        """Their number."""
        return len(self.questions)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The questions as the harness asks a model that takes batches."""
        size = self.images_per_batch
        return tuple(
            tuple(QuestionItem(question) for image in self.images[start : start + size] for question in image)
            for start in range(0, len(self.images), size)
        )

    @property
    def single_batches(self) -> tuple[Batch, ...]:
        """The questions one by one, so that the harness reads the image anew for each."""
        return tuple((QuestionItem(question),) for question in self.questions)

    def task(self, generated_types: Collection[QuestionType] = ()) -> PartonomyTask:
        """What the questions belong to; the model also answers those of some types in its own words."""
        types = {question.question_type for question in self.questions}
        generate = ",".join(kind for kind in QuestionType if kind in generated_types and kind in types)
        options = PartonomyOptions(
            ",".join(kind for kind in QuestionType if kind in types),
            generate or "none",
            choice_protocol=ChoiceProtocol.LIKELIHOOD,
        )
        return PartonomyTask("drawn", options, tuple(map(QuestionItem, self.questions)))


def ask_all(model: GroundedModel, task: AnyTask, batches: Sequence[Batch]) -> Iterator[Record]:
    """Let the harness ask everything, and yield the records.

    Raises:
        ValueError: An item failed, and its time means nothing.
    """
    for record in answer_items(model, task, batches, _is_wanted):
        if not record.is_scored:
            raise ValueError(f"{task.benchmark} item {record.item_id} failed: {record.reason}")
        yield record


def ask_questions(model: GroundedModel, task: PartonomyTask, batches: Sequence[Batch]) -> list[QuestionRecord]:
    """Return the records of Partonomy's questions, see `ask_all`."""
    return [record for record in ask_all(model, task, batches) if isinstance(record, QuestionRecord)]


def _is_wanted(item: Item) -> bool:
    return True


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
    """Draw the embedded data set with its questions into `folder`/train, and train tokenizers.

    Its tokenizers also know the words of the conversation templates, as every published one does.
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
    write_tokenizers(folder, [*collect_texts([folder / "train"]), *words])


def build_world(
    size: Size, folder: Path, images: int, types: str, device: torch.device, *, seed: int, dtype: Dtype = "auto"
) -> EvaluationWorld:
    """Build the model (`dtype` auto: bfloat16 on a GPU), and read the questions of `folder` as a run on all would."""
    sys.stderr.write("building the model ...\n")
    tokenizer = read_tokenizer(training_config(size, 1, folder))
    sizes = model_config(size, folder)
    add_written_tokens(sizes, tokenizer)
    config = with_special_tokens(sizes, tokenizer)
    torch.manual_seed(seed)
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    with device:
        model = build_model(config).to({"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])
    fill_constant_parameters(model, seed)
    groups: dict[int, list[Question]] = {}
    for question in load_questions(folder / "train").questions:
        if question.question_type in TYPES[types]:
            groups.setdefault(question.image_id, []).append(question)
    complete = [tuple(group) for group in groups.values() if len(group) == len(TYPES[types])][:images]
    if len(complete) < images:
        raise ValueError(f"only {len(complete)} of the drawn images have a question of every type: ask for fewer")
    return EvaluationWorld(Predictor(model, tokenizer, config), tuple(complete))


def fill_constant_parameters(model: nn.Module, seed: int) -> None:
    """Add noise to weights that start as constants (relative positions, FiLM, adapters), so that they matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.02 * noise.to(parameter.device, parameter.dtype))
