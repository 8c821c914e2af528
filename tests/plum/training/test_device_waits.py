"""How often the host waits for a GPU in a micro-batch, on a pretended one: 6 images x 3 conversations x 4 phrases."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from partonomy.masks import encode_mask
from partonomy.structures import CharSpan
from plum.config import LoraConfig, ModelConfig
from plum.data.build import build_mixture
from plum.data.collate import Collator
from plum.data.loader import load_batches
from plum.data.packed_batch import PackingCollator, unpack_batch
from plum.data.sam_feature_cache import SamFeatureCache, SamPreprocessing
from plum.inputs.image_transforms import segmenter_input
from plum.models.batch_plan import student_layout
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_calico_config, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import Batch, Exchange, LossTerms, Sample
from plum.train_config import DataConfig, EngineConfig, LossConfig, OptimizerConfig, SourceConfig, TrainableConfig
from plum.training import engine as engine_module
from plum.training.engine import PlainEngine
from plum.training.objective import Objective, StepResult
from plum.training.part_pretext import PartPretext
from plum.training.ranks import Ranks
from plum.training.skipped_updates import SkippedUpdates
from plum.training.tracking import RunningTerms
from plum.training.trainer import Trainer
from tests.plum.data.part_world import write_world
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.models.systems.sisters_world import seg_tokenizer, sister_config
from tests.plum.models.test_several_images import TOKENIZER
from tests.plum.pretended_device import DEVICE, HeldTensor, pretended_device

PHRASES = ("wheel", "wing", "tail", "propeller")
ANSWER = "It has a wheel, a wing, a tail and a propeller."
DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))


def _sample(number: int, size: tuple[int, int]) -> Sample:
    generator = np.random.default_rng(number)
    spans = tuple(CharSpan(ANSWER.index(phrase), ANSWER.index(phrase) + len(phrase)) for phrase in PHRASES)
    masks = tuple(encode_mask(generator.random(size) < 0.3) for _ in spans)
    conversations = tuple((Exchange(f"What parts of {number}, {turn}?", ANSWER, spans, masks),) for turn in range(3))
    image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    return Sample(f"s{number}", "test", image, conversations)


def _world(system: str) -> tuple[Objective, Collator]:
    torch.manual_seed(0)
    if system.startswith("plum"):
        tokenizer = byte_level()
        sizes, losses = tiny_model_config(len(tokenizer), lora=LoraConfig(rank=2)), LossConfig()
        trainable = TrainableConfig()
        if system != "plum":
            trainable = replace(trainable, vision_tower=True, projector=True, sam_image_encoder=True)
    else:
        tokenizer, sizes = seg_tokenizer(), sister_config(system)  # type: ignore[arg-type]
        losses, trainable = LossConfig(bio=0.0, kl=0.0, overlap="dice"), TrainableConfig(embeddings=True)
    sizes = with_special_tokens(sizes, tokenizer)
    model = build_model(sizes)
    set_trainable(model, trainable)
    return Objective(model, losses), Collator(tokenizer, sizes, DATA)


def _run(
    objective: Objective, batches: Iterator[Batch], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[StepResult, RunningTerms]]:
    """Train on batches as the trainer does; the update comes after the last one."""
    optimizer = lambda parameters, _: torch.optim.AdamW([*parameters], lr=1e-3)  # noqa: E731  fused: real devices alone
    monkeypatch.setattr(engine_module, "build_optimizer", optimizer)
    config = EngineConfig(kind="plain", precision="fp32", micro_batch_size=6, accumulation=100)
    ranks = Ranks(0, 1, device)
    trainer = Trainer.__new__(Trainer)
    trainer.engine = PlainEngine(objective, config, OptimizerConfig(), 10, ranks)
    trainer.config = SimpleNamespace(seed=1, part_pretext=None, engine=config)  # type: ignore[assignment]
    trainer.skipped = SkippedUpdates(5, ranks)
    terms = RunningTerms()
    for number, batch in enumerate(batches):
        result = trainer.run_micro_batch(number, batch)
        terms.add(result, 1)
        yield result, terms


@pytest.mark.parametrize("system", ["plum", "plum, all trained", "lisa", "m2sa"])
def test_a_micro_batch_waits_for_nothing_but_its_batch(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(24, 32)] * 5 + [(40, 20)]
    samples = [_sample(number, size) for number, size in enumerate(sizes)]
    objective, collator = _world(system)
    packing = PackingCollator(collator.sending_bytes())
    with pretended_device() as waits:

        def load() -> Iterator[Batch]:
            for number in range(2):
                packed = packing(samples)
                waits.is_counting = number == 1  # the first micro-batch also fills what is kept on the device
                yield collator.transform.normalise(unpack_batch(packed.to(DEVICE)))

        for result, _ in _run(objective, load(), DEVICE, monkeypatch):
            assert isinstance(result.total.detach(), HeldTensor)
        waits.is_counting = False
    found = [f"{count} x {what}" for what, count in waits.found.most_common()]
    assert len(found) == 1, "\n".join(found)
    assert found[0].startswith("1 x copy to the device at data/packed_batch.py"), found


PARTS = {"crf": 22, "cross-attention": 2, "calico": 6, "pretext": 2, "cache": 1}
"""Waits of a micro-batch of six images with parts that are less usual, its one copy included."""


def _world_of(part: str, folder: Path) -> tuple[Objective, Collator]:
    torch.manual_seed(0)
    if part == "calico":
        tokenizer = TOKENIZER
        config = with_special_tokens(tiny_calico_config(len(tokenizer), lora=LoraConfig(rank=2)), tokenizer)
        losses = LossConfig(bio=0.0, kl=0.0, overlap="dice")
    else:
        tokenizer, losses = byte_level(), LossConfig()
        config = with_special_tokens(tiny_model_config(len(tokenizer), lora=LoraConfig(rank=2)), tokenizer)
        assert config.tagger is not None
        crf, crossing = part == "crf", part == "cross-attention"
        config = replace(config, tagger=replace(config.tagger, use_crf=crf, use_cross_attention=crossing))
    model = build_model(config)
    trainable = TrainableConfig()
    set_trainable(model, trainable)
    pretext, cache = None, None
    if part == "pretext":
        pretext = PartPretext(model.prompt_dim, config.language.hidden_size, (9, 4, 3))
    if part == "cache":
        cache = SamFeatureCache(
            folder, "weights", SamPreprocessing.of_input(segmenter_input(config.sam), torch.float32)
        )
    collator = Collator(tokenizer, config, DATA, cache)
    return Objective(model, losses, pretext, sam_features=cache), collator


@pytest.mark.parametrize("part", PARTS)
def test_waits_of_other_parts_are_bounded(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, collator = _world_of(part, tmp_path)
    maps = np.random.default_rng(0).integers(0, 3, (6, 24, 24))
    samples = [_sample(number, (24, 24)) for number in range(6)]
    if part == "pretext":
        samples = [replace(sample, part_map=one) for sample, one in zip(samples, maps, strict=True)]
    packing = PackingCollator(collator.sending_bytes())
    with pretended_device() as waits:

        def load() -> Iterator[Batch]:
            for number in range(2):
                packed = packing(samples)
                waits.is_counting = number == 1
                yield collator.transform.normalise(unpack_batch(packed.to(DEVICE)))

        for result, _ in _run(objective, load(), DEVICE, monkeypatch):
            assert isinstance(result.total.detach(), HeldTensor)
        waits.is_counting = False
    found = "\n".join(f"{count} x {what}" for what, count in waits.found.most_common())
    assert waits.found.total() <= PARTS[part], found


@pytest.mark.parametrize(("loss", "is_spoilt"), [(float("inf"), True), (float("nan"), True), (2.0, False)])
def test_a_loss_that_is_not_finite_spoils_its_gradients(loss: float, is_spoilt: bool) -> None:
    """An infinite loss may have finite gradients: those of x + inf are 1."""
    weight, given = torch.ones((), requires_grad=True), []
    terms = LossTerms(*torch.zeros(4))
    result = StepResult(weight * 3 + loss, terms, None, *torch.zeros(2, 3))
    trainer = Trainer.__new__(Trainer)
    config = SimpleNamespace(micro_batch_size=6)
    trainer.engine = SimpleNamespace(  # type: ignore[assignment]
        ranks=Ranks(0, 1, torch.device("cpu")),
        num_updates_done=0,
        forward=lambda *_: result,
        backward=given.append,
        step=lambda: None,
    )
    trainer.config = SimpleNamespace(seed=1, part_pretext=None, engine=config)  # type: ignore[assignment]
    trainer.skipped = SkippedUpdates(5, trainer.engine.ranks)
    _, collator = _world("plum")
    trainer.run_micro_batch(0, collator([_sample(0, (24, 32))]))
    given[0].backward()
    assert weight.grad is not None
    assert bool(weight.grad.isnan()) == is_spoilt
    assert is_spoilt or weight.grad == 3


def test_the_loader_sends_what_it_would_yield(tmp_path: Path) -> None:
    write_world(tmp_path)
    data = DataConfig(tuple(SourceConfig(kind, str(tmp_path)) for kind in ("explanatory", "part_vqa")))
    tokenizer = byte_level()
    collator = Collator(tokenizer, with_special_tokens(tiny_model_config(len(tokenizer)), tokenizer), data)
    mixture = build_mixture(data, seed=3)

    def load(device: torch.device) -> Iterator[Batch]:
        return load_batches(
            mixture,
            collator,
            rank=0,
            world_size=1,
            micro_batch_size=4,
            start_micro_batch=0,
            num_workers=0,
            num_micro_batches=2,
            device=device,
        )

    on_host = list(load(torch.device("cpu")))
    with pretended_device():
        for expected, found in zip(on_host, load(DEVICE), strict=True):
            assert found.sample_ids == expected.sample_ids
            for name in ("input_ids", "labels", "clip_pixels", "sam_pixels"):
                held = getattr(found, name)
                assert isinstance(held, HeldTensor), name
                assert torch.equal(held.held, getattr(expected, name)), name
            assert student_layout(found) is not None, "the plan came along"


def test_on_the_pretended_device_losses_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [_sample(number, (24, 32)) for number in range(2)]
    objective, collator = _world("plum")
    steps = _run(objective, iter([collator(samples)] * 2), torch.device("cpu"), monkeypatch)
    on_host = [float(result.total.detach()) for result, _ in steps]
    objective, _ = _world("plum")
    packed = PackingCollator(collator.sending_bytes())(samples)
    with pretended_device():
        batch = collator.transform.normalise(unpack_batch(packed.to(DEVICE)))
        steps = _run(objective, iter([batch] * 2), DEVICE, monkeypatch)
        on_device = [float(result.total.detach()) for result, _ in steps]
    assert on_device == pytest.approx(on_host, rel=1e-6)  # a GPU sums more pixels at once than a CPU


def test_every_kind_of_wait_is_counted() -> None:
    values = torch.arange(4.0)
    with pretended_device() as waits:
        held = values.to(DEVICE)
        waits.is_counting = True
        kinds = (
            lambda: held.sum().item(),
            lambda: bool((held > 1).any()),
            held.tolist,
            held.cpu,
            held.nonzero,
            held.unique,
            lambda: held[held > 1],
            lambda: held.masked_select(held > 1),
            lambda: held[torch.tensor([0, 2])],
            lambda: torch.tensor([1.0, 2.0], device=DEVICE),
            lambda: values.to(DEVICE),
        )
        for number, kind in enumerate(kinds, start=1):
            kind()
            assert waits.found.total() == number, number
        functional.softmax(held * 2 + 1, 0)[1:].sum()
        assert waits.found.total() == len(kinds)


def _full_size(tokens: int) -> ModelConfig:
    sizes = tiny_model_config(tokens)
    vision = replace(sizes.llava.vision, image_size=336, patch_size=14)
    sam = replace(sizes.sam, image_size=1024, patch_size=16)
    return replace(sizes, sam=sam, llava=replace(sizes.llava, vision=vision))


def _full_size_samples() -> tuple[Collator, list[Sample]]:
    tokenizer = byte_level()
    collator = Collator(tokenizer, with_special_tokens(_full_size(len(tokenizer)), tokenizer), DATA)
    return collator, [_sample(number, (480, 640)) for number in range(6)]


def full_size_batch() -> Batch:
    """The batch of a micro-batch at full size, with images as bytes."""
    collator, samples = _full_size_samples()
    return collator.sending_bytes()(samples)


def test_a_batch_is_one_copy_of_half_the_bytes() -> None:
    collator, samples = _full_size_samples()
    plain, packed = collator(samples), PackingCollator(collator.sending_bytes())(samples)
    with pretended_device() as waits:
        collator.transform.normalise(unpack_batch(packed.to(DEVICE)))  # fills what is kept on the device
        waits.is_counting = True
        plain.to(DEVICE)
        copies_before, bytes_before = waits.found.total(), waits.bytes
        waits.found.clear()
        waits.bytes = 0
        moved = collator.transform.normalise(unpack_batch(packed.to(DEVICE)))
    assert copies_before > 90
    assert waits.found.total() == 1
    assert waits.bytes < bytes_before / 2
    for name in ("clip_pixels", "sam_pixels", "input_ids", "labels"):
        found: Tensor = getattr(moved, name)
        assert isinstance(found, HeldTensor)
        assert torch.equal(found.held, getattr(plain, name)), name
