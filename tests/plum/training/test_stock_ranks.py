"""Qwen3-VL with SAM 2 from adoption to scores on ranks that change, with DeepSpeed and without: the same losses."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from partonomy.models.contract import Role, Turn
from partonomy.models.processors import load_processor
from plum.checkpoints.store import load_pretrained
from plum.cli.main import main
from plum.inference.predictor import Predictor
from plum.train_config import TrainConfig
from plum.training.run import train
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.plum.stock_world import write_sam2
from tests.plum.training.launching import train_forked
from tests.plum.training.test_ddp import _stop_at_2
from tests.plum.training.test_stock_backbones import run
from tests.plum.training.training_world import with_engine, write_inputs
from validate_partonomy import main as validate

Kind = Literal["deepspeed", "ddp"]
ASKED = (Turn(Role.USER, "What visible parts does it have?"),)
PHOTO = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
ROUNDING = 1e-4
"""Relative, of a loss: ranks add their gradients in another order, in float32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock_ranks")
    write_inputs(folder)
    ARCHITECTURES["qwen3_vl"](folder / "stock")
    write_sam2(folder / "sam2")
    command = ["adopt", str(folder / "stock"), str(folder / "base"), "--sam", str(folder / "sam2")]
    assert main(command) == 0
    return folder


def _on(folder: Path, name: str, kind: str, num_ranks: int) -> TrainConfig:
    """The run on ranks that have one image at a time, four an update."""
    return with_engine(run(folder, name), kind, 1, 4 // num_ranks)


def _losses(config: TrainConfig) -> list[float]:
    lines = (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss_total"] for line in lines]


@pytest.fixture(scope="module")
def plain(folder: Path) -> TrainConfig:
    config = _on(folder, "plain", "plain", 1)
    train(config)
    return config


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["deepspeed", "ddp"])
def test_ranks_come_and_go_and_the_result_is_scored(
    folder: Path, plain: TrainConfig, tmp_path: Path, kind: Kind
) -> None:
    two = _on(folder, f"{kind}_two", kind, 2)
    train_forked(two, num_ranks=2)
    expected = _losses(plain)
    assert _losses(two) == pytest.approx(expected, rel=ROUNDING)
    one = with_engine(_stop_at_2(two, f"{kind}_one"), kind, 1, 4)
    model = train_forked(one, num_ranks=1)
    assert _losses(one)[:2] == _losses(two)[:2]
    assert _losses(one) == pytest.approx(expected, rel=ROUNDING)
    back = with_engine(_stop_at_2(one, f"{kind}_back"), kind, 1, 2)
    train_forked(back, num_ranks=2)
    assert _losses(back) == pytest.approx(expected, rel=ROUNDING)
    for number in (1, 2, 3):  # no two updates alike, so that a resumed run cannot have repeated or skipped one
        assert abs(expected[number] - expected[number - 1]) > 10 * ROUNDING * expected[number]
    _check_exports(Path(one.run_dir), model, tmp_path)
    scores = tmp_path / "scores"
    words = ["--model", "plum", "--checkpoint", str(tmp_path / "whole"), "--questions", str(folder / "world")]
    assert validate([*words, "--output", str(scores), "--max_new_tokens", "8"]) is not None
    groups = json.loads((scores / "summary.json").read_text())["groups"]
    assert sum(group["num_scored"] for group in groups.values()) > 0
    assert sum(group["num_failed"] for group in groups.values()) == 0


@torch.inference_mode()
def _check_exports(run_folder: Path, model: Path, out: Path) -> None:
    """The stock form has the model's logits in transformers' own class; the other two are the model."""
    for name, flags in (("stock", ["--stock"]), ("adapters", ["--adapters_only"]), ("whole", [])):
        assert main(["export", str(run_folder), str(out / name), *flags]) == 0
    predictor = _open(model)
    row = predictor.answers.given(predictor.slots((PHOTO,)), ASKED, "It has a wing.", "given")
    stock = AutoModelForImageTextToText.from_pretrained(out / "stock").eval()
    inputs = load_processor(out / "stock")(
        text=[row.rendered.text], images=[[Image.fromarray(PHOTO)]], return_tensors="pt", add_special_tokens=False
    )
    assert inputs["input_ids"][0].tolist() == list(row.encoded.input_ids)
    expected = stock(**inputs).logits
    untrained = AutoModelForImageTextToText.from_pretrained(run_folder.parent / "stock").eval()(**inputs).logits
    assert float((expected - untrained).abs().max()) > 1e-2, "the adapters have learnt"
    for name in (model, out / "adapters", out / "whole"):
        one = _open(name)
        own = one.model.token_logits(one._hidden_states((PHOTO,), [row]))
        is_text = torch.isfinite(own)
        torch.testing.assert_close(own[is_text], expected[is_text], atol=1e-4, rtol=0)


def _open(folder: Path) -> Predictor:
    loaded = load_pretrained(folder)
    return Predictor(loaded.model, loaded.tokenizer, loaded.config)
