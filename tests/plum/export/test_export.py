"""Exports: merged by hand and by peft, sharded as transformers shards, loaded back; adapters alone; the model card."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

import plum.export.merged
from plum.checkpoints.model_weights import MergedWeights
from plum.checkpoints.published.streamed_probe import _probe_text, probe_logits
from plum.checkpoints.store import load_pretrained, save_pretrained, save_trained
from plum.config import LoraConfig
from plum.export.export_adapters import AdaptersRequest, export_adapters
from plum.export.export_source import find_source
from plum.export.merged import ExportRequest, export_merged
from plum.models.grounded_lmm import GroundedLMM
from plum.models.trainable import set_trainable
from plum.structures import ConversationImages, ImageTokens
from plum.train_config import TrainableConfig
from plum.training.initialise import initialise_from
from tests.plum.checkpoints.saved_models import LORA, assert_same, make_model, make_tokenizer, make_trained, run
from tests.plum.models.systems.sisters_world import make_sister, seg_tokenizer, sister_config


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def saved(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    save_pretrained(make_model(tokenizer), tokenizer, tmp_path / "saved", "# A card")
    return tmp_path / "saved"


def _export(source: Path, destination: Path, dtype: torch.dtype = torch.float32, max_shard_bytes: int = 10**9) -> None:
    export_merged(ExportRequest(source, destination, dtype, max_shard_bytes))


def _merged_by_peft(model: GroundedLMM) -> GroundedLMM:
    network = model.llava.network
    assert isinstance(network, PeftModel)
    model.llava.network = network.merge_and_unload(safe_merge=True)
    return model


@pytest.mark.parametrize("train_embeddings", [False, True])
def test_merged_equals_unmerged_and_pefts_own_merge(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, train_embeddings: bool
) -> None:
    model = make_model(tokenizer, LoraConfig(rank=2, train_embeddings=train_embeddings))
    if train_embeddings:
        with torch.no_grad():
            model.llava.stock.get_input_embeddings().weight.add_(0.1)
    save_pretrained(model, tokenizer, tmp_path / "saved", "# A card")
    result = export_merged(ExportRequest(tmp_path / "saved", tmp_path / "merged"))
    assert result.merge.difference <= result.merge.bound < 1e-3
    assert result.written.difference == 0.0
    loaded = load_pretrained(tmp_path / "merged")
    assert loaded.config == replace(model.config, lora=None)
    assert loaded.model.feedback is not None
    assert_same(run(loaded.model), run(model), tolerance=1e-5)
    by_peft = _merged_by_peft(model).state_dict()
    assert by_peft.keys() == loaded.model.state_dict().keys()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, by_peft[name]), name


def test_the_merge_is_the_sum_by_hand(tokenizer: PreTrainedTokenizerFast, saved: Path) -> None:
    layer = make_model(tokenizer).llava.stock.get_submodule("model.language_model.layers.0.self_attn.q_proj")
    # scaling = alpha / rank = 16 / 2
    expected = layer.base_layer.weight + 8.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merged = MergedWeights(find_source(saved).weights)
    found = merged.read("llava.network.model.language_model.layers.0.self_attn.q_proj.weight")
    torch.testing.assert_close(found, expected.detach())
    assert float((found - layer.base_layer.weight).abs().max()) > 0.1


def test_bfloat16_sums_in_float32_and_keeps_frequencies(tmp_path: Path, saved: Path) -> None:
    _export(saved, tmp_path / "merged", torch.bfloat16)
    exact = MergedWeights(find_source(saved).weights)
    (file,) = (tmp_path / "merged").glob("*.safetensors")
    with safe_open(file, framework="pt") as tensors:
        assert set(tensors.keys()) == set(exact.names)
        for name in exact.names:
            is_buffer = "positional_encoding_gaussian_matrix" in name
            expected = exact.read(name).float() if is_buffer else exact.read(name).bfloat16()
            found = tensors.get_tensor(name)
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected), name


def test_a_model_without_adapters_is_copied(tmp_path: Path, saved: Path) -> None:
    _export(saved, tmp_path / "merged")
    result = export_merged(ExportRequest(tmp_path / "merged", tmp_path / "again"))
    assert result.merge.difference == 0.0
    first, second = (load_pretrained(tmp_path / name).model for name in ("merged", "again"))
    assert_same(run(first), run(second))


def test_a_chain_of_light_saves_is_merged_whole(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save_pretrained(make_model(tokenizer, lora=None), tokenizer, tmp_path / "base", "")
    first = make_trained(tokenizer, tmp_path / "base", LORA)
    save_trained(first, tokenizer, tmp_path / "first", "# A card", tmp_path / "base")
    second = make_trained(tokenizer, tmp_path / "first", LORA)
    save_trained(second, tokenizer, tmp_path / "second", "", tmp_path / "first")
    _export(tmp_path / "second", tmp_path / "merged")
    assert_same(run(load_pretrained(tmp_path / "merged").model), run(second), tolerance=1e-4)
    assert not (tmp_path / "merged" / "base.json").exists()


def test_the_probe_computes_what_the_model_computes(tokenizer: PreTrainedTokenizerFast, saved: Path) -> None:
    model = load_pretrained(saved).model
    ids = _probe_text(model)
    no_images = ImageTokens(torch.zeros(0, model.llava.num_image_tokens, 32))
    with torch.inference_mode():
        states = model.hidden_states(ids, torch.ones_like(ids), ConversationImages.no_image(1, ids.device), no_images)
        expected = model.token_logits(states[0]).nan_to_num(neginf=0.0)
    found = probe_logits(find_source(saved).weights)
    assert torch.equal(found, expected)
    assert len(ids[0].unique()) > 10


def test_shards_and_index_are_those_of_transformers(tmp_path: Path, saved: Path) -> None:
    _export(saved, tmp_path / "merged", max_shard_bytes=100_000)
    ours = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    model = load_pretrained(tmp_path / "merged").model  # strictly
    stock: LlavaForConditionalGeneration = model.llava.stock
    stock.save_pretrained(str(tmp_path / "stock"), max_shard_size="100KB")
    theirs = json.loads((tmp_path / "stock" / "model.safetensors.index.json").read_text())
    assert ours.keys() == theirs.keys()
    assert ours["metadata"].keys() == theirs["metadata"].keys()
    state = model.state_dict()
    assert ours["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state.values())
    assert ours["metadata"]["total_parameters"] == sum(tensor.numel() for tensor in state.values())
    assert list(ours["weight_map"]) == sorted(state)
    names = sorted({file.name for file in (tmp_path / "merged").glob("*.safetensors")})
    assert names == [f"model-{n:05}-of-{len(names):05}.safetensors" for n in range(1, len(names) + 1)]
    assert len(names) > 2
    for name in names:
        with safe_open(tmp_path / "merged" / name, framework="pt") as tensors:
            assert tensors.metadata() == {"format": "pt"}
            sizes = [tensors.get_tensor(key).nbytes for key in tensors.keys()]  # noqa: SIM118
        assert sum(sizes) <= 100_000 or len(sizes) == 1


def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path: Path, saved: Path) -> None:
    _export(saved, tmp_path / "merged", max_shard_bytes=100_000)
    index = tmp_path / "merged" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name, file = next(iter(content["weight_map"].items()))
    other = next(other for other in content["weight_map"].values() if other != file)
    index.write_text(json.dumps(content | {"weight_map": content["weight_map"] | {name: other}}))
    with pytest.raises(ValueError, match=f"index.json and its shards differ.*{name}"):
        load_pretrained(tmp_path / "merged")
    del content["weight_map"][name]
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="differ in 1 entries"):
        load_pretrained(tmp_path / "merged")


def test_logits_beyond_the_bound_stop_the_export(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("plum.checkpoints.model_weights.adapter_scale", lambda lora: 1.01 * lora.alpha / lora.rank)
        with pytest.raises(ValueError, match="merging the adapters changed the logits.*nothing was exported"):
            _export(saved, tmp_path / "merged")
    patch_tolerances = {**plum.export.merged.WRITE_TOLERANCES, torch.bfloat16: 1e-9}
    monkeypatch.setattr(plum.export.merged, "WRITE_TOLERANCES", patch_tolerances)
    with pytest.raises(ValueError, match=r"writing torch\.bfloat16 changed the logits"):
        _export(saved, tmp_path / "merged", torch.bfloat16)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_is_no_source_says_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither a saved model .* a run .* nor a checkpoint"):
        find_source(tmp_path)
    (tmp_path / "config.yaml").write_text("run_dir: x\n")
    with pytest.raises(FileNotFoundError, match="neither a model nor a complete checkpoint"):
        find_source(tmp_path)


@pytest.mark.parametrize("train_embeddings", [False, True])
def test_adapters_alone_load_over_their_base(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, train_embeddings: bool
) -> None:
    lora = LoraConfig(rank=2, train_embeddings=train_embeddings)
    base = make_model(tokenizer, lora=None)
    save_pretrained(base, tokenizer, tmp_path / "base", "The base.")
    first = make_trained(tokenizer, tmp_path / "base", lora)
    save_trained(first, tokenizer, tmp_path / "first", "", tmp_path / "base")
    second = make_trained(tokenizer, tmp_path / "first", lora)
    save_trained(second, tokenizer, tmp_path / "second", "", tmp_path / "first")
    result = export_adapters(AdaptersRequest(tmp_path / "second", tmp_path / "adapters"))
    assert result.logit_difference == 0.0
    assert json.loads((tmp_path / "adapters" / "base.json").read_text())["base"] == str(tmp_path / "base")
    loaded = load_pretrained(tmp_path / "adapters")
    assert loaded.config == second.config
    assert_same(run(loaded.model), run(second))
    size = sum(file.stat().st_size for file in (tmp_path / "adapters").glob("*.safetensors"))
    assert size < (tmp_path / "base" / "model.safetensors").stat().st_size
    # peft itself puts the adapters onto the stock LLaVA.
    stock = load_pretrained(tmp_path / "base").model.llava.stock
    adapted = PeftModel.from_pretrained(stock, str(tmp_path / "adapters"))
    ids = torch.arange(20, 40)[None]
    with torch.inference_mode():
        ours, theirs, bare = (
            network(input_ids=ids, output_hidden_states=True).hidden_states[-1]
            for network in (second.llava.network, adapted, base.llava.network)
        )
        assert torch.equal(theirs, ours)  # the states: a trained lm_head is no part of peft's file
        assert float((bare - ours).abs().max()) > 1e-2
    # And they merge like the model they are of.
    _export(tmp_path / "adapters", tmp_path / "merged")
    assert_same(run(load_pretrained(tmp_path / "merged").model), run(second), tolerance=1e-4)


def test_adapters_alone_of_a_whole_save_need_to_be_told_their_base(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    save_pretrained(make_model(tokenizer, lora=None), tokenizer, tmp_path / "base", "")
    model = make_trained(tokenizer, tmp_path / "base", LORA)
    save_pretrained(model, tokenizer, tmp_path / "whole", "")
    with pytest.raises(ValueError, match="name the saved model with --base"):
        export_adapters(AdaptersRequest(tmp_path / "whole", tmp_path / "adapters"))
    export_adapters(AdaptersRequest(tmp_path / "whole", tmp_path / "adapters", base=tmp_path / "base"))
    assert_same(run(load_pretrained(tmp_path / "adapters").model), run(model))
    save_pretrained(make_model(tokenizer, lora=None, seed=1), tokenizer, tmp_path / "other", "")
    with pytest.raises(ValueError, match="other is not the base of .*whole: they differ in llava"):
        export_adapters(AdaptersRequest(tmp_path / "whole", tmp_path / "more", base=tmp_path / "other"))
    with pytest.raises(ValueError, match="has no adapters"):
        export_adapters(AdaptersRequest(tmp_path / "base", tmp_path / "more", base=tmp_path / "base"))


@pytest.mark.parametrize("system", ["lisa", "m2sa"])
def test_sister_systems_are_exported_too(tmp_path: Path, system: Literal["lisa", "m2sa"]) -> None:
    tokenizer = seg_tokenizer()
    save_pretrained(make_sister(sister_config(system, lora=None)), tokenizer, tmp_path / "base", "")
    model = make_sister(sister_config(system), seed=1)
    initialise_from(model, str(tmp_path / "base"))
    set_trainable(model, TrainableConfig(embeddings=True))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    save_trained(model, tokenizer, tmp_path / "saved", "", tmp_path / "base")
    _export(tmp_path / "saved", tmp_path / "merged")
    by_peft = _merged_by_peft(model).state_dict()
    for name, tensor in load_pretrained(tmp_path / "merged").model.state_dict().items():
        assert torch.equal(tensor, by_peft[name]), name
    export_adapters(AdaptersRequest(tmp_path / "saved", tmp_path / "adapters"))
    whole, light = (load_pretrained(tmp_path / name).model.state_dict() for name in ("saved", "adapters"))
    assert whole.keys() == light.keys()
    assert all(torch.equal(whole[name], light[name]) for name in whole)


MEASURE = """
import resource, sys
from pathlib import Path
from plum.export.merged import ExportRequest, export_merged
import plum.checkpoints.store, deepspeed.utils.zero_to_fp32
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export_merged(ExportRequest(Path(sys.argv[1]), Path(sys.argv[2]), max_shard_bytes=20 * 10**6))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_is_bounded_by_a_shard_and_a_layer(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    from plum.models.systems.registry import build_model

    small = make_model(tokenizer).config
    language = replace(small.llava.language, hidden_size=256, intermediate_size=4096, num_layers=24)
    model = build_model(replace(small, llava=replace(small.llava, language=language)))
    save_pretrained(model, tokenizer, tmp_path / "saved", "")
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert size > 300 * 10**6
    del model
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "saved"), str(tmp_path / "merged")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # Pages of files that are mapped count as memory while they are read; the whole model at once would be 300 MB more.
    assert int(done.stdout.split()[-1]) < 0.5 * size
