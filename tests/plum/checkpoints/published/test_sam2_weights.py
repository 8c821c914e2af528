"""Folders of SAM 2 in transformers' form, as `Sam2Model.save_pretrained` writes them and as facebook publishes them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel, Sam3TrackerModel

from plum.checkpoints.published.sam2_weights import TABLES, own_sam2_name, read_sam2, read_sam2_config
from plum.models.segmenters.sam2 import build_sam2, complete_sam2, stock_config
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_model_config, tiny_sam2_config
from tests.plum.models.segmenters.test_sam2 import SAM_3, make_pixels, make_rows

WEIGHTS = "model.safetensors"


def _one_table(model: Any) -> Any:
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    return model


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "sam2.1-hiera-small"
    torch.manual_seed(3)
    _one_table(Sam2Model(stock_config(tiny_sam2_config()))).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / published.name))


def _edit_config(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / "config.json").read_text())
    edit(content)
    (folder / "config.json").write_text(json.dumps(content))


def test_a_folder_gives_the_same_masks_as_transformers(published: Path) -> None:
    found = read_sam2(published)
    assert found.config == complete_sam2(tiny_sam2_config())
    assert "Apache" in found.licence
    sam = build_sam2(found.config).eval()
    sam.load_state_dict(dict(found.weights), strict=True)
    stock = Sam2Model.from_pretrained(published).eval()
    pixels = make_pixels(1)
    fine, middle, main = stock.get_image_embeddings(pixels)
    embeddings = sam.prepare(sam.encode_images(pixels))
    for ours, theirs in zip(embeddings.maps, (main, fine, middle), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_names_are_a_model_s_own(published: Path) -> None:
    from dataclasses import replace

    model = build_model(replace(tiny_model_config(40, TINY_TOKENS), sam=tiny_sam2_config()))
    own = {own_sam2_name(name) for name in read_sam2(published).weights}
    assert own == {name for name in model.state_dict() if name.startswith("sam.")}


def test_a_video_model_s_memory_is_left_out(tmp_path: Path, published: Path) -> None:
    parts = stock_config(tiny_sam2_config()).to_dict()
    video = Sam2VideoConfig(
        **{name: parts[name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")},
        memory_attention_hidden_size=16,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=16,
        memory_encoder_hidden_size=16,
        memory_encoder_output_channels=8,
        mask_downsampler_embed_dim=16,
        memory_fuser_embed_dim=16,
    )
    _one_table(Sam2VideoModel(video)).save_pretrained(tmp_path / "video")
    assert json.loads((tmp_path / "video" / "config.json").read_text())["model_type"] == "sam2_video"
    assert "memory_temporal_positional_encoding" in load_file(tmp_path / "video" / WEIGHTS)
    found = read_sam2(tmp_path / "video")
    assert found.weights.keys() == read_sam2(published).weights.keys()
    assert found.config == complete_sam2(tiny_sam2_config())


def test_sam_3_is_read_and_its_licence_named(tmp_path: Path) -> None:
    stock = _one_table(Sam3TrackerModel(stock_config(SAM_3)))
    stock.save_pretrained(tmp_path / "sam3")
    found = read_sam2(tmp_path / "sam3")
    assert (found.config.model_type, found.config.image_size, found.config.patch_size) == ("sam3_tracker", 56, 14)
    assert "SAM License" in found.licence
    sam = build_sam2(found.config)
    sam.load_state_dict(dict(found.weights), strict=True)
    queries, _ = make_rows(sam, 1)
    assert sam.decode_masks(
        sam.prepare(sam.encode_images(make_pixels(1, 56))), queries, None, sam.dense_position()
    ).shape == (1, 16, 16)


def _drop(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["mask_decoder.conv_s0.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _add(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "mask_decoder.conv_s2.weight": torch.ones(1)}, folder / WEIGHTS, metadata={"format": "pt"})


def _replace(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file({**tensors, name: value(tensors[name])}, folder / WEIGHTS, metadata={"format": "pt"})

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop, r"lacks mask_decoder\.conv_s0\.weight"),
        (_add, r"unknown tensors: mask_decoder\.conv_s2\.weight"),
        (_replace("no_memory_embedding", lambda one: one[..., :8].contiguous()), "no_memory_embedding is .*8.*, not"),
        (_replace("no_memory_embedding", lambda one: one * float("nan")), "no_memory_embedding holds NaN"),
        (_replace(TABLES[1], lambda one: one + 1), "they are one table"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"nothing"), "sam2.1-hiera-small"),
    ],
)
def test_weights_that_do_not_fit_are_named(copied: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copied)
    with pytest.raises(ValueError, match=message) as error:
        read_sam2(copied)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content.update(model_type="sam"), "model_type is 'sam', not one of"),
        (lambda content: content.pop("model_type"), "model_type is None"),
        (
            lambda content: content["mask_decoder_config"].update(iou_head_depth=4),
            r"config\.json: mask_decoder_config\.iou_head_depth is 4, only 3",
        ),
        (lambda content: content["vision_config"].update(fpn_hidden_size=8), "fpn_hidden_size is 8"),
        (lambda content: content["prompt_encoder_config"].update(image_size="big"), "image_size"),
    ],
)
def test_other_models_are_named(copied: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    _edit_config(copied, edit)
    with pytest.raises(ValueError, match=message) as error:
        read_sam2_config(copied)
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(copied: Path) -> None:
    (copied / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="no .*safetensors"):
        read_sam2(copied)
    (copied / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        read_sam2(copied)
