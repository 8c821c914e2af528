"""Stock models from adoption to answers: adopt, train, resume, save light and whole, load, ask; with SAM and SAM 2."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText

from partonomy.models.contract import ChoiceRequest, Role, Turn
from partonomy.models.processors import load_processor
from partonomy.structures import QuestionType
from plum.checkpoints.adopt import adopt
from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.stock_folder import STOCK_FILE, list_stock_tensors, read_stock_checkpoint
from plum.checkpoints.store import load_pretrained, saved_tensors
from plum.checkpoints.weights import list_tensors
from plum.cli.main import main
from plum.config import HfBackboneConfig, LoraConfig, ModelConfig
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from plum.train_config import TrainableConfig, TrainConfig
from plum.training.run import build_or_load, train
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.partonomy.conftest import write_questions
from tests.plum.stock_world import write_sam, write_sam2
from tests.plum.training.test_run import _train_to_the_sixth_micro_batch
from tests.plum.training.training_world import largest_difference, make_config, moved, write_inputs

ASKED = (Turn(Role.USER, "What visible parts does it have?"),)


@pytest.fixture(scope="module", params=[("qwen3_vl", "sam2"), ("smolvlm", "sam"), ("internvl", "sam2")])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, an adopted base, and a run of four updates from it with a checkpoint after two."""
    family, segmenter = request.param
    folder = tmp_path_factory.mktemp(family)
    write_inputs(folder)
    ARCHITECTURES[family](folder / "stock")
    sam = write_sam(folder / "sam.pth") if segmenter == "sam" else write_sam2(folder / "sam2")
    assert main(["adopt", str(folder / "stock"), str(folder / "base"), "--sam", str(sam)]) == 0
    train(run(folder, "run"))
    return folder


def run(folder: Path, name: str, **changes: object) -> TrainConfig:
    config = make_config(folder, name)
    sam = read_model_config(folder / "base").sam
    model = ModelConfig(hf=HfBackboneConfig(), sam=sam, tagger=config.model.tagger, lora=LoraConfig(rank=2))
    model = replace(model, feedback=config.model.feedback)
    config = replace(
        config,
        model=model,
        tokenizer=None,
        init_from=str(folder / "base"),
        save_model="trained",
        losses=replace(config.losses, kl=0.1),
        trainable=TrainableConfig(language_model="lora", sam_mask_decoder=True),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def test_a_base_holds_no_copy_of_the_stock_weights(folder: Path) -> None:
    base = folder / "base"
    own = list_tensors(base, "model")
    assert own
    assert all(name.startswith("sam.") for name in own)
    stock = read_stock_checkpoint(folder / "stock")
    listed = list_stock_tensors(folder / "stock", stock.config)
    assert saved_tensors(base).keys() == own.keys() | listed.keys()
    assert {saved.file.parent for saved in listed.values()} == {folder / "stock"}


def test_a_run_learns_and_saves_what_it_trained(folder: Path) -> None:
    model = folder / "run" / "model"
    trained = list_tensors(model, "trained")
    assert any(".lora_B." in name for name in trained)
    assert not any(name.endswith("embed_tokens.weight") for name in trained)
    config = replace(run(folder, "fresh"), run_dir=str(folder / "fresh"))
    _, fresh = build_or_load(config)
    assert moved({name: tensor.clone() for name, tensor in fresh.state_dict().items()}, model) > 1e-4
    log = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(log) == 4
    assert all(np.isfinite(value) for entry in log for value in entry.values() if isinstance(value, float))


def test_a_stopped_run_goes_on_to_the_same_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run(folder, "interrupted")
    _train_to_the_sixth_micro_batch(config, monkeypatch)
    train(config)
    assert largest_difference(folder / "run" / "model", folder / "interrupted" / "model") == 0.0


def test_a_saved_model_answers_and_scores_in_all_ways_alike(folder: Path) -> None:
    loaded = load_pretrained(folder / "run" / "model")
    predictor = Predictor(loaded.model, loaded.tokenizer, loaded.config)
    photo = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    prediction = predictor.generate(photo, ASKED, 12)
    assert prediction.masks.shape[1:] == (30, 44)
    given = predictor.segment(photo, ASKED, "It has a wing.", [])
    assert len(given.masks) == 0
    choices = ("It has a wing.", "No.")
    batch = QuestionBatch(predictor, [predictor.images.read(photo)])
    (together,) = batch.score_choices([ChoiceRequest(0, ASKED, choices, ((), ()))])
    alone = predictor.score_choices(photo, ASKED, choices)
    for one, other in zip(together, alone, strict=True):
        assert one.answer_log_prob == pytest.approx(other.answer_log_prob, abs=1e-4)


def test_a_yaml_needs_nothing_of_the_stock_model(folder: Path, tmp_path: Path) -> None:
    from plum.training.config_file import load_train_config

    settings = {
        "run_dir": str(tmp_path / "run"),
        "init_from": str(folder / "base"),
        "num_updates": 1,
        "model": {"hf": {}, "sam": json.loads((folder / "base" / "config.json").read_text())["sam"]},
        "data": {"sources": [{"kind": "explanatory", "path": str(folder / "world")}]},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    config = load_train_config(["--config", str(tmp_path / "run.yaml")])
    assert config.model.hf == HfBackboneConfig()
    _, model = build_or_load(config)
    assert model.config.hf == read_model_config(folder / "base").hf
    other = replace(config, model=replace(config.model, hf=HfBackboneConfig(stock={"text_config": {"hidden_size": 7}})))
    with pytest.raises(ValueError, match=r"model\.hf\.stock\.text_config\.hidden_size of this run and of .* differ"):
        build_or_load(other)


def test_a_moved_or_changed_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    ARCHITECTURES["qwen2_5_vl"](tmp_path / "stock")
    adopt(tmp_path / "stock", write_sam(tmp_path / "sam.pth"), tmp_path / "base")
    weights = tmp_path / "stock" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="whose weights have changed since; adopt it again"):
        saved_tensors(tmp_path / "base")
    (tmp_path / "stock").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"no longer exists: restore it.*{STOCK_FILE}"):
        saved_tensors(tmp_path / "base")


def test_what_cannot_be_adopted_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sam = write_sam(tmp_path / "sam.pth")
    ARCHITECTURES["qwen3_vl"](tmp_path / "stock")
    text = (tmp_path / "stock" / "config.json").read_text()

    def refused(change: str, match: str) -> None:
        (tmp_path / "stock" / "config.json").write_text(change)
        assert main(["adopt", str(tmp_path / "stock"), str(tmp_path / "base"), "--sam", str(sam)]) == 1
        assert match in capsys.readouterr().err
        assert not (tmp_path / "base").exists()

    refused(text.replace('"model_type": "qwen3_vl"', '"model_type": "paligemma"', 1), "none of the families")
    refused("{", "is not JSON")
    settings = json.loads(text)
    settings["text_config"]["num_hidden_layers"] = 3
    refused(json.dumps(settings), "tensors are missing")
    settings["text_config"]["num_hidden_layers"] = 1
    refused(json.dumps(settings), "are unknown")
    settings = json.loads(text)
    settings["text_config"]["intermediate_size"] = 96
    refused(json.dumps(settings), "is (32, 64), the model needs (32, 96)")
    content = torch.load(sam, weights_only=True)
    content["extra.weight"] = torch.zeros(2)
    torch.save(content, sam)
    refused(text, "is not SAM's checkpoint: 1 tensors differ")


def test_doctor_examines_a_run_over_a_base_and_reads_its_sizes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sam = json.loads((folder / "base" / "config.json").read_text())["sam"]
    sources = [{"kind": "explanatory", "path": str(folder / "world")}]
    settings = {"run_dir": str(tmp_path / "run"), "model": {"hf": {}, "sam": sam}, "data": {"sources": sources}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**settings, "init_from": str(folder / "base")}))
    assert main(["doctor", "--config", str(tmp_path / "run.yaml"), "--hash_cache", str(tmp_path / "hashes")]) == 0
    printed = capsys.readouterr().out
    assert "this run's architecture" in printed
    own = read_model_config(folder / "base").hf
    assert own is not None
    assert f"  {own.model_type}.language_model " in printed
    assert "Memory of each of 1 GPUs: " in printed
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**settings, "init_from": str(folder / "stock")}))
    assert main(["doctor", "--config", str(tmp_path / "run.yaml"), "--hash_cache", str(tmp_path / "hashes")]) == 1
    assert f"python -m plum adopt {folder / 'stock'} NEW_FOLDER --sam SAM_FILE" in capsys.readouterr().out


@torch.inference_mode()
def test_a_backbone_is_exported_for_other_programs(folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(folder / "run"), str(tmp_path / "stock"), "--stock"]) == 0
    assert main(["export", str(folder / "run"), str(tmp_path / "merged")]) == 0
    loaded = load_pretrained(tmp_path / "merged")
    predictor = Predictor(loaded.model, loaded.tokenizer, loaded.config)
    photo = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    row = predictor.answers.given(predictor.slots((photo,)), ASKED, "It has a wing.", "given")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    inputs = load_processor(tmp_path / "stock")(
        text=[row.rendered.text], images=[[Image.fromarray(photo)]], return_tensors="pt", add_special_tokens=False
    )
    assert inputs["input_ids"][0].tolist() == list(row.encoded.input_ids)
    expected = stock.model(**inputs).last_hidden_state
    torch.testing.assert_close(predictor._hidden_states((photo,), [row]), expected, atol=1e-5, rtol=0)
    before = load_pretrained(folder / "run" / "model")
    unmerged = Predictor(before.model, before.tokenizer, before.config)._hidden_states((photo,), [row])
    torch.testing.assert_close(unmerged, expected, atol=1e-5, rtol=0)
    again = read_stock_checkpoint(tmp_path / "stock")
    assert again.config.end_tokens == before.config.hf.end_tokens  # type: ignore[union-attr]


def test_adapters_are_exported_in_pefts_form(folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(folder / "run"), str(tmp_path / "adapters"), "--adapters_only"]) == 0
    stock = AutoModelForImageTextToText.from_pretrained(folder / "stock").eval()
    adapted = PeftModel.from_pretrained(stock, str(tmp_path / "adapters"))
    loaded = load_pretrained(folder / "run" / "model")
    own = {name: tensor for name, tensor in loaded.model.state_dict().items() if ".lora_" in name}
    found = {f"llava.network.{name}": tensor for name, tensor in adapted.state_dict().items() if ".lora_" in name}
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], found[name]) for name in own)


def test_a_model_over_llava_has_no_stock_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_inputs(tmp_path)
    train(replace(make_config(tmp_path, "run"), num_updates=1))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--stock"]) == 1
    assert "has LLaVA as its backbone" in capsys.readouterr().err


def test_the_benchmark_scores_it(folder: Path, tmp_path: Path) -> None:
    questions = write_questions(tmp_path, tuple(QuestionType)[:2], 2)
    words = ["--questions", str(questions), "--output", str(tmp_path / "scores"), "--max_new_tokens", "8"]
    assert main(["validate", "partonomy", "--checkpoint", str(folder / "run" / "model"), *words]) == 0
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    scored = {name: group for name, group in summary["groups"].items() if group["num_scored"]}
    assert len(scored) == 2
    for group in scored.values():
        assert (group["num_scored"], group["num_failed"]) == (2, 0)
        assert 0 <= group["metrics"]["giou_micro_paired"]["value"] <= 1
        assert group["metrics"]["parts_accuracy"]["value"] in (0.0, 0.5, 1.0)
