"""The converter's parts: key tables, bounded memory, SAM's files, tokenizers."""

import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from plum.checkpoints.published.convert_llava import ConversionRequest, convert_llava
from plum.checkpoints.published.llava_config import choose_fit, read_source_config
from plum.checkpoints.published.llava_keys import CLIP_LAYOUTS, LAYOUTS, Layout, detect_layout
from plum.checkpoints.published.llava_tokenizer import read_source_tokenizer
from plum.checkpoints.published.sam_weights import read_sam_config, variant_name
from plum.checkpoints.weights import ShardWriter, list_tensors
from plum.config import Conversation, Fit, SamConfig
from plum.inputs.tokenizer import load_tokenizer
from plum.models.segmenters.sam import build_sam
from plum.models.systems.special_tokens import read_special_tokens, with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.structures import ImageEmbeddings
from tests.plum.checkpoints.published.published_llava import (
    HF_4,
    make_sam_parts,
    make_stock,
    rename,
    sam_state,
    sentencepiece_model,
    write_hf,
    write_sam,
    write_tokenizer,
)


@pytest.mark.parametrize("layout", [*LAYOUTS, *CLIP_LAYOUTS], ids=lambda layout: layout.name)
def test_the_inverse_leads_back(layout: Layout) -> None:
    for published, own in layout.table:
        name = published.replace("{}", "17")
        assert layout.own_name(name) == own.replace("{}", "17")
        assert layout.published_name(own.replace("{}", "17")) == name


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layouts_own_names_detect_it(layout: Layout) -> None:
    assert detect_layout([published for published, _ in layout.table], LAYOUTS, "here") is layout


def test_names_outside_the_table_are_dropped_only_when_listed() -> None:
    original, clip = LAYOUTS[4], CLIP_LAYOUTS[0]
    assert original.own_name("model.layers.3.self_attn.rotary_emb.inv_freq") is None
    assert clip.own_name("text_model.encoder.layers.0.mlp.fc1.weight") is None
    for name in ("model.image_newline", "model.layers.x.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.bias"):
        with pytest.raises(ValueError, match=f"unknown tensor '{name}'"):
            original.own_name(name)


def test_one_shard_at_a_time_is_held(tmp_path: Path) -> None:
    """20 tensors of 4,000 bytes, shards of 10,000: two to a shard, so that no more than three are ever alive."""
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    writer = ShardWriter(tmp_path, "model", max_bytes=10_000)
    for number in range(20):
        tensor = torch.full((1000,), float(number))
        alive.append(weakref.ref(tensor))
        most = max(most, sum(reference() is not None for reference in alive))
        writer.add(f"t{number:02}", tensor)
    writer.finish()
    assert most <= 3
    assert len(list(tmp_path.glob("model-*-of-00010.safetensors"))) == 10
    assert sorted(list_tensors(tmp_path, "model")) == [f"t{number:02}" for number in range(20)]


def test_a_tensor_that_comes_twice_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "model", max_bytes=10)
    writer.add("a", torch.ones(3))
    writer.add("b", torch.ones(3))
    with pytest.raises(ValueError, match="a was added twice"):
        writer.add("a", torch.ones(3))


def test_a_part_of_a_larger_storage_is_written_alone(tmp_path: Path) -> None:
    large = torch.arange(100.0)
    writer = ShardWriter(tmp_path, "model", max_bytes=1000)
    writer.add("part", large[10:20].view(2, 5).T)
    writer.finish()
    assert (tmp_path / "model.safetensors").stat().st_size < 300
    assert list_tensors(tmp_path, "model")["part"].shape == (5, 2)


def test_sam_loads_strictly_and_computes_the_same(tmp_path: Path) -> None:
    config = read_sam_config(write_sam(tmp_path / "sam_vit_t.pth"))
    assert config.image_size == 32
    assert (config.encoder_heads, config.encoder_global_blocks, config.encoder_window_size) == (2, (1,), 3)
    sam = build_sam(config).eval()
    sam.load_sam_checkpoint(torch.load(tmp_path / "sam_vit_t.pth", weights_only=True))
    encoder, prompt, decoder = make_sam_parts()
    generator = torch.Generator().manual_seed(1)
    pixels, query = torch.randn(1, 3, 32, 32, generator=generator), torch.randn(1, 16, generator=generator)
    with torch.no_grad():
        embedding = encoder(pixels)
        torch.testing.assert_close(sam.encode_images(pixels).main, embedding, atol=1e-5, rtol=1e-4)
        dense = prompt.no_mask_embed.weight[..., None, None].expand(1, -1, 4, 4)
        theirs, _ = decoder(embedding, prompt.get_dense_pe(), query[:, None], dense, multimask_output=False)
        ours = sam.decode_masks(ImageEmbeddings(embedding), query, None, sam.dense_position())
    torch.testing.assert_close(ours, theirs[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B", SamConfig(encoder_dim=768, encoder_depth=12, encoder_heads=12, encoder_global_blocks=(2, 5, 8, 11))),
        ("ViT-L", SamConfig(encoder_dim=1024, encoder_depth=24, encoder_global_blocks=(5, 11, 17, 23))),
        ("ViT-H", SamConfig()),
    ],
)
def test_published_sizes_are_read_off_the_shapes(
    name: str, expected: SamConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The sizes of segment-anything's build_sam.py, from tensors without memory."""
    with torch.device("meta"):
        state = build_sam(expected).state_dict()
    (tmp_path / "sam.pth").touch()
    monkeypatch.setattr("plum.checkpoints.published.source_files._load_pickle", lambda path: dict(state))
    found = read_sam_config(tmp_path / "sam.pth")
    assert found == expected
    assert variant_name(found) == name


def test_sam_files_are_checked_by_name_and_variant(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "llava-hf", rename(make_stock().state_dict(), HF_4))
    path = tmp_path / "sam.pth"
    for change, message in (
        ({"image_encoder.pos_embed": None}, "no tensor 'image_encoder.pos_embed': it is not a SAM checkpoint"),
        ({"mask_decoder.iou_token.weight": None}, r"lacks 1 tensors: \['mask_decoder.iou_token.weight'\]"),
        ({"extra": torch.ones(1)}, "sam.pth: extra does not belong"),
        ({"mask_decoder.iou_token.weight": torch.ones(1, 9)}, r"iou_token.weight is \(1, 9\)"),
    ):
        state = sam_state() | change
        torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)
        with pytest.raises(ValueError, match=message):
            convert_llava(ConversionRequest(source, path), tmp_path / "base")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"sam.pth is (truncated or )?damaged"):
        convert_llava(ConversionRequest(source, path), tmp_path / "base")
    assert not list(tmp_path.glob("base*"))


def test_the_expected_sam_is_named(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "llava-hf", rename(make_stock().state_dict(), HF_4))
    sam = write_sam(tmp_path / "sam.pth")
    config = convert_llava(ConversionRequest(source, sam), tmp_path / "base").config
    with pytest.raises(ValueError, match=r"sam.encoder_depth: 2, 32.*an encoder of 2 blocks of 32.* ViT-H\)"):
        convert_llava(ConversionRequest(source, sam, expected=replace(config, sam=SamConfig())), tmp_path / "other")


TEXT = "USER: <image>\nWhere is the wheel? ASSISTANT: It is the front wheel. </s>USER: And the rest?"


def pieces(folder: Path, text: str = TEXT) -> list[str]:
    """Tokens of a converted tokenizer, after a round through the disk."""
    converted = read_source_tokenizer(folder)
    converted.tokenizer.save_pretrained(str(folder / "saved"))
    loaded = load_tokenizer(folder / "saved")
    tokens = loaded.convert_ids_to_tokens(loaded(text)["input_ids"])
    assert tokens == converted.tokenizer.convert_ids_to_tokens(converted.tokenizer(text)["input_ids"])
    return list(tokens)


def reference(*stretches: str) -> list[str]:
    """SentencePiece's own tokens of stretches of text, each with its word mark in front."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    return [piece for stretch in stretches for piece in processor.encode(stretch, out_type=str)]


@pytest.mark.parametrize("settings", [{}, {"legacy": True}])
def test_a_legacy_sentencepiece_model_marks_every_stretch(tmp_path: Path, settings: dict[str, object]) -> None:
    """What slow tokenizers did before `legacy` existed: every stretch between special tokens by itself."""
    write_tokenizer(tmp_path, **settings)
    expected = ["<s>", *reference("USER: "), "<image>"]
    expected += [*reference("\nWhere is the wheel? ASSISTANT: It is the front wheel. "), "</s>"]
    assert pieces(tmp_path) == [*expected, *reference("USER: And the rest?")]


def test_a_newer_sentencepiece_model_marks_the_beginning_and_what_follows_the_image(tmp_path: Path) -> None:
    """LLaVA tokenizes what follows `<image>` by itself; after `</s>` there is no mark."""
    write_tokenizer(tmp_path, legacy=False)
    first, *others = reference("USER: And the rest?")
    expected = ["<s>", *reference("USER: "), "<image>"]
    expected += [*reference("\nWhere is the wheel? ASSISTANT: It is the front wheel. "), "</s>"]
    tokens = pieces(tmp_path)
    assert tokens[: len(expected)] == expected
    rest = tokens[len(expected) :]
    assert not rest[0].startswith("▁")
    assert "".join(rest) == "".join([first, *others]).removeprefix("▁")


def test_tokenizer_json_is_taken_as_it_is(tmp_path: Path) -> None:
    """transformers 5 would rebuild it without the mark after `</s>` and `<image>`."""
    write_tokenizer(tmp_path)
    read_source_tokenizer(tmp_path).tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer.model").unlink()
    own = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "USER: And?</s>USER: And?"
    assert pieces(tmp_path, text) == own.encode(text).tokens
    assert AutoTokenizer.from_pretrained(str(tmp_path)).tokenize(text) != own.encode(text).tokens[1:]


def test_models_saved_before_rows_without_a_token_were_suppressed_keep_their_ids(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = read_source_tokenizer(tmp_path).tokenizer  # 422 tokens
    fresh = with_special_tokens(tiny_model_config(424), tokenizer).llava.special_tokens
    assert fresh is not None
    assert fresh.suppressed == (420, 421, 422, 423)
    older = tiny_model_config(424, read_special_tokens(tokenizer, tiny_model_config(424).backbone))
    assert with_special_tokens(older, tokenizer) == older
    with pytest.raises(ValueError, match="another model's tokenizer"):
        with_special_tokens(tiny_model_config(424, replace(fresh, image=5)), tokenizer)


def test_a_pad_token_of_the_checkpoint_is_kept(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<unk>"}}))
    converted = read_source_tokenizer(tmp_path)
    assert converted.tokenizer.pad_token == "<unk>"
    assert converted.added_tokens == ("<image>",)


def test_a_tokenizer_without_a_begin_token_in_front_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, add_bos_token=False)
    with pytest.raises(ValueError, match="does not put <s> in front of a text"):
        read_source_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer.json nor tokenizer.model"):
        read_source_tokenizer(tmp_path)


def test_the_fit_is_the_one_that_the_checkpoint_names_or_its_template_had(tmp_path: Path) -> None:
    def fit_of(ratio: str | None, conversation: Conversation, chosen: Fit | None = None) -> Fit:
        content = {"model_type": "llava"} | ({} if ratio is None else {"image_aspect_ratio": ratio})
        (tmp_path / "config.json").write_text(json.dumps(content))
        return choose_fit(read_source_config(tmp_path), conversation, chosen)[0]

    assert [fit_of(ratio, "vicuna_v1.1") for ratio in ("pad", "square", None)] == ["pad", "crop", "pad"]
    assert [fit_of(ratio, "llava_v1") for ratio in ("pad", "square", None)] == ["pad", "crop", "crop"]
    assert fit_of(None, "llava_llama_2") == "crop"
    assert fit_of("anyres", "llava_v1", "stretch") == "stretch"
    with pytest.raises(ValueError, match=r"config\.json: image_aspect_ratio is 'anyres', plum has \['square', 'pad'\]"):
        fit_of("anyres", "llava_v1")
