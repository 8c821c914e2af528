"""The estimate of the shipped configurations, and the README's table of it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from plum.cli.main import main
from plum.config import LoraConfig
from plum.doctor.memory import CONTEXT_BYTES, describe_estimate, estimate_memory
from plum.doctor.workload import Assumptions
from plum.models.tiny import TINY_TOKENS, tiny_model_config
from plum.train_config import EngineConfig, TrainableConfig
from tests.plum.doctor.runs import CONFIGS, shipped, tiny_run

README = Path(__file__).parents[3] / "README.md"


def test_the_readmes_table_is_what_doctor_computes(capsys: pytest.CaptureFixture[str]) -> None:
    configs = [str(CONFIGS / f"{name}.yaml") for name in ("plum_7b_0shot", "plum_13b_0shot")]
    assert main(["doctor", "--table", *configs, "--gpus", "1", "4", "8"]) == 0
    table = capsys.readouterr().out.strip()
    assert len(table.splitlines()) == 8
    text = README.read_text(encoding="utf-8")
    found = re.search(r"<!-- memory table -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert found is not None
    assert found[1].strip() == table, "run the command above the README's memory table and paste what it prints"
    before = text[: found.start()].rsplit("\n#", 1)[1]
    assert "estimate" in before
    assert "not measured" in before


def test_micro_batch_of_the_13b_configuration() -> None:
    estimate = estimate_memory(shipped("plum_13b_0shot"), 8)
    work = estimate.workload
    # 6 images x 3 conversations of 256 patches and 512 tokens.
    assert (work.images, work.conversations, work.tokens, work.masks) == (6, 18, 768, 72)
    # The inputs of 40 layers: per image 256 patches once and 3 x 512 tokens, 5120 numbers of 2 bytes each.
    assert estimate.activations.layers == 40 * 6 * (256 + 3 * 512) * 5120 * 2
    assert estimate.peak == (estimate.static.resident + estimate.busiest.num_bytes + estimate.allowance)
    assert estimate.allowance > CONTEXT_BYTES


def test_what_saves_memory_does() -> None:
    config = shipped("plum_7b_0shot")
    peak = estimate_memory(config, 4).peak
    engine = config.engine
    changes = {
        "more GPUs": estimate_memory(config, 8).peak,
        "smaller batch": estimate_memory(replace(config, engine=replace(engine, micro_batch_size=2)), 4).peak,
        "shorter texts": estimate_memory(config, 4, Assumptions(text_tokens=128)).peak,
        "packed base": estimate_memory(replace(config, engine=replace(engine, base_quantization="nf4")), 4).peak,
    }
    assert all(number < peak for number in changes.values()), changes
    whole = replace(config, engine=replace(engine, gradient_checkpointing=False))
    assert estimate_memory(whole, 4).activations.layers > 10 * estimate_memory(config, 4).activations.layers


def test_no_span_costs_no_mask() -> None:
    estimate = estimate_memory(tiny_run(tiny_model_config(40, TINY_TOKENS, LoraConfig(rank=2))), 1, Assumptions(
        spans_per_conversation=0
    ))  # fmt: skip
    assert estimate.activations.masks == estimate.activations.mask_losses == 0
    assert estimate.activations.tagger > 0


def test_trained_towers_are_refused() -> None:
    config = replace(
        tiny_run(tiny_model_config(40, TINY_TOKENS), EngineConfig()),
        trainable=TrainableConfig(language_model="full", vision_tower=True),
    )
    with pytest.raises(ValueError, match="memory is estimated for frozen vision towers"):
        estimate_memory(config, 1)


def test_every_part_is_printed() -> None:
    config = shipped("plum_13b_ft")
    estimate = estimate_memory(config, 4)
    text = describe_estimate(config, estimate)
    for component in estimate.static.components:
        assert re.search(rf"{re.escape(component.component)} +{component.num_parameters:,} ", text), component
    assert "an estimate that no GPU has confirmed" in text
    assert all(phase.name in text for phase in estimate.phases)
