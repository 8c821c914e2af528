"""The packed base: refused in words without bitsandbytes; with it, what it computes on the CPU."""

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from partonomy.models.contract import Role, Turn
from plum.checkpoints.adopt import adopt
from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.stock_folder import read_stock_checkpoint
from plum.checkpoints.store import load_pretrained, save_pretrained, save_trained
from plum.config import LoraConfig, ModelConfig, Quantization
from plum.inference.predictor import Predictor
from plum.inputs.tokenizer import load_tokenizer
from plum.models.backbones import quantization
from plum.models.backbones.hf import FAMILIES
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import ConversationImages, ImageTokens
from plum.train_config import EngineConfig, TrainableConfig
from plum.training.config_file import check_ranges
from plum.training.initialise import Placement, build_from
from plum.training.run import build_or_load
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.doctor.runs import tiny_run
from tests.plum.stock_world import stock_config

WIDTH = 64
LORA = LoraConfig(rank=2, dropout=0.0)
has_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not has_bitsandbytes, reason="bitsandbytes is not installed (an option)")


def write_base(folder: Path) -> ModelConfig:
    """A base of width 64 (bitsandbytes packs blocks of 64 weights); returns its architecture with adapters."""
    tokenizer = byte_level()
    config = tiny_model_config(len(tokenizer))
    language = replace(config.llava.language, hidden_size=WIDTH, intermediate_size=128)
    config = with_special_tokens(replace(config, llava=replace(config.llava, language=language)), tokenizer)
    torch.manual_seed(0)
    save_pretrained(build_model(config), tokenizer, folder, "")
    return replace(config, lora=LORA)


def states(model: GroundedLMM) -> Tensor:
    ids = torch.randint(10, 100, (2, 12), generator=torch.Generator().manual_seed(1))
    nothing = ImageTokens(torch.zeros(0, 4, WIDTH, dtype=torch.bfloat16))
    return model.hidden_states(ids, torch.ones_like(ids), ConversationImages.no_image(2, ids.device), nothing)


def test_without_bitsandbytes_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_base(tmp_path / "base")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"base_quantization 'nf4' needs bitsandbytes.*pip install"):
        build_from(config, str(tmp_path / "base"), Placement(torch.bfloat16, quantization="nf4"))


def test_nothing_is_imported_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_base(tmp_path / "base")

    def fail(name: str) -> None:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr("plum.models.backbones.quantization.importlib.import_module", fail)
    build_from(config, str(tmp_path / "base"), Placement())


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        ({"save_model": "full"}, "save_model trained"),
        ({"init_from": None}, "init_from"),
        ({"trainable": TrainableConfig(language_model="full")}, "trainable.language_model lora"),
    ],
)
def test_a_packed_base_is_neither_trained_nor_saved(change: dict[str, object], needs: str) -> None:
    run = tiny_run(tiny_model_config(40, lora=LORA), EngineConfig(base_quantization="int8"))
    whole = replace(run, save_model="trained", init_from="base")
    check_ranges(whole)
    with pytest.raises(ValueError, match=rf"engine.base_quantization 'int8' needs {needs}$"):
        check_ranges(replace(whole, **change))


@needs_bitsandbytes
@pytest.mark.parametrize(("kind", "largest"), [("int8", 0.05), ("nf4", 0.3)])
def test_packed_weights_compute_nearly_the_same(tmp_path: Path, kind: Quantization, largest: float) -> None:
    import bitsandbytes

    config = write_base(tmp_path / "base")
    dense = build_from(config, str(tmp_path / "base"), Placement(torch.bfloat16)).model.eval()
    packed = build_from(config, str(tmp_path / "base"), Placement(torch.bfloat16, quantization=kind)).model.eval()
    packed.to("cpu")  # as an engine does: the weights are packed now
    layer = packed.llava.stock.model.language_model.layers[0]
    expected = bitsandbytes.nn.Linear8bitLt if kind == "int8" else bitsandbytes.nn.Linear4bit
    assert isinstance(layer.mlp.gate_proj, expected)
    assert isinstance(layer.self_attn.q_proj.base_layer, expected)
    assert type(layer.self_attn.q_proj).__module__ == "peft.tuners.lora.bnb"
    assert layer.mlp.gate_proj.weight.dtype in (torch.int8, torch.uint8)
    with torch.no_grad():
        before, after = states(dense).float(), states(packed).float()
    difference = float((before - after).norm() / before.norm())
    assert 0 < difference < largest


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_adapters_learn_over_a_packed_base_and_load_over_the_dense_one(tmp_path: Path, kind: Quantization) -> None:
    config = write_base(tmp_path / "base")
    model = build_from(config, str(tmp_path / "base"), Placement(torch.bfloat16, quantization=kind)).model
    set_trainable(model, TrainableConfig())
    model.to("cpu").train()
    states(model).float().square().mean().backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name]
    assert len(gradients) == 4
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    save_trained(model, load_tokenizer(tmp_path / "base"), tmp_path / "run", "", base=tmp_path / "base")
    loaded = load_pretrained(tmp_path / "run").model
    stock, dense = loaded.llava.stock, load_pretrained(tmp_path / "base").model.llava.stock
    for (name, ours), theirs in zip(
        stock.model.language_model.layers[0].mlp.named_parameters(),
        dense.model.language_model.layers[0].mlp.parameters(),
        strict=True,
    ):
        assert torch.equal(ours, theirs), name
    adapters = [tensor for name, tensor in loaded.state_dict().items() if "lora_B" in name]
    assert all(bool((tensor == torch.tensor(0.01, dtype=torch.bfloat16)).all()) for tensor in adapters)


@needs_bitsandbytes
def test_a_run_warns_that_it_is_unverified(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_base(tmp_path / "base")
    neutral = replace(config, llava=replace(config.llava, special_tokens=None))
    run = replace(
        tiny_run(neutral, EngineConfig(base_quantization="nf4")), init_from=str(tmp_path / "base"), save_model="trained"
    )
    with caplog.at_level(logging.WARNING):
        build_or_load(run)
    assert "unverified until run on CUDA" in caplog.text


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm", "internvl"])
def test_of_a_stock_model_the_decoder_alone_is_packed(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Packed(nn.Linear):
        """Takes what the library's layer takes."""

        def __init__(self, inputs: int, outputs: int, bias: bool, **settings: object) -> None:
            super().__init__(inputs, outputs, bias)

    library = SimpleNamespace(nn=SimpleNamespace(Linear4bit=Packed))
    monkeypatch.setattr(quantization, "_import_bitsandbytes", lambda kind: library)
    config = stock_config(ARCHITECTURES[family](tmp_path / "stock"), LORA)
    model = build_model(config, is_backbone_empty=True, quantization="nf4")
    decoder = FAMILIES[family].decoder
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    packed = {name for name, layer in linear.items() if isinstance(layer, Packed)}
    assert packed == {name for name in linear if f".{decoder}.layers." in name and "lora_" not in name}
    assert len(packed) == config.language.num_layers * 7, "four of attention, three of the feed-forward layer"


@needs_bitsandbytes
def test_a_packed_stock_model_computes_nearly_the_same(tmp_path: Path) -> None:
    from tests.plum.training.test_stock_backbones import write_sam2

    stock = ARCHITECTURES["qwen3_vl"](tmp_path / "stock")
    wider = AutoConfig.from_pretrained(stock)
    wider.text_config.hidden_size = wider.vision_config.out_hidden_size = WIDTH
    wider.text_config.intermediate_size, wider.text_config.head_dim = 128, 16
    wider.text_config.initializer_range = 0.02  # the usual one
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(wider).save_pretrained(stock)
    adopt(stock, write_sam2(tmp_path / "sam2"), tmp_path / "base")
    config = replace(read_model_config(tmp_path / "base"), lora=LORA)
    photo = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    found = []
    for kind in ("none", "nf4"):
        placement = Placement(torch.bfloat16, quantization=kind)
        model = build_from(config, str(tmp_path / "base"), placement).model.eval().to("cpu")
        predictor = Predictor(model, read_stock_checkpoint(stock).tokenizer, config)
        row = predictor.answers.given(predictor.slots((photo,)), (Turn(Role.USER, "What?"),), "A wing.", "given")
        with torch.inference_mode():
            found.append(predictor._hidden_states((photo,), [row]).float())
    difference = float((found[0] - found[1]).norm() / found[0].norm())
    assert 0 < difference < 0.3
