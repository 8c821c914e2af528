"""Checkpoints that must not be converted: what is wrong is said by name, and nothing is left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plum.checkpoints.published.convert_llava import ConversionRequest, convert_llava
from plum.inputs.conversation import TemplateName
from plum.inputs.encoding import ConversationEncoder
from plum.inputs.tokenizer import load_tokenizer
from plum.structures import Exchange
from tests.plum.checkpoints.published.published_llava import (
    HF_4,
    ORIGINAL,
    VOCAB,
    make_stock,
    rename,
    write_clip,
    write_hf,
    write_original,
    write_sam,
)

Change = Callable[[dict[str, Tensor]], None]


def attempt(tmp_path: Path, source: Path, clip: Path | None = None) -> None:
    sam = tmp_path / "sam.pth"
    if not sam.exists():
        write_sam(sam)
    convert_llava(ConversionRequest(source, sam, clip, "llava_v1"), tmp_path / "base")


def assert_nothing_is_left(tmp_path: Path) -> None:
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("base")] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(extra=s["lm_head.weight"]), r"unknown tensor 'extra'.*no such name"),
        (
            lambda s: s.update({"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2)}),
            r"model-0000\d-of-00002.safetensors: unknown tensor 'model.layers.0.self_attn.q_proj.lora_A.weight'",
        ),
        (
            lambda s: s.pop("model.layers.1.mlp.up_proj.weight"),
            r"lacks 1 tensors: \['model.layers.1.mlp.up_proj.weight'",
        ),
        (
            lambda s: s.pop("model.vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.bias"),
            r"lacks 1 tensors: \['model.vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.bias'",
        ),
        (
            lambda s: s.update({"model.norm.weight": torch.ones(33)}),
            r"model.norm.weight is \(33,\), but its config.json implies \(32,\)",
        ),
        (
            lambda s: s.update({"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)}),
            r"model.layers.2.mlp.up_proj.weight does not belong to a model of its sizes",
        ),
        (lambda s: s.pop("model.embed_tokens.weight"), r"nearest is 'original LLaVA with CLIP, two.*embed_tokens"),
        (
            lambda s: s.update({"lm_head.weight": torch.ones(VOCAB + 3, 32)}),
            r"lm_head.weight is \(423, 32\), but its config.json implies \(420, 32\)",
        ),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, change: Change, message: str) -> None:
    state = rename(make_stock().state_dict(), ORIGINAL)
    change(state)
    write_original(tmp_path / "source", state, "safetensors", mm_projector_type="mlp2x_gelu")
    with pytest.raises(ValueError, match=message):
        attempt(tmp_path, tmp_path / "source")
    assert_nothing_is_left(tmp_path)


def test_delta_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    model, base = make_stock(seed=0).state_dict(), make_stock(seed=1).state_dict()
    fine_tuned = {name: base[name] + 1e-3 * model[name] for name in model}
    delta = {name: fine_tuned[name] - base[name] for name in model}
    write_original(tmp_path / "delta", rename(delta, ORIGINAL), "bin")
    with pytest.raises(ValueError, match=r"delta weights.*llava.model.apply_delta --base LLAMA_FOLDER"):
        attempt(tmp_path, tmp_path / "delta")
    write_original(tmp_path / "merged-delta", rename(fine_tuned, ORIGINAL), "bin", _name_or_path="LLaVA-7B-delta-v1")
    attempt(tmp_path, tmp_path / "merged-delta")


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_damaged_and_missing_shards_are_named(tmp_path: Path, kind: str) -> None:
    state = rename(make_stock().state_dict(), HF_4)
    source = write_hf(tmp_path / "source", state, kind)
    shard = sorted(source.glob(f"*-00002.{kind}"))[1]
    whole = shard.read_bytes()
    for length in (len(whole) // 2, 100, 0):
        shard.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{shard.name} is (truncated or )?damaged"):
            attempt(tmp_path, source)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=rf"index.json names \['{shard.name}'\], which are not in the folder"):
        attempt(tmp_path, source)
    assert_nothing_is_left(tmp_path)


def test_a_shard_without_a_promised_tensor_is_named(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", rename(make_stock().state_dict(), HF_4), "bin")
    shard = source / "pytorch_model-00001-of-00002.bin"
    state = torch.load(shard, weights_only=True)
    name = sorted(state)[0]
    del state[name]
    torch.save(state, shard)
    with pytest.raises(ValueError, match=rf"{shard.name} lacks \['{name}'\], which the index promises"):
        attempt(tmp_path, source)


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[type[Path], tuple[str]]:
        return (Path, ("harm",))


def test_pickles_with_code_are_never_run(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", rename(make_stock().state_dict(), HF_4), "bin")
    torch.save({"x": Harmful()}, source / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(ValueError, match="holds more than tensors, which is never loaded"):
        attempt(tmp_path, source)


def test_an_error_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_hf(tmp_path / "source", rename(make_stock().state_dict(), HF_4))

    def fail(*arguments: object, **named: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("plum.checkpoints.weights.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        attempt(tmp_path, source)
    assert_nothing_is_left(tmp_path)


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", rename(make_stock().state_dict(), HF_4))
    (tmp_path / "base").mkdir()
    with pytest.raises(FileExistsError, match="never overwritten"):
        attempt(tmp_path, source)


def without_clip(tmp_path: Path, **config: object) -> Path:
    state = rename(make_stock().state_dict(), ORIGINAL)
    state = {name: tensor for name, tensor in state.items() if "vision_tower" not in name}
    return write_original(tmp_path / "source", state, "bin", **config)


def test_a_missing_clip_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --clip FOLDER, a download of openai/clip-vit-large-patch14"):
        attempt(tmp_path, without_clip(tmp_path))


def test_a_superfluous_clip_is_refused(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", rename(make_stock().state_dict(), HF_4))
    with pytest.raises(ValueError, match="holds its own CLIP weights: omit --clip"):
        attempt(tmp_path, source, write_clip(tmp_path / "clip", make_stock()))


def test_a_clip_of_another_resolution_is_refused(tmp_path: Path) -> None:
    source = without_clip(tmp_path, mm_vision_tower="openai/clip-vit-large-patch14-336")
    clip = write_clip(tmp_path / "clip", make_stock())
    with pytest.raises(ValueError, match=r"trained with openai/clip-vit-large-patch14-336, but .* for 16 px"):
        attempt(tmp_path, source, clip)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llava_mpt"}, "model_type is 'llava_mpt'"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature is 'cls_patch'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', plum's LLaVA has 'silu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is 'linear'"),
        ({"mm_projector_type": "linear"}, "the projector is 'linear', but the weights hold 'mlp2x_gelu'"),
        ({"vocab_size": VOCAB + 1}, r"is \(420, 32\), but its config.json implies \(421, 32\)"),
    ],
)
def test_configurations_that_plum_cannot_express_are_refused(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    source = write_original(tmp_path / "source", rename(make_stock().state_dict(), ORIGINAL), "bin", **config)
    with pytest.raises(ValueError, match=message):
        attempt(tmp_path, source)


def test_an_unknown_template_is_asked_for(tmp_path: Path) -> None:
    state = rename(make_stock().state_dict(), ORIGINAL)
    state = {name: tensor for name, tensor in state.items() if ".2.weight" not in name and ".2.bias" not in name}
    state["model.mm_projector.weight"], state["model.mm_projector.bias"] = (
        state.pop("model.mm_projector.0.weight"),
        state.pop("model.mm_projector.0.bias"),
    )
    sam = write_sam(tmp_path / "sam.pth")
    source = write_original(tmp_path / "checkpoint", state, "bin", num_hidden_layers=2)
    with pytest.raises(ValueError, match="does not show its conversation template; set --conversation to one of"):
        convert_llava(ConversionRequest(source, sam), tmp_path / "base")
    source = source.rename(tmp_path / "llava-llama-2-13b-chat-lightning-preview")
    result = convert_llava(ConversionRequest(source, sam), tmp_path / "base")
    assert result.config.llava.conversation == "llava_llama_2"
    assert result.config.llava.projector == "linear"


def write_delimited(folder: Path) -> Path:
    """A checkpoint of LLaVA v1's training: three more tokens, with rows of their own."""
    state = rename(make_stock().state_dict(), ORIGINAL)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], state[name][:3]])
    write_original(folder, state, "bin", mm_use_im_start_end=True, vocab_size=VOCAB + 3)
    tokens = {"<im_patch>": VOCAB, "<im_start>": VOCAB + 1, "<im_end>": VOCAB + 2}
    (folder / "added_tokens.json").write_text(json.dumps(tokens))
    return folder


@pytest.mark.parametrize(
    ("chosen", "template"),
    [
        ("llava_v1", "llava_v1_im_start_end"),
        ("vicuna_v1.1_im_start_end", "vicuna_v1.1_im_start_end"),
        (None, "vicuna_v1.1_im_start_end"),
    ],
)
def test_image_delimiters_of_the_training_are_kept(
    tmp_path: Path, chosen: TemplateName | None, template: TemplateName
) -> None:
    source, sam = write_delimited(tmp_path / "source"), write_sam(tmp_path / "sam.pth")
    result = convert_llava(ConversionRequest(source, sam, conversation=chosen), tmp_path / "base")
    assert result.config.llava.conversation == template
    assert any("between <im_start> and <im_end>" in note for note in result.notes)
    row = ConversationEncoder(load_tokenizer(tmp_path / "base"), template, 4).encode([Exchange("What?", "A wheel.")])
    tokens = result.config.llava.special_tokens
    assert tokens is not None
    at = row.encoded.input_ids.index(VOCAB + 1)
    # <im_start>, four patches, <im_end>.
    assert row.encoded.input_ids[at : at + 6] == (VOCAB + 1, *[tokens.image] * 4, VOCAB + 2)


@pytest.mark.parametrize("chosen", ["llava_llama_2", "plain"])
def test_templates_without_a_delimited_form_are_refused(tmp_path: Path, chosen: TemplateName) -> None:
    source, sam = write_delimited(tmp_path / "source"), write_sam(tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=rf"mm_use_im_start_end.*--conversation {chosen} does not support"):
        convert_llava(ConversionRequest(source, sam, conversation=chosen), tmp_path / "base")


def test_delimiters_that_are_no_tokens_are_refused(tmp_path: Path) -> None:
    source, sam = write_delimited(tmp_path / "source"), write_sam(tmp_path / "sam.pth")
    (source / "added_tokens.json").unlink()
    with pytest.raises(ValueError, match="its tokenizer has no <im_start> and <im_end>"):
        convert_llava(ConversionRequest(source, sam), tmp_path / "base")


def test_delimiters_are_not_put_where_there_were_none(tmp_path: Path) -> None:
    source = write_original(tmp_path / "source", rename(make_stock().state_dict(), ORIGINAL), "bin")
    request = ConversionRequest(source, write_sam(tmp_path / "sam.pth"), conversation="llava_v1_im_start_end")
    with pytest.raises(ValueError, match="mm_use_im_start_end is not true"):
        convert_llava(request, tmp_path / "base")


def test_a_folder_without_a_checkpoint_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(FileNotFoundError, match="config.json: not found"):
        attempt(tmp_path, tmp_path / "source")
    (tmp_path / "source" / "config.json").write_text(json.dumps({"model_type": "llava", "vocab_size": 3}))
    with pytest.raises(FileNotFoundError, match="has none of"):
        attempt(tmp_path, tmp_path / "source")
