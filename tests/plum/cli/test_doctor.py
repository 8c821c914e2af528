"""`python -m plum doctor` as it is called."""

from pathlib import Path

import pytest
import torch
import yaml

from plum.checkpoints.store import save_pretrained
from plum.cli.main import main
from plum.config import LoraConfig
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from tests.plum.data.part_world import write_world
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.doctor.runs import CONFIGS

MODEL = """
model:
  llava:
    vision: {image_size: 16, patch_size: 8, hidden_size: 24, intermediate_size: 48, num_layers: 2, num_heads: 2}
    language: {vocab_size: VOCAB, hidden_size: 32, intermediate_size: 64, num_layers: 2, num_heads: 4, num_key_value_heads: 4, max_positions: 512}
    conversation: plain
  sam: {image_size: 32, patch_size: 8, encoder_dim: 32, encoder_depth: 2, encoder_heads: 2, encoder_global_blocks: [1], encoder_window_size: 3, prompt_dim: 16, decoder_heads: 2, decoder_mlp_dim: 32, position_init: sincos}
  tagger: {num_heads: 4, feedforward_dim: 64}
  feedback: {num_heads: 4}
  lora: {rank: 2}
"""  # noqa: E501


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run whose data and weights are there."""
    write_world(tmp_path / "world")
    tokenizer = byte_level()
    torch.manual_seed(0)
    sizes = tiny_model_config(len(tokenizer), lora=LoraConfig(rank=2))
    save_pretrained(build_model(with_special_tokens(sizes, tokenizer)), tokenizer, tmp_path / "base", "")
    content = yaml.safe_load(MODEL.replace("VOCAB", str(len(tokenizer))))
    content |= {
        "run_dir": str(tmp_path / "run"),
        "init_from": str(tmp_path / "base"),
        "data": {"sources": [{"kind": "explanatory", "path": str(tmp_path / "world")}]},
        "engine": {"kind": "plain", "precision": "fp32"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def doctor(config: Path, *words: str) -> int:
    cache = str(config.parent / "hashes.json")
    return main(["doctor", "--config", str(config), "--hash-cache", cache, *words])


def test_a_complete_run_passes_and_remembers_its_answer(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = str(config.parent / "answers.json")
    assert doctor(config, "--answers", answers) == 0
    assert "unknown weights  -> --record_answer records this one" in capsys.readouterr().out
    assert doctor(config, "--answers", answers, "--record-answer") == 0
    assert doctor(config, "--answers", answers) == 0
    printed = capsys.readouterr().out
    assert "known answer                 pass" in printed
    assert "Nothing required is missing." in printed
    assert "Memory of each of 1 GPUs" in printed
    text = Path(answers).read_text()
    Path(answers).write_text(text.replace('"text": "', '"text": "never '))
    assert doctor(config, "--answers", answers) == 1


def test_what_is_missing_ends_with_an_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(config, "--set", f"init_from={config.parent / 'absent'}") == 1
    captured = capsys.readouterr()
    assert "absent does not exist  -> python -m plum convert-llava" in captured.out
    assert "error: 1 required items are missing or wrong: init_from" in captured.err


def test_full_size_runs_are_examined_without_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cache = str(tmp_path / "hashes.json")
    arguments = ["--config", str(CONFIGS / "plum_13b_0shot.yaml"), "--gpus", "8", "--zero-stage", "1"]
    assert main(["doctor", *arguments, "--hash-cache", cache]) == 1
    printed = capsys.readouterr().out
    assert "Memory of each of 8 GPUs" in printed
    assert "ZeRO-1" in printed
    assert "weights/plum_13b_base does not exist" in printed


def test_settings_need_a_value(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(config, "--set", "engine.micro_batch_size") == 1
    assert "write KEY=VALUE" in capsys.readouterr().err
    assert doctor(config, "--gpus", "0") == 1
