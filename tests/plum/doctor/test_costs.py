"""Costs of the shipped configurations, counted from shapes, beside the MMR paper's Table 7."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plum.cli.main import main
from plum.config import SpecialTokensConfig
from plum.doctor.costs import count_costs, forward_flops
from plum.doctor.step_flops import decoder_flops
from plum.models.parameter_counts import parameters_by_component
from plum.models.systems.registry import build_model
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TOKENS = 1000


def load(*names: str) -> TrainConfig:
    return load_train_config([word for name in names for word in ("--config", str(CONFIGS / name))])


def flops(config: TrainConfig, num_tokens: int = TOKENS, num_masks: int = 1, fusion: int = 0) -> float:
    return forward_flops(config, fusion, num_tokens, num_masks)


def test_language_costs_two_flops_a_weight_and_token() -> None:
    """Weights of the model as it is built; attention needs the pairs of a token and one that it sees."""
    config = load("lisa_7b.yaml")
    tokens = SpecialTokensConfig(image=32000, pad=32001, eos=2)
    with torch.device("meta"):
        model = build_model(replace(config.model, llava=replace(config.model.llava, special_tokens=tokens)))
    matrices = sum(
        parameter.numel()
        for component, name, parameter in parameters_by_component(model)
        if component == "llava.language_model" and parameter.ndim == 2
    )
    head = 32064 * 4096
    pairs = TOKENS * (TOKENS + 1) / 2
    fewer = flops(config, 1)
    expected = 2 * (TOKENS - 1) * (matrices + head) + 4 * 4096 * 32 * (pairs - 1)
    assert flops(config) - fewer == pytest.approx(expected)
    # What is left are the towers: 304 and 637 million weights, which work once per patch.
    assert fewer == pytest.approx(6.1e12, rel=0.1)


def test_fusion_and_masks_and_feedback_cost_extra() -> None:
    m2sa, plum = load("m2sa_7b.yaml"), load("plum_7b_ft.yaml")
    one = flops(m2sa, fusion=3_539_968)
    assert one - flops(m2sa) == 2 * 3_539_968 * 64 * 64
    per_mask = flops(m2sa, num_masks=2) - flops(m2sa, num_masks=1)
    # Queries and image each once through two layers of attention: a few GFLOPs, a third of forward and backward.
    assert per_mask == pytest.approx(decoder_flops(m2sa.model.sam) / 3)
    assert flops(m2sa, num_masks=4) - flops(m2sa, num_masks=2) == pytest.approx(2 * per_mask)
    assert flops(plum, num_masks=2) - flops(plum, num_masks=1) > per_mask, "the second mask sees the first"
    assert flops(plum, num_masks=1) - flops(plum, num_masks=0) == pytest.approx(per_mask)
    assert plum.model.tagger is not None
    plain = replace(plum, model=replace(plum.model, tagger=None))
    without_block = replace(plum, model=replace(plum.model, tagger=replace(plum.model.tagger, context="none")))
    # MLP of two layers of 4096; the block's four projections and two layers of 2048.
    assert flops(without_block) - flops(plain) == pytest.approx(2 * TOKENS * 2 * 4096**2)
    assert flops(plum) - flops(without_block) == pytest.approx(2 * TOKENS * (4 * 4096**2 + 2 * 4096 * 2048))


def test_differences_are_those_that_the_paper_prints() -> None:
    """M2SA costs .02 to .03 GB and .03 TFLOPs more than LISA there, too; its memory is that of float32 weights."""
    for size, memory in (("7b", 30.60), ("13b", 55.23)):
        m2sa = count_costs(load(f"m2sa_{size}.yaml"), 4, 2048, 1)
        lisa = count_costs(load(f"m2sa_{size}.yaml", "overlays/mmr_lisa.yaml"), 4, 2048, 1)
        assert (m2sa.forward_flops - lisa.forward_flops) / 1e12 == pytest.approx(0.03, abs=0.005)
        assert (m2sa.weight_bytes - lisa.weight_bytes) / 1e9 == pytest.approx(0.02, abs=0.011)
        assert m2sa.weight_bytes / 1e9 == pytest.approx(memory, rel=0.05)


def test_command_prints_the_papers_rows_and_the_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    word = f"{CONFIGS / 'm2sa_7b.yaml'}+{CONFIGS / 'overlays' / 'mmr_lisa.yaml'}"
    assert main(["costs", word, str(CONFIGS / "plum_tiny_stage0.yaml"), "--tokens", "500"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.split()[-2:-1] == ["-"] for line in lines) >= 6, "the paper has no memory of training"
    (lisa,) = [line.split() for line in lines if line.startswith("m2sa_7b+mmr_lisa")]
    expected = count_costs(load("m2sa_7b.yaml", "overlays/mmr_lisa.yaml"), 4, 500, 1)
    assert expected.training_bytes is not None
    numbers = (expected.weight_bytes / 1e9, expected.training_bytes / 1e9, expected.forward_flops / 1e12)
    assert lisa[1:] == [f"{number:.2f}" for number in numbers]
    (tiny,) = [line.split() for line in lines if line.startswith("plum_tiny_stage0")]
    assert tiny[2] == "-", "no formula covers towers that are trained"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--gpus", "0"), "--gpus 0: at least 1"),
        (("--tokens", "2049"), "--tokens 2049: 1 to 2048"),
        (("--tokens", "0"), "--tokens 0: 1 to 2048"),
        (("--masks", "-1"), "--masks -1: at least 0"),
        (("nothing.yaml",), "nothing.yaml: no such configuration"),
    ],
)
def test_wrong_settings_are_one_line(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str) -> None:
    assert main(["costs", str(CONFIGS / "m2sa_7b.yaml"), *flags]) == 1
    assert f"error: {message}" in capsys.readouterr().err
