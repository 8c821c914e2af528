"""Plans a fine-tuning: the configuration of a run on a built data set, chosen for the model and the machine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from partonomy.datasets.store import ANNOTATIONS_FILE, load_questions
from partonomy.files import iterate_records
from plum.checkpoints.model_config_io import read_model_config
from plum.config import LoraConfig, ModelConfig
from plum.data.build import OWN_ANSWERS
from plum.data.readers.grounded_answers import read_grounded_answers
from plum.doctor.memory import estimate_memory
from plum.train_config import (
    DataConfig,
    EngineConfig,
    LossConfig,
    OptimizerConfig,
    SourceConfig,
    TrainableConfig,
    TrainConfig,
    ValidationConfig,
)

IMAGES_PER_UPDATE = 16
NUM_VALIDATIONS = 10
"""Validations of a run, at equal distances."""
PATIENCE = 4
LEAST_UPDATES = 200
"""Updates of a run unless the number of epochs is given: a few hundred images need several epochs."""
LEAST_EPOCHS = 3
SMALL_WIDTH = 512
"""Language models below this width are trained at the tiny recipe's learning rate."""
SMALL_LEARNING_RATE, LEARNING_RATE = 1e-3, 3e-4
"""The tiny recipe's, and the paper's (Table 6)."""
MICRO_BATCH_SIZES = (16, 8, 4, 2, 1)
USABLE_SHARE = 0.92
"""Share of a GPU's memory that the estimated peak may take."""


@dataclass(frozen=True)
class Machine:
    """What a run finds: the number of processes, and the memory of the smallest GPU in bytes (None: no GPU)."""

    num_ranks: int
    gpu_bytes: int | None


@dataclass(frozen=True)
class FineTuneRequest:
    """What the user asks for; None leaves the choice to the plan.

    Attributes:
        data: what to train on: a built data set, or a file of `plum.data.readers.grounded_answers`.
        held_out: what to validate on, in one of these forms.
        init_from: saved model with heads.
        run_dir: folder of the training run.
        epochs: number of times that each image is seen.
        learning_rate: the highest one.
        images_per_update: images of one update over all ranks.
        seed: seed of the run.
    """

    data: Path
    held_out: Path
    init_from: Path
    run_dir: Path
    epochs: float | None = None
    learning_rate: float | None = None
    images_per_update: int | None = None
    seed: int = 42


@dataclass(frozen=True)
class FineTunePlan:
    """The configuration of a run, and what was chosen, in sentences."""

    config: TrainConfig
    choices: tuple[str, ...]


def plan_finetune(request: FineTuneRequest, machine: Machine) -> FineTunePlan:
    """Choose everything that the request leaves open.

    Raises:
        FileNotFoundError: a data set or the model is missing.
        ValueError: a data set has no question, or a number is out of range.
    """
    _check_numbers(request)
    model, rank_note = _with_adapters(read_model_config(request.init_from))
    sources = _choose_sources(request.data)
    num_images, held_out = (_count_images(data) for data in (request.data, request.held_out))
    per_update = _divisible(request.images_per_update or IMAGES_PER_UPDATE, machine.num_ranks)
    epochs = request.epochs or max(LEAST_EPOCHS, LEAST_UPDATES * per_update / num_images)
    num_updates = max(1, math.ceil(epochs * num_images / per_update))
    is_small = model.language.hidden_size < SMALL_WIDTH
    rate = request.learning_rate or (SMALL_LEARNING_RATE if is_small else LEARNING_RATE)
    every = max(1, num_updates // NUM_VALIDATIONS)
    has_gpu = machine.gpu_bytes is not None
    config = TrainConfig(
        run_dir=str(request.run_dir),
        model=model,
        data=DataConfig(sources=sources, conversations_per_image=1 if is_small else 3),
        init_from=str(request.init_from),
        num_updates=num_updates,
        losses=LossConfig(kl=0.1 if model.seg_token is None else 0.0, bio=0.0 if model.tagger is None else 2.0),
        trainable=TrainableConfig(
            language_model="lora",
            embeddings=model.lora is not None and model.lora.train_embeddings,
            sam_mask_decoder=True,
            sam_prompt_encoder=True,
        ),
        optimizer=OptimizerConfig(learning_rate=rate, warmup_updates=min(100, num_updates // 10)),
        engine=EngineConfig(
            precision="bf16" if has_gpu else "fp32", gradient_checkpointing=has_gpu, num_workers=2 * has_gpu
        ),
        validation=ValidationConfig((_held_out_source(request.held_out),), every, patience=PATIENCE),
        seed=request.seed,
        log_every=max(1, min(10, every)),
        save_every=every,
        keep_checkpoints=2,
        save_model="trained" if has_gpu else "full",
    )
    config, memory_note = _with_micro_batches(config, per_update, machine)
    share = num_updates * per_update / num_images
    return FineTunePlan(
        config,
        (
            f"data: {num_images} images to train on ({', '.join(one.kind for one in sources)}), {held_out} held out",
            f"length: {num_updates} updates of {per_update} images, {share:.1f} epochs"
            + ("" if request.epochs else f" (at least {LEAST_UPDATES} updates; --epochs changes it)"),
            f"validation: every {every} updates; the best weights are saved; "
            f"after {PATIENCE} without a better one the run ends",
            "held-out images: they choose the best weights and are then scored, so the scores are slightly optimistic; "
            "score other images for numbers to publish",
            f"weights: {rank_note}; learning rate {rate:g}" + (" (small model)" if is_small else " (the paper's)"),
            f"machine: {machine.num_ranks} {'GPUs' if has_gpu else 'processes on the CPU'}, {config.engine.precision}, "
            f"{memory_note}",
            f"prompt: the model's own, {model.of_llava.conversation}; the tokenizer is the model's",
        ),
    )


def is_answer_file(data: Path) -> bool:
    """Return whether a data set is a file of questions, answers and masks; a folder or a COCO-style file is none.

    Raises:
        ValueError: the file is not JSON.
    """
    if not data.is_file():
        return False
    with data.open("rb") as file:
        first = file.read(4096).lstrip()
    if first.startswith(b"["):
        record = next(iterate_records(data), None)
        return isinstance(record, Mapping) and "image" in record and not {"qa_pairs", "image_path"} & record.keys()
    return data.suffix == ".jsonl"


def _count_images(data: Path) -> int:
    """Return the number of images that have a question.

    Raises:
        ValueError: there is none.
    """
    number = (
        len(read_grounded_answers(data))
        if is_answer_file(data)
        else len({question.image_path for question in load_questions(data).questions})
    )
    if not number:
        raise ValueError(f"{data} has no question; build it from more images")
    return number


def _check_numbers(request: FineTuneRequest) -> None:
    for name in ("epochs", "learning_rate", "images_per_update"):
        value = getattr(request, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} is {value}, it must be above 0")


def _with_adapters(model: ModelConfig) -> tuple[ModelConfig, str]:
    """Give a merged model new adapters; a model that has adapters keeps them."""
    lora = model.lora or LoraConfig(train_embeddings=model.seg_token is not None)
    targets = ", ".join(lora.target_modules)
    note = f"adapters of rank {lora.rank} on {targets}, the heads and SAM's mask decoder are trained"
    return replace(model, lora=lora), note


def _choose_sources(data: Path) -> tuple[SourceConfig, ...]:
    """Return the mixture of the tiny recipe; a record file without annotations has questions alone."""
    path = str(data)
    if is_answer_file(data):
        return (SourceConfig(OWN_ANSWERS, path),)
    asked = SourceConfig("explanatory", path, weight=6)
    if not (data / ANNOTATIONS_FILE).is_file():
        return (asked,)
    return (asked, SourceConfig("part_referring", path), SourceConfig("part_vqa", path))


def _held_out_source(held_out: Path) -> SourceConfig:
    """Return the phrases that are validated: the names of all parts, or else those of the answers."""
    if is_answer_file(held_out):
        return SourceConfig(OWN_ANSWERS, str(held_out))
    has_annotations = (held_out / ANNOTATIONS_FILE).is_file()
    return SourceConfig("part_referring" if has_annotations else "explanatory", str(held_out))


def _divisible(images: int, num_ranks: int) -> int:
    """Return the images of an update that so many ranks can share: rounded up."""
    return math.ceil(images / num_ranks) * num_ranks


def _with_micro_batches(config: TrainConfig, per_update: int, machine: Machine) -> tuple[TrainConfig, str]:
    """Cut updates into the largest micro-batches that divide them and whose estimated peak fits the GPU.

    Raises:
        ValueError: not even one image fits.
    """
    per_rank = per_update // machine.num_ranks
    peak = 0
    for size in (one for one in MICRO_BATCH_SIZES if per_rank % one == 0):
        engine = replace(config.engine, micro_batch_size=size, accumulation=per_rank // size)
        cut = replace(config, engine=engine)
        note = f"{size} images a process x {engine.accumulation} accumulated"
        if machine.gpu_bytes is None:
            return cut, note
        peak = estimate_memory(cut, machine.num_ranks).peak
        if peak <= USABLE_SHARE * machine.gpu_bytes:
            return cut, f"{note}, estimated peak {peak / 1e9:.1f} of {machine.gpu_bytes / 1e9:.0f} GB per GPU"
    raise ValueError(
        f"the model needs an estimated {peak / 1e9:.1f} GB per GPU with one image at a time, and the smallest GPU has "
        f"{(machine.gpu_bytes or 0) / 1e9:.0f} GB: use more or larger GPUs, or train a smaller model"
    )
