"""SAM 2 and its relatives against transformers' own models."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from transformers import Sam2Model, Sam3TrackerModel

from plum.config import Sam2Config
from plum.models.segmenters.build import build_segmenter, complete_sizes
from plum.models.segmenters.sam2 import Sam2, build_sam2, stock_config
from plum.models.tiny import tiny_sam2_config
from plum.structures import ImageEmbeddings
from scripts.bench.sizes import HIERA_LARGE
from tests.plum.models.segmenters.test_sam import randomise

SAM_3 = Sam2Config(
    model_type="sam3_tracker",
    image_size=56,
    patch_size=14,
    prompt_dim=16,
    decoder_heads=2,
    decoder_mlp_dim=32,
    vision={
        "backbone_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "window_size": 2,
            "global_attn_indexes": [1],
            "pretrain_image_size": 28,
        }
    },
)
"""facebook/sam2.1-hiera-large, config.json."""


def make_sam2(config: Sam2Config | None = None) -> Sam2:
    torch.manual_seed(0)
    sam = build_sam2(config or tiny_sam2_config())
    randomise(sam)  # positions and `no_memory_embedding` start as zeros
    return sam.eval()


def make_stock(sam: Sam2) -> Sam2Model:
    """transformers' own model with the same weights, its choice by stability off."""
    stock = Sam2Model(stock_config(tiny_sam2_config())).eval()
    stock.load_state_dict(sam.state_dict(), strict=True)
    stock.mask_decoder.dynamic_multimask_via_stability = False
    return stock


def make_pixels(count: int, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def make_rows(sam: Sam2, count: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Random queries [R, C] and dense prompts [R, C, h, w]."""
    generator = torch.Generator().manual_seed(seed)
    shape = sam.map_shapes()[0]
    return torch.randn(count, shape[0], generator=generator), torch.randn(count, *shape, generator=generator)


def test_embeddings_and_position_equal_transformers() -> None:
    sam = make_sam2()
    stock, pixels = make_stock(sam), make_pixels(2)
    fine, middle, main = stock.get_image_embeddings(pixels)
    found = sam.prepare(sam.encode_images(pixels))
    assert torch.equal(found.main, main)
    for ours, theirs in zip(found.finer, (fine, middle), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(sam.dense_position(), stock.get_image_wide_positional_embeddings(), atol=1e-6, rtol=0)
    assert [tuple(one.shape[1:]) for one in found.maps] == list(sam.map_shapes())


def test_masks_equal_those_of_a_point_in_transformers() -> None:
    """A point's own sparse prompts, decoded here, give the mask of transformers' forward pass."""
    sam = make_sam2()
    stock, pixels = make_stock(sam), make_pixels(2)
    points = torch.tensor([[[[10.0, 20.0]]], [[[50.0, 3.0]]]])
    expected = stock(pixel_values=pixels, input_points=points, multimask_output=False).pred_masks[:, 0, 0]
    sparse, dense = stock.get_prompt_embeddings(input_points=points, input_labels=torch.ones(2, 1, 1, dtype=torch.int))
    embeddings = sam.prepare(sam.encode_images(pixels))
    found, *_ = sam.mask_decoder(
        image_embeddings=embeddings.main,
        image_positional_embeddings=sam.dense_position().expand(2, -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        high_resolution_features=list(embeddings.finer),
    )
    torch.testing.assert_close(found[:, 0, 0], expected, atol=1e-6, rtol=0)
    # One sparse prompt of ours: transformers' decoder with the same prompt.
    queries, _ = make_rows(sam, 2)
    theirs, *_ = stock.mask_decoder(
        image_embeddings=embeddings.main,
        image_positional_embeddings=stock.get_image_wide_positional_embeddings().repeat(2, 1, 1, 1),
        sparse_prompt_embeddings=queries[:, None, None],
        dense_prompt_embeddings=dense,
        multimask_output=False,
        high_resolution_features=list(embeddings.finer),
    )
    ours = sam.decode_masks(embeddings, queries, None, sam.dense_position())
    torch.testing.assert_close(ours, theirs[:, 0, 0], atol=1e-6, rtol=0)


def test_two_masks_of_one_image_have_their_own_dense_prompts() -> None:
    sam = make_sam2()
    queries, dense = make_rows(sam, 2)
    image = sam.prepare(sam.encode_images(make_pixels(1)))
    both = torch.tensor([0, 0])
    together = sam.decode_masks(image[both], queries, dense, sam.dense_position())
    for row in range(2):
        alone = sam.decode_masks(image, queries[row : row + 1], dense[row : row + 1], sam.dense_position())
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)
    swapped = sam.decode_masks(image[both], queries, dense.flip(0), sam.dense_position())
    assert not torch.allclose(swapped, together, atol=0.01)


def test_training_and_evaluation_decode_the_same_mask() -> None:
    """transformers switches masks by their stability in evaluation only; here no mode does."""
    sam = make_sam2()
    stock = make_stock(sam)
    stock.mask_decoder.dynamic_multimask_via_stability = True
    queries, dense = make_rows(sam, 4)
    embeddings = sam.prepare(sam.encode_images(make_pixels(1)))[torch.zeros(4, dtype=torch.long)]
    position = sam.dense_position()
    in_evaluation = sam.decode_masks(embeddings, queries, dense, position)
    assert torch.equal(sam.train().decode_masks(embeddings, queries, dense, position), in_evaluation)
    switched = stock.mask_decoder(
        image_embeddings=embeddings.main,
        image_positional_embeddings=position.expand(4, -1, -1, -1),
        sparse_prompt_embeddings=queries[:, None, None],
        dense_prompt_embeddings=dense,
        multimask_output=False,
        high_resolution_features=list(embeddings.finer),
    )[0][:, 0, 0]
    assert not torch.allclose(switched, in_evaluation, atol=0.01)  # the case is one in which stability would switch


def test_the_mask_encoder_equals_transformers() -> None:
    sam = make_sam2()
    masks = torch.randn(3, 1, 16, 16)
    layers = sam.mask_layers()
    assert len(layers) == 7
    assert torch.equal(layers(masks), sam.prompt_encoder.mask_embed(masks))
    assert not any("mask_layers" in name or name.startswith("0.") for name in sam.state_dict())


def test_names_are_those_of_transformers_checkpoints() -> None:
    sam = make_sam2()
    assert sam.state_dict().keys() == Sam2Model(stock_config(tiny_sam2_config())).state_dict().keys()
    # Checkpoints hold the positional table twice, and transformers draws it twice.
    prompts = sam.prompt_encoder.shared_embedding.positional_embedding
    assert torch.equal(sam.shared_image_embedding.positional_embedding, prompts)


@pytest.mark.parametrize("is_encoder_trained", [False, True])
def test_gradients_reach_every_trained_part(is_encoder_trained: bool) -> None:
    sam = make_sam2()
    for name, parameter in sam.named_parameters():
        is_encoder = name.startswith(("vision_encoder.", "no_memory_embedding"))
        parameter.requires_grad_(is_encoder_trained or not is_encoder)
    queries, dense = (one.requires_grad_() for one in make_rows(sam, 2))
    encoded = sam.encode_images(make_pixels(2))
    assert encoded.main.requires_grad == is_encoder_trained
    masks = sam.decode_masks(sam.prepare(encoded), queries, dense, sam.dense_position())
    masks.square().mean().backward()
    for leaf in (queries, dense, sam.mask_decoder.conv_s0.weight, sam.mask_decoder.conv_s1.weight):
        assert leaf.grad is not None
        assert float(leaf.grad.abs().max()) > 0
    first = sam.vision_encoder.backbone.patch_embed.projection.weight
    for leaf in (first, sam.no_memory_embedding):
        assert (leaf.grad is not None and float(leaf.grad.abs().max()) > 0) == is_encoder_trained


def test_a_frozen_encoder_runs_image_by_image() -> None:
    """Embeddings that are kept do not depend on the other images of their batch."""
    sam = make_sam2().requires_grad_(False)
    pixels, sizes = make_pixels(3), []
    sam.vision_encoder.register_forward_hook(lambda _module, given, _found: sizes.append(len(given[0])))
    together = sam.encode_images(pixels)
    assert sizes == [1, 1, 1]
    assert torch.equal(together.finer[0][1:2], sam.encode_images(pixels[1:2]).finer[0])


def test_prepared_embeddings_stay_as_they_are() -> None:
    sam = make_sam2()
    once = sam.prepare(sam.encode_images(make_pixels(1)))
    assert sam.prepare(once) is once


def test_decoder_convolutions_decide_what_may_be_kept() -> None:
    sam = make_sam2()
    assert sam.prepares_with_trained_weights
    sam.mask_decoder.requires_grad_(False)
    assert not sam.prepares_with_trained_weights
    kept = {prepared: sam.weights_of_embeddings(prepared).keys() for prepared in (False, True)}
    assert kept[True] - kept[False] == {
        f"mask_decoder.{name}.{kind}" for name in ("conv_s0", "conv_s1") for kind in ("weight", "bias")
    }
    assert {"no_memory_embedding", "vision_encoder.backbone.pos_embed"} <= kept[False]


@pytest.mark.parametrize(("dtype", "prepared", "raw"), [(torch.float32, 16.8, 88.1), (torch.bfloat16, 8.4, 44.0)])
def test_bytes_of_an_image_at_full_size(dtype: torch.dtype, prepared: float, raw: float) -> None:
    with torch.device("meta"):
        sam = build_sam2(HIERA_LARGE)
        embeddings = sam.encode_images(torch.zeros(1, 3, 1024, 1024))
    assert sam.bytes_per_image(dtype) / 1e6 == pytest.approx(prepared, abs=0.05)
    assert sam.bytes_per_image(dtype, is_prepared=False) / 1e6 == pytest.approx(raw, abs=0.05)
    assert sam.bytes_per_image(torch.float32, is_prepared=False) == embeddings.nbytes


def test_images_without_a_target_need_no_memory() -> None:
    sam = make_sam2()
    nothing = sam.no_embeddings(1000, torch.zeros(1))
    assert [tuple(one.shape) for one in nothing.maps] == [(1000, *shape) for shape in sam.map_shapes()]
    assert sum(one.untyped_storage().nbytes() for one in nothing.maps) == sam.bytes_per_image(torch.float32)


def test_batch_norms_of_an_encoder_keep_their_statistics() -> None:
    sam = make_sam2()
    sam.vision_encoder.norm = nn.BatchNorm2d(3)  # EdgeTAM's encoder has some
    sam.train()
    assert sam.mask_decoder.training
    assert not any(module.training for module in sam.vision_encoder.modules())


def test_sam_3_decodes_as_transformers_does() -> None:
    sam = make_sam2(SAM_3)
    with torch.no_grad():
        sam.no_memory_embedding.zero_()  # transformers adds it to a map that it does not use
    stock = Sam3TrackerModel(stock_config(SAM_3)).eval()
    stock.load_state_dict(sam.state_dict(), strict=True)
    pixels, queries = make_pixels(2, 56), make_rows(sam, 2)[0]
    fine, middle, main = stock.get_image_embeddings(pixels)
    embeddings = sam.prepare(sam.encode_images(pixels))
    for ours, theirs in zip(embeddings.maps, (main, fine, middle), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert sam.decode_masks(embeddings, queries, None, sam.dense_position()).shape == (2, 16, 16)
    assert sam.grid == (4, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vision": {"fpn_hidden_size": 3}}, r"vision\.fpn_hidden_size is 3, but .* make it 16"),
        ({"vision": {"blocks": 3}}, r"vision\.blocks is not a size of this image encoder"),
        ({"vision": {"backbone_config": {"depth": 3}}}, r"vision\.backbone_config\.depth is not a size"),
        ({"vision": {"backbone_config": {"hidden_size": "x"}}}, "hidden_size"),
        ({"image_size": 100}, "does not run at 100 px"),
        ({"patch_size": 8}, "set patch_size and prompt_dim"),
        ({"vision": {"backbone_config": {"global_attention_blocks": [1]}}}, "first block is not global"),
    ],
)
def test_sizes_that_cannot_be_built_are_named(changed: dict[str, object], message: str) -> None:
    config = replace(tiny_sam2_config(), **changed)  # type: ignore[arg-type]
    if "vision" in changed:
        vision = tiny_sam2_config().vision
        backbone = {**vision["backbone_config"], **changed["vision"].get("backbone_config", {})}  # type: ignore[attr-defined]
        config = replace(config, vision={**vision, **changed["vision"], "backbone_config": backbone})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=message):
        complete_sizes(config)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_edgetam_names_the_package_that_it_needs() -> None:
    with pytest.raises(ValueError, match="edgetam needs the packages timm and torchvision"):
        complete_sizes(Sam2Config(model_type="edgetam"))


def test_complete_sizes_name_everything_and_stay() -> None:
    complete = complete_sizes(tiny_sam2_config())
    assert isinstance(complete, Sam2Config)
    assert complete.vision["backbone_config"]["patch_stride"] == [4, 4]
    assert complete_sizes(complete) == complete
    first, second = (build_segmenter(one) for one in (tiny_sam2_config(), complete))
    assert {name: one.shape for name, one in first.state_dict().items()} == {
        name: one.shape for name, one in second.state_dict().items()
    }


def test_rows_of_embeddings() -> None:
    maps = [torch.arange(6.0).view(3, 2, 1, 1), torch.arange(12.0).view(3, 1, 2, 2)]
    three = ImageEmbeddings.of_maps(maps)
    assert three.nbytes == (6 + 12) * 4
    assert len(three) == 3
    back = ImageEmbeddings.concatenate([three[2:], three[:2]])[torch.tensor([1, 2, 0])]
    assert all(torch.equal(ours, given) for ours, given in zip(back.maps, maps, strict=True))
    spread = three[:2].spread(torch.tensor([3, 1]), 4)
    assert spread.main[:, 0, 0, 0].tolist() == [0, 2, 0, 0]
    assert torch.equal(spread.finer[0][3], maps[1][0])
    assert not spread.finer[0][0].any()
