"""The engines against each other: accumulation, DeepSpeed on one rank, two real ranks under ZeRO-2."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from partonomy.masks import encode_mask
from partonomy.structures import CharSpan
from plum.config import TaggerConfig
from plum.data.collate import Collator
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import Batch, Exchange, Sample
from plum.train_config import OptimizerConfig, TrainConfig
from plum.training.engine import PlainEngine, deepspeed_settings
from plum.training.objective import Objective
from plum.training.ranks import Ranks
from plum.training.run import train
from tests.plum.data.part_world import box_mask
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_image
from tests.plum.training.launching import fork_ranks, train_forked
from tests.plum.training.training_world import FULL, largest_difference, make_config, with_engine, write_inputs

CPU = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    write_inputs(folder)
    return folder


def _samples(count: int) -> list[Sample]:
    """Different images and masks under one text, so that every cut into micro-batches averages over equal counts."""
    samples = []
    for number in range(count):
        masks = tuple(encode_mask(box_mask(2 + number, 3 * part, 8, 7)) for part in range(2))
        answer = "It has a wheel and a propeller."
        exchange = Exchange("What parts?", answer, (CharSpan(9, 14), CharSpan(21, 30)), masks)
        samples.append(Sample(f"s{number}", "test", make_image(number, 24, 32), ((exchange,),)))
    return samples


def _engine(config: TrainConfig) -> tuple[PlainEngine, Collator]:
    torch.manual_seed(0)
    tokenizer = byte_level()
    sizes = tiny_model_config(len(tokenizer), tagger=TaggerConfig(num_heads=4, feedforward_dim=64, dropout=0.0))
    model = build_model(with_special_tokens(sizes, tokenizer))
    set_trainable(model, FULL)
    objective = Objective(model, config.losses)
    engine = PlainEngine(objective, config.engine, config.optimizer, num_updates=10, ranks=CPU)
    return engine, Collator(tokenizer, sizes, config.data)


def test_8x1_equals_2x4_accumulation(folder: Path) -> None:
    base = make_config(folder, "unused")
    weights, losses = [], []
    for micro_batch_size, accumulation in ((8, 1), (2, 4)):
        engine, collate = _engine(with_engine(base, "plain", micro_batch_size, accumulation))
        start = torch.cat([p.detach().flatten().clone() for p in engine.objective.parameters()])
        samples, total = _samples(8), 0.0
        for first in range(0, 8, micro_batch_size):
            result = engine.forward(collate(samples[first : first + micro_batch_size]))
            total += float(result.total.detach()) / accumulation
            engine.backward(result.total)
            assert engine.num_updates_done == 0
            engine.step()
        assert engine.num_updates_done == 1
        weights.append(torch.cat([p.detach().flatten() for p in engine.objective.parameters()]))
        losses.append(total)
        assert float((weights[-1] - start).abs().max()) > 1e-4
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    # AdamW's first update is a sign: near-zero gradients may flip by rounding, so compare where it counts.
    difference = (weights[0] - weights[1]).abs()
    assert float((difference < 1e-6).float().mean()) > 0.99


def test_gradients_are_clipped_by_the_engine(folder: Path) -> None:
    base = make_config(folder, "unused")
    config = replace(base, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_updates=1, gradient_clip=1e-3))
    engine, collate = _engine(with_engine(config, "plain", 2, 1))
    norms = []
    step = engine._optimizer.step

    def record() -> None:
        grads = [p.grad for p in engine.objective.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(grads)))
        step()

    engine._optimizer.step = record  # type: ignore[method-assign]
    engine.backward(engine.forward(collate(_samples(2))).total)
    engine.step()
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def _weights(engine: PlainEngine) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in engine.objective.parameters()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_without_a_finite_gradient_is_skipped_and_counts(folder: Path, value: float) -> None:
    engine, collate = _engine(with_engine(make_config(folder, "unused"), "plain", 2, 2))
    clean = collate(_samples(2))
    poisoned = replace(clean, clip_pixels=torch.full_like(clean.clip_pixels, value))
    start, first_rate = _weights(engine), engine.learning_rate
    for batch in (clean, poisoned):  # one micro-batch of two is enough to spoil the update
        engine.backward(engine.forward(batch).total)
        engine.step()
    assert engine.was_skipped
    assert torch.equal(_weights(engine), start)
    assert engine.num_updates_done == 1
    assert engine.learning_rate == 2 * first_rate, "warm-up of 2 updates: the schedule goes by the update's number"
    for _ in range(2):
        engine.backward(engine.forward(clean).total)
        engine.step()
    assert not engine.was_skipped
    assert torch.isfinite(_weights(engine)).all()
    assert float((_weights(engine) - start).abs().max()) > 1e-4


@pytest.mark.distributed
def test_two_ranks_skip_together_and_name_the_samples(tmp_path: Path) -> None:
    program = str(Path(__file__).with_name("poisoned_batches.py"))
    printed = fork_ranks(program, [], num_ranks=2, output=tmp_path / "printed.txt")
    for setting in ("fp32, ZeRO-1", "fp32, ZeRO-2", "bf16, ZeRO-1", "bf16, ZeRO-2", "fp32, ddp", "bf16, ddp"):
        assert printed.count(f"skipped together in {setting}") == 1


def test_plain_engine_refuses_bf16_and_several_ranks(folder: Path) -> None:
    config = make_config(folder, "unused")
    objective = _engine(config)[0].objective
    with pytest.raises(ValueError, match=r"engine\.precision"):
        PlainEngine(objective, replace(config.engine, precision="bf16"), config.optimizer, 1, CPU)
    with pytest.raises(ValueError, match=r"engine\.kind"):
        PlainEngine(objective, config.engine, config.optimizer, 1, Ranks(0, 2, torch.device("cpu")))


def test_plain_run_under_a_launcher_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"engine\.kind: plain runs one process, not 2"):
        train(make_config(folder, "launched_plain"))
    assert not (folder / "launched_plain").exists()


def test_deepspeed_owns_accumulation_and_clipping(folder: Path) -> None:
    config = with_engine(make_config(folder, "unused"), "deepspeed", 6, 10)
    settings = deepspeed_settings(config.engine, OptimizerConfig(), num_trained=1000)
    assert settings["zero_optimization"]["reduce_bucket_size"] == 1000  # type: ignore[index]
    large = deepspeed_settings(config.engine, OptimizerConfig(), num_trained=10**9)
    assert large["zero_optimization"]["reduce_bucket_size"] == config.engine.reduce_bucket_size  # type: ignore[index]
    assert settings["gradient_accumulation_steps"] == 10
    assert settings["gradient_clipping"] == 1.0
    assert settings["zero_optimization"]["stage"] == 2  # type: ignore[index]
    assert settings["zero_optimization"]["overlap_comm"] is False  # type: ignore[index]
    assert settings["train_micro_batch_size_per_gpu"] == 6


def _without_dropout(config: TrainConfig) -> TrainConfig:
    tagger = replace(config.model.tagger, dropout=0.0)
    return replace(config, model=replace(config.model, tagger=tagger))


@pytest.mark.distributed
def test_deepspeed_on_one_rank_equals_the_plain_engine(folder: Path) -> None:
    plain = _without_dropout(make_config(folder, "plain_twin"))
    train(plain)
    other = replace(with_engine(plain, "deepspeed", 2, 2), run_dir=str(folder / "deepspeed_twin"))
    model = train_forked(other, num_ranks=1)
    assert largest_difference(Path(plain.run_dir) / "model", model) < 1e-5


@pytest.mark.distributed
def test_two_zero2_ranks_resume_exactly(folder: Path) -> None:
    """A resumed two-rank run repeats the uninterrupted one to the bit."""
    base = _without_dropout(make_config(folder, "unused"))
    whole = replace(with_engine(base, "deepspeed", 1, 2), run_dir=str(folder / "two_ranks"))
    model = train_forked(whole, num_ranks=2)
    complete = sorted(p.name for p in (Path(whole.run_dir) / "checkpoints").iterdir() if p.is_dir())
    assert complete == ["update_000002", "update_000004"]
    resumed = replace(whole, run_dir=str(folder / "two_ranks_resumed"))
    root = Path(shutil.copytree(whole.run_dir, resumed.run_dir))
    for name in ("finished.json", "metrics.jsonl", "config.yaml"):  # the last names the other folder
        (root / name).unlink()
    for folder_after in ("model", "checkpoints/update_000004"):
        shutil.rmtree(root / folder_after)
    assert largest_difference(model, train_forked(resumed, num_ranks=2)) == 0.0
    assert len((Path(resumed.run_dir) / "metrics.jsonl").read_text().splitlines()) == 2


def text_only() -> Sample:
    """A conversation without an image."""
    return Sample("text", "test", None, ((Exchange("Hello?", "It is a wheel.", is_tagged=False),),))


def no_spans() -> Sample:
    """An image with an untagged answer."""
    return Sample("vqa", "test", make_image(1, 24, 32), ((Exchange("What is it?", "It is a biplane."),),))


def collate_mixed(collator: Collator, step: int, rank: int) -> Batch:
    """Batches that differ between the ranks in everything a forward could branch on."""
    kinds = ([text_only()], [no_spans()], _samples(3), [text_only(), *_samples(1)])
    return collator(kinds[(step + 2 * rank) % len(kinds)])
