"""Published LLaVA checkpoints of every layout become the same base, and compute what the stock model computes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from plum.checkpoints.published.convert_llava import ConversionRequest, ConversionResult, convert_llava
from plum.checkpoints.store import load_pretrained, save_trained
from plum.cli.convert_llava import describe_model
from plum.cli.main import main
from plum.config import LoraConfig, ModelConfig
from plum.inputs.tokenizer import load_tokenizer
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.trainable import set_trainable
from plum.structures import ConversationImages
from plum.train_config import TrainableConfig
from plum.training.initialise import initialise_from
from tests.plum.checkpoints.published.published_llava import (
    BUFFERS,
    HF_4,
    HF_4_LATE,
    ORIGINAL,
    ORIGINAL_LINEAR,
    PLACEHOLDER,
    VOCAB,
    make_stock,
    rename,
    write_clip,
    write_hf,
    write_original,
    write_sam,
    write_tokenizer,
)

LAYOUTS = ("hf_4", "hf_4_bin", "hf_4_late", "hf_5", "original_linear", "original_mlp")
CLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."


def write_layout(layout: str, folder: Path) -> tuple[LlavaForConditionalGeneration, Path | None]:
    """Write a checkpoint of one layout; return the stock model it stands for, and a CLIP folder where one is needed."""
    stock = make_stock("linear" if layout == "original_linear" else "gelu")
    state = stock.state_dict() | BUFFERS
    if layout == "hf_5":
        stock.save_pretrained(folder)
        write_tokenizer(folder)
    elif layout.startswith("hf_4"):
        names = HF_4_LATE if layout == "hf_4_late" else HF_4
        write_hf(folder, rename(state, names), "bin" if layout == "hf_4_bin" else "safetensors")
    elif layout == "original_mlp":
        write_original(folder, rename(state, ORIGINAL), "safetensors", mm_projector_type="mlp2x_gelu")
    else:
        without_second = {name: tensor for name, tensor in state.items() if "linear_2" not in name}
        tensors = rename(without_second, ORIGINAL_LINEAR)
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(CLIP_PREFIX)}
        write_original(folder, tensors, "bin")
        return stock, write_clip(folder.parent / "clip", stock)
    return stock, None


def convert(
    tmp_path: Path, source: Path, clip: Path | None = None, expected: ModelConfig | None = None
) -> ConversionResult:
    sam = tmp_path / "sam_vit_t.pth"
    if not sam.exists():
        write_sam(sam)
    request = ConversionRequest(source, sam, clip, None if source.name == "llava-hf" else "llava_v1", expected)
    return convert_llava(request, tmp_path / "base")


def load_base(folder: Path, config: ModelConfig, lora: LoraConfig | None = None) -> tuple[GroundedLMM, list[str]]:
    torch.manual_seed(11)
    model = build_model(replace(config, lora=lora)).eval()
    return model, initialise_from(model, str(folder))


@torch.no_grad()
def stock_states(stock: LlavaForConditionalGeneration, ids: Tensor, pixels: Tensor) -> Tensor:
    return stock.model(input_ids=ids, pixel_values=pixels).last_hidden_state


@torch.no_grad()
def own_states(model: GroundedLMM, ids: Tensor, pixels: Tensor) -> Tensor:
    ids = ids.masked_fill(ids == PLACEHOLDER, model.llava.special_tokens.image)
    tokens = model.llava.encode_images(pixels)
    shown = ConversationImages(torch.arange(len(ids))[:, None], (tokens.values.shape[1],) * len(ids))
    return model.hidden_states(ids, torch.ones_like(ids), shown, tokens)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(10, VOCAB, (2, 12), generator=generator)
    ids[:, 2:6] = PLACEHOLDER
    return ids, torch.randn(2, 3, 16, 16, generator=generator)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_computes_the_stock_models_states(tmp_path: Path, layout: str) -> None:
    stock, clip = write_layout(layout, tmp_path / "source")
    result = convert(tmp_path, tmp_path / "source", clip)
    model, lines = load_base(tmp_path / "base", result.config)
    theirs = stock_states(stock, *inputs())
    torch.testing.assert_close(own_states(model, *inputs()), theirs, atol=1e-5, rtol=1e-5)
    assert lines[1].startswith("Starting afresh: feedback (")
    assert "query_projection (4 tensors), tagger (" in lines[1]
    assert lines[2] == "Left behind: nothing"
    logits, ours = stock.lm_head(theirs), model.token_logits(theirs)
    is_text = torch.tensor([i for i in range(VOCAB) if i not in model.llava.special_tokens.suppressed])
    torch.testing.assert_close(ours[..., is_text], logits[..., is_text])


def test_features_are_of_the_layer_before_the_last(tmp_path: Path) -> None:
    stock, _ = write_layout("original_mlp", tmp_path / "source")
    model, _ = load_base(tmp_path / "base", convert(tmp_path, tmp_path / "source").config)
    pixels = inputs()[1]
    with torch.no_grad():
        layers = stock.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        projector = stock.model.multi_modal_projector
        ours = model.llava.encode_images(pixels).values
        torch.testing.assert_close(ours, projector(layers[-2][:, 1:]), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(ours, projector(layers[-1][:, 1:]), atol=1e-2)


def test_states_worked_out_by_hand(tmp_path: Path) -> None:
    """One layer everywhere, widths 2, and nothing but norms, the projector and the residual stream at work."""
    vision = "vision_model."
    clip = {
        vision + "embeddings.class_embedding": torch.zeros(2),
        vision + "embeddings.patch_embedding.weight": torch.zeros(2, 3, 8, 8),
        vision + "embeddings.position_embedding.weight": torch.zeros(5, 2),
        vision + "pre_layrnorm.weight": torch.zeros(2),
        vision + "pre_layrnorm.bias": torch.tensor([1.0, 2.0]),  # every patch state is (1, 2)
        vision + "post_layernorm.weight": torch.ones(2),
        vision + "post_layernorm.bias": torch.zeros(2),
    }
    layer = vision + "encoder.layers.{}."
    shapes = {"layer_norm1": 2, "layer_norm2": 2}
    for number in (0, 1):
        prefix = layer.format(number)
        for norm, width in shapes.items():
            clip |= {f"{prefix}{norm}.weight": torch.ones(width), f"{prefix}{norm}.bias": torch.zeros(width)}
        for name in ("q", "k", "v", "out"):
            clip[f"{prefix}self_attn.{name}_proj.weight"] = torch.zeros(2, 2)
            clip[f"{prefix}self_attn.{name}_proj.bias"] = torch.zeros(2)
        clip |= {f"{prefix}mlp.fc1.weight": torch.zeros(4, 2), f"{prefix}mlp.fc1.bias": torch.zeros(4)}
        clip |= {f"{prefix}mlp.fc2.weight": torch.zeros(2, 4), f"{prefix}mlp.fc2.bias": torch.zeros(2)}
    embeddings = torch.zeros(VOCAB, 2)
    embeddings[30] = torch.tensor([3.0, 4.0])
    language = {
        "model.embed_tokens.weight": embeddings,
        "model.norm.weight": torch.tensor([1.0, 10.0]),
        "lm_head.weight": torch.zeros(VOCAB, 2),
        "model.mm_projector.weight": torch.tensor([[1.0, 1.0], [0.0, 2.0]]),
        "model.mm_projector.bias": torch.tensor([0.5, 0.0]),
    }
    prefix = "model.layers.0."
    language |= {f"{prefix}{norm}_layernorm.weight": torch.ones(2) for norm in ("input", "post_attention")}
    language |= {f"{prefix}self_attn.{name}_proj.weight": torch.zeros(2, 2) for name in "qkvo"}
    language |= {f"{prefix}mlp.{name}_proj.weight": torch.zeros(4, 2) for name in ("gate", "up")}
    language[f"{prefix}mlp.down_proj.weight"] = torch.zeros(2, 4)
    sizes = {"hidden_size": 2, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    write_original(tmp_path / "source", language, "bin", rms_norm_eps=0.0, **sizes)
    (tmp_path / "clip").mkdir()
    torch.save(clip, tmp_path / "clip" / "pytorch_model.bin")
    vision_sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 2, "intermediate_size": 4}
    vision_sizes |= {"num_hidden_layers": 2, "num_attention_heads": 1}
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision_sizes}))
    config = convert(tmp_path, tmp_path / "source", tmp_path / "clip").config
    llava = load_llava_alone(tmp_path / "base", config)
    tokens = llava.encode_images(torch.randn(1, 3, 16, 16))
    # Every patch: 1 + 2 + 0.5 = 3.5 and 2 * 2 + 0 = 4.
    torch.testing.assert_close(tokens.values, torch.tensor([3.5, 4.0]).expand(1, 4, 2))
    image = llava.special_tokens.image
    ids = torch.tensor([[30, image, image, image, image]])
    shown = ConversationImages.of_one_image(1, 4, ids.device)
    states = llava.hidden_states(ids, torch.ones_like(ids), shown, tokens)
    # (3, 4) / sqrt((9 + 16) / 2) = (0.8485, 1.1314); (3.5, 4) / sqrt((12.25 + 16) / 2) = (0.9313, 1.0643);
    # the norm's weights are (1, 10).
    expected = torch.tensor([[0.8485, 11.3137], *[[0.9313, 10.6430]] * 4])[None]
    torch.testing.assert_close(states, expected, atol=1e-3, rtol=1e-4)


def load_llava_alone(folder: Path, config: ModelConfig) -> torch.nn.Module:
    """Build and fill the backbone (PLUM's heads do not fit a width of 2)."""
    from plum.checkpoints.store import saved_tensors
    from plum.checkpoints.weights import copy_tensors
    from plum.models.backbones.llava import build_llava

    llava = build_llava(config.llava, None).eval().requires_grad_(False)
    saved = saved_tensors(folder)
    copy_tensors([(tensor, f"llava.{name}") for name, tensor in llava.state_dict().items()], saved)
    return llava


def test_adapters_start_on_a_converted_base(tmp_path: Path) -> None:
    stock, clip = write_layout("original_linear", tmp_path / "source")
    result = convert(tmp_path, tmp_path / "source", clip)
    model, lines = load_base(tmp_path / "base", result.config, LoraConfig(rank=2))
    assert "adapters (8 tensors)" in lines[1]
    torch.testing.assert_close(own_states(model, *inputs()), stock_states(stock, *inputs()), atol=1e-5, rtol=1e-5)


def test_added_rows_are_listed_and_never_written(tmp_path: Path) -> None:
    stock, clip = write_layout("original_linear", tmp_path / "source")
    result = convert(tmp_path, tmp_path / "source", clip)
    # 420 rows and two more tokens: 422, rounded up to a multiple of 64.
    assert result.config.llava.language.vocab_size == 448
    assert f"Tokens added: <image> = {VOCAB}, <pad> = {VOCAB + 1}" in result.notes
    assert "Embedding rows appended: 420 to 447, each the mean of the others" in result.notes
    assert "Rows without a token, never generated by the model: 422 to 447" in result.notes
    tokens = result.config.llava.special_tokens
    assert tokens is not None
    assert (tokens.image, tokens.pad, tokens.suppressed) == (420, 421, tuple(range(420, 448)))
    model, _ = load_base(tmp_path / "base", result.config)
    embeddings = model.llava.stock.get_input_embeddings().weight
    assert torch.equal(embeddings[:VOCAB], stock.get_input_embeddings().weight)
    torch.testing.assert_close(embeddings[VOCAB:], embeddings[:VOCAB].mean(0).expand(28, -1))
    logits = model.token_logits(torch.randn(3, 32))
    assert torch.isneginf(logits[:, VOCAB:]).all()
    assert torch.isfinite(logits[:, :VOCAB]).all()


def test_dtypes_are_kept_and_the_shards_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = make_stock()
    half = {name: tensor.half() for name, tensor in stock.state_dict().items()}
    write_hf(tmp_path / "llava-hf", rename(half, HF_4))
    monkeypatch.setattr("plum.checkpoints.published.convert_llava.MAX_SHARD_BYTES", 100_000)
    result = convert(tmp_path, tmp_path / "llava-hf")
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 2
    assert not list((tmp_path / "base").glob("*part*"))
    index = json.loads((tmp_path / "base" / "model.safetensors.index.json").read_text())
    assert len(index["weight_map"]) == result.num_tensors
    model, _ = load_base(tmp_path / "base", result.config)
    for name, tensor in stock.state_dict().items():
        ours = model.llava.stock.state_dict()[name][: len(tensor)] if tensor.dim() else tensor
        assert torch.equal(ours, tensor.half().float()), name
    assert "Conversation template: vicuna_v1.1 (LLaVA v1.5 was trained with it)" in result.notes


def test_what_was_trained_over_a_base_is_a_whole_model(tmp_path: Path) -> None:
    write_layout("hf_4", tmp_path / "source")
    result = convert(tmp_path, tmp_path / "source")
    model, _ = load_base(tmp_path / "base", result.config, LoraConfig(rank=2))
    set_trainable(model, TrainableConfig())
    save_trained(model, load_tokenizer(tmp_path / "base"), tmp_path / "trained", "", base=tmp_path / "base")
    loaded = load_pretrained(tmp_path / "trained").model
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_base_is_no_model_to_ask(tmp_path: Path) -> None:
    write_layout("hf_4", tmp_path / "source")
    convert(tmp_path, tmp_path / "source")
    with pytest.raises(ValueError, match=r"without PLUM's heads: it is a base to train from \(init_from\)"):
        load_pretrained(tmp_path / "base")


def test_the_command_converts_and_prints_a_model_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layout("hf_5", tmp_path / "source")
    write_sam(tmp_path / "sam.pth")
    arguments = ["convert-llava", str(tmp_path / "source"), str(tmp_path / "base"), "--sam", str(tmp_path / "sam.pth")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for part in ("conversation: vicuna_v1.1", "projector: mlp2x_gelu", "vocab_size: 448", "encoder_global_blocks: [1]"):
        assert part in printed
    assert main(arguments) == 1


def test_the_printed_block_is_a_configuration_of_the_base(tmp_path: Path) -> None:
    from plum.training.config_file import load_train_config

    write_layout("hf_5", tmp_path / "source")
    config = convert(tmp_path, tmp_path / "source").config
    block = "run_dir: runs/x\ndata: {sources: [{kind: explanatory, path: x}]}\n" + describe_model(config)
    (tmp_path / "run.yaml").write_text(block)
    loaded = load_train_config(["--config", str(tmp_path / "run.yaml")]).model
    assert replace(loaded.llava, special_tokens=config.llava.special_tokens) == config.llava
    assert loaded.sam == config.sam
    (tmp_path / "base").rename(tmp_path / "first")
    convert(tmp_path, tmp_path / "source", expected=loaded)
    (tmp_path / "base").rename(tmp_path / "second")
    other = replace(loaded, llava=replace(loaded.llava, language=replace(loaded.llava.language, num_layers=3)))
    with pytest.raises(ValueError, match=r"\(key: checkpoint, configuration\) llava.language.num_layers: 2, 3$"):
        convert(tmp_path, tmp_path / "source", expected=other)
    assert not (tmp_path / "base").exists()
