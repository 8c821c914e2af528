"""Saved models: equal outputs, strict loading, errors that name folder and key; adapters merged."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import plum.checkpoints.weights
from plum.checkpoints.model_config_io import describe_differences, read_model_config, write_model_config
from plum.checkpoints.store import load_pretrained, save_pretrained, save_trained, write_folder
from plum.config import LoraConfig, ModelConfig
from plum.doctor.folders import hash_weight_files
from plum.export.export_source import root_base
from plum.models.systems.special_tokens import read_special_tokens, with_special_tokens
from plum.models.tiny import TINY_TOKENS, tiny_model_config
from plum.models.trainable import set_trainable
from plum.train_config import TrainableConfig
from tests.plum.checkpoints.saved_models import LORA, VOCAB, assert_same, make_model, make_tokenizer, make_trained, run


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.mark.parametrize("lora", [None, LORA, LoraConfig(rank=2, train_embeddings=True)])
def test_save_and_load_give_equal_outputs(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, lora: LoraConfig | None
) -> None:
    model = make_model(tokenizer, lora)
    save_pretrained(model, tokenizer, tmp_path / "saved", "# A card")
    loaded = load_pretrained(tmp_path / "saved")
    assert loaded.config == model.config
    assert loaded.model.feedback is not None
    assert not loaded.model.training
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert_same(run(loaded.model), run(model))
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert (tmp_path / "saved" / "README.md").read_text() == "# A card"
    content = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (content["format_version"], content["system"], content["feedback"]["is_enabled"]) == (7, "plum", True)


def test_shards_load_like_one_file(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plum.checkpoints.weights, "MAX_SHARD_BYTES", 100_000)
    model = make_model(tokenizer)
    save_pretrained(model, tokenizer, tmp_path / "saved", "")
    shards = sorted((tmp_path / "saved").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert_same(run(load_pretrained(tmp_path / "saved").model), run(model))
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match=shards[0].name):
        load_pretrained(tmp_path / "saved")


def test_loading_in_bfloat16(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save_pretrained(make_model(tokenizer), tokenizer, tmp_path / "saved", "")
    model = load_pretrained(tmp_path / "saved", dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()} == {torch.float32}


def test_a_saved_model_is_never_overwritten(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "saved").mkdir()
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_pretrained(make_model(tokenizer), tokenizer, tmp_path / "saved", "")


def test_a_leftover_of_an_interrupted_save_is_replaced(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "saved.partial").mkdir()
    (tmp_path / "saved.partial" / "rubbish").touch()
    save_pretrained(make_model(tokenizer), tokenizer, tmp_path / "saved", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]
    assert not (tmp_path / "saved" / "rubbish").exists()


def test_a_second_process_is_refused_and_harms_nothing(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with write_folder(tmp_path / "saved") as partial:
        (partial / "weights").touch()
        with pytest.raises(BlockingIOError, match="saved: another process is writing here"):
            save_pretrained(make_model(tokenizer), tokenizer, tmp_path / "saved", "")
        assert (partial / "weights").exists()
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["weights"]
    with pytest.raises(RuntimeError, match="no more"), write_folder(tmp_path / "other") as partial:
        raise RuntimeError("no more")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def edit_config(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["feedback"].update(enabled=True), r"config\.json: unknown key feedback\.enabled"),
        (lambda c: c["sam"].pop("prompt_dim"), r"config\.json: missing key sam\.prompt_dim"),
        (lambda c: c["tagger"].update(context="both"), r"config\.json: tagger\.context is 'both', not one of"),
        (lambda c: c["sam"].update(prompt_dim="16"), r"config\.json: sam\.prompt_dim is '16', not of type int"),
        (lambda c: c["feedback"].update(is_enabled=1), r"feedback\.is_enabled is 1, not of type bool"),
        (lambda c: c["sam"].update(encoder_global_blocks=1), r"sam\.encoder_global_blocks is 1, not a list"),
        (lambda c: c.update(lora=3), r"lora is 3, not an object"),
        (lambda c: c.update(format_version=8), r"format_version is 8, this code reads 1 to 7"),
        (lambda c: c.pop("format_version"), r"no format_version"),
        (lambda c: c.update(format_version=4.0), r"format_version is 4\.0, this code reads 1 to 7"),
        (lambda c: c.update(format_version="4"), r"format_version is '4', this code reads 1 to 7"),
        (
            lambda c: c["sam"].update(decoder_mlp_dim=48),
            r"another architecture: sam\.decoder_mlp_dim is 48 in config\.json, 32 in the",
        ),
        (lambda c: c["feedback"].update(is_enabled=False), r"another architecture: 0 tensors .*unknown \['feedback\."),
        (
            lambda c: c["sam"].update(encoder_depth=3),
            r"another architecture: sam\.encoder_depth is 3 in config\.json, 2 layers in the weights",
        ),
        (lambda c: c["llava"]["special_tokens"].update(image=9), r"another model's tokenizer"),
    ],
)
def test_another_architecture_is_refused_by_folder_and_key(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, change: Callable[[dict], None], message: str
) -> None:
    save_pretrained(make_model(tokenizer), tokenizer, tmp_path / "saved", "")
    edit_config(tmp_path / "saved", change)
    with pytest.raises(ValueError, match=message) as raised:
        load_pretrained(tmp_path / "saved")
    assert "saved" in str(raised.value)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a saved model: it has no config\.json"):
        load_pretrained(tmp_path)


def test_config_round_trip_and_differences(tmp_path: Path) -> None:
    config = tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2, dropout=0.0))
    write_model_config(config, tmp_path)
    assert read_model_config(tmp_path) == config
    assert describe_differences(config, config) == []
    other: ModelConfig = replace(config, lora=None, sam=replace(config.sam, decoder_depth=1))
    lines = describe_differences(config, other)
    assert "sam.decoder_depth: 2, 1" in lines
    assert "lora.rank: 2, (absent)" in lines


@pytest.mark.parametrize("lora", [LORA, LoraConfig(rank=2, train_embeddings=True)])
def test_trained_weights_over_a_base(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, lora: LoraConfig) -> None:
    """Two stages in the light form: a chain of bases, read as one model, at a fraction of its size."""
    save_pretrained(make_model(tokenizer, lora=None), tokenizer, tmp_path / "base", "")
    first = make_trained(tokenizer, tmp_path / "base", lora)
    save_trained(first, tokenizer, tmp_path / "first", "# A card", tmp_path / "base")
    second = make_trained(tokenizer, tmp_path / "first", lora)
    save_trained(second, tokenizer, tmp_path / "second", "", tmp_path / "first")
    for name, model in (("first", first), ("second", second)):
        loaded = load_pretrained(tmp_path / name)
        assert loaded.config == model.config
        for key, tensor in model.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[key], tensor), key
        assert_same(run(loaded.model), run(model))
    assert float((run(first).hidden_states - run(second).hidden_states).abs().max()) > 1e-3
    light = sum(parameter.numel() for parameter in second.parameters() if parameter.requires_grad)
    size = (tmp_path / "second" / "trained.safetensors").stat().st_size
    assert 4 * light <= size < 4 * sum(parameter.numel() for parameter in second.parameters())


def test_frozen_adapters_are_saved_too(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save_pretrained(make_model(tokenizer, lora=None), tokenizer, tmp_path / "base", "")
    model = make_trained(tokenizer, tmp_path / "base", LORA)
    set_trainable(model, TrainableConfig(language_model="frozen"))
    save_trained(model, tokenizer, tmp_path / "light", "", tmp_path / "base")
    assert_same(run(load_pretrained(tmp_path / "light").model), run(model))


def test_trained_weights_need_their_base(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, light = tmp_path / "base", tmp_path / "light"
    save_pretrained(make_model(tokenizer, lora=None), tokenizer, base, "")
    save_trained(make_trained(tokenizer, base, LORA), tokenizer, light, "", base)
    base.rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"light holds trained weights over .*base, which no longer exists.*base\.json"
    ):
        load_pretrained(light)
    save_pretrained(make_model(tokenizer, lora=None, seed=1), tokenizer, base, "")
    with pytest.raises(ValueError, match=r"light holds trained weights over .*base, whose weights have changed"):
        load_pretrained(light)
    content = json.loads((light / "base.json").read_text())
    for damaged, message in (
        ({"base": content["base"]}, "'fingerprint' is missing"),
        (content | {"base": None}, "'base' must be a text, got None"),
        ([], r"the content must be an object, got \[\]"),
    ):
        (light / "base.json").write_text(json.dumps(damaged))
        for read in (load_pretrained, root_base, lambda folder: hash_weight_files(folder, tmp_path / "hashes")):
            with pytest.raises(ValueError, match=rf"base\.json: {message}; restore the file"):
                read(light)
    (light / "base.json").write_text(json.dumps(content | {"base": str(tmp_path / "moved")}))
    load_pretrained(light)
    edit_config(light, lambda config: config["sam"].update(decoder_mlp_dim=48))
    with pytest.raises(ValueError, match=r"light holds .* another architecture: sam\.decoder_mlp_dim is 48"):
        load_pretrained(light)


def test_nothing_trainable_is_not_saved(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(tokenizer, lora=None).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to save"):
        save_trained(model, tokenizer, tmp_path / "light", "", tmp_path)


def test_special_tokens_are_read_from_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = read_special_tokens(tokenizer, tiny_model_config(len(tokenizer)).backbone)
    assert tokenizer.convert_ids_to_tokens([tokens.image, tokens.pad, tokens.eos]) == ["<image>", "<pad>", "</s>"]
    assert set(tokens.suppressed) == {tokens.image, tokens.pad}


def test_tokenizer_larger_than_the_model_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="vocab_size is 200"):
        with_special_tokens(tiny_model_config(200), tokenizer)
