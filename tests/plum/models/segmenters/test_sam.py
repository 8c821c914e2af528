"""SAM's parts against segment_anything's own."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from plum.config import SamConfig
from plum.models.segmenters import sam as sam_module
from plum.models.segmenters.sam import (
    FUSED,
    FusedAttention,
    PatchConv2d,
    RowwiseMaskDecoder,
    build_sam,
    fuse_layers,
    stock_layers,
    takes_over_from_image,
    takes_over_to_image,
)
from plum.models.segmenters.sam_modules import Attention, LayerNorm2d, MaskDecoder, TwoWayAttention
from plum.structures import ImageEmbeddings

CONFIG = SamConfig(
    image_size=48,
    patch_size=8,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    encoder_global_blocks=(1,),
    encoder_window_size=4,  # 6 is no multiple of 4: windows are padded
    prompt_dim=16,
    decoder_heads=2,
    decoder_mlp_dim=32,
)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Give zero-initialised tables (relative and absolute positions) values, so that they matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def test_image_encoder_equals_segment_anything() -> None:
    sam = build_sam(CONFIG).eval()
    randomise(sam)
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    fused = sam.encode_images(pixels).main
    for block in sam.image_encoder.blocks:
        stock = Attention(32, 2, use_rel_pos=True, input_size=(block.window_size or 6,) * 2)
        stock.load_state_dict(block.attn.state_dict(), strict=True)
        block.attn = stock
    torch.testing.assert_close(fused, sam.encode_images(pixels).main, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("at_once", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (4, [3])])
def test_a_frozen_encoder_runs_a_few_images_at_a_time(at_once: int, sizes: list[int]) -> None:
    sam = build_sam(CONFIG).eval().requires_grad_(False)
    randomise(sam)
    pixels = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    assert sam.images_at_once == 1, "so that embeddings may be kept"
    expected = sam.encode_images(pixels).main
    found: list[int] = []
    sam.image_encoder.register_forward_pre_hook(lambda _, given: found.append(len(given[0])))
    sam.images_at_once = at_once
    torch.testing.assert_close(sam.encode_images(pixels).main, expected, atol=1e-5, rtol=0)
    assert found == sizes


def _watch_attention(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor | None]:
    """Return a list that gets the bias of each attention of the image encoder."""
    biases: list[torch.Tensor | None] = []
    attend = functional.scaled_dot_product_attention

    def watch(*given: torch.Tensor, attn_mask: torch.Tensor | None = None, scale: float | None = None) -> torch.Tensor:
        biases.append(attn_mask)
        return attend(*given, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watch)
    return biases


def test_large_grids_attend_head_by_head(monkeypatch: pytest.MonkeyPatch) -> None:
    sam = build_sam(CONFIG).eval()
    randomise(sam)
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    together = sam.encode_images(pixels).main
    monkeypatch.setattr(sam_module, "MAX_TOKENS_OF_ALL_HEADS", 35)  # the global block's grid has 36, a window 16
    biases = _watch_attention(monkeypatch)
    torch.testing.assert_close(sam.encode_images(pixels).main, together, atol=1e-5, rtol=0)
    assert max(bias[0].numel() for bias in biases if bias is not None) == 36 * 36


@pytest.mark.parametrize("grid", [(6, 6), (4, 9)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 4e-7), (torch.bfloat16, 6.5e-3)])
def test_large_grids_without_a_bias_equal_segment_anything(
    monkeypatch: pytest.MonkeyPatch, grid: tuple[int, int], dtype: torch.dtype, bound: float
) -> None:
    """Relative to float64; in bfloat16, segment_anything's own attention is off by as much."""
    torch.manual_seed(0)
    stock = Attention(64, 2, use_rel_pos=True, input_size=grid)
    randomise(nn.ParameterList([stock.rel_pos_h, stock.rel_pos_w]))
    ours = FusedAttention(64, 2, use_rel_pos=True, input_size=grid)
    ours.load_state_dict(stock.state_dict(), strict=True)
    monkeypatch.setattr(sam_module, "MAX_TOKENS_OF_ALL_HEADS", 35)
    monkeypatch.setattr(sam_module, "UNBIASED_DEVICES", ("cpu",))
    biases = _watch_attention(monkeypatch)
    states = torch.randn(2, *grid, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    stock, ours = stock.to(dtype), ours.to(dtype)
    exact = copy.deepcopy(stock).double()(states.double())
    found = ours(states)
    assert biases == [None], "one attention of all heads, without a bias"
    error, stock_error = (float((one.double() - exact).norm() / exact.norm()) for one in (found, stock(states)))
    assert error < bound
    assert error < 1.25 * stock_error


def test_gradients_without_a_bias_equal_segment_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = Attention(32, 2, use_rel_pos=True, input_size=(6, 6)).double()
    randomise(stock)
    ours = FusedAttention(32, 2, use_rel_pos=True, input_size=(6, 6)).double()
    ours.load_state_dict(stock.state_dict(), strict=True)
    monkeypatch.setattr(sam_module, "MAX_TOKENS_OF_ALL_HEADS", 35)
    monkeypatch.setattr(sam_module, "UNBIASED_DEVICES", ("cpu",))
    states = torch.randn(2, 6, 6, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for attention in (ours, stock):
        attention(states).square().sum().backward()
    for (name, found), (_, expected) in zip(ours.named_parameters(), stock.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-9, rtol=1e-9, msg=name)


def test_relative_positions_are_looked_up_on_their_device() -> None:
    """An index that is made on the CPU is copied for every attention, and a GPU waits for it."""
    attention = FusedAttention(32, 2, use_rel_pos=True, input_size=(6, 6))
    states = torch.zeros(1, 6, 6, 32)
    attention(states)

    with _Operations() as operations:
        attention(states)
    assert not [name for name in operations.names if "arange" in name or "_to_copy" in name]


class _Operations(TorchDispatchMode):
    """Names the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_image_encoder_gradients_equal_segment_anything() -> None:
    sam = build_sam(CONFIG)
    randomise(sam)
    block = sam.image_encoder.blocks[1].attn
    stock = Attention(32, 2, use_rel_pos=True, input_size=(6, 6))
    stock.load_state_dict(block.state_dict(), strict=True)
    states = torch.randn(2, 6, 6, 32, generator=torch.Generator().manual_seed(1))
    for attention in (block, stock):
        attention(states).square().sum().backward()
    for (name, ours), (_, theirs) in zip(block.named_parameters(), stock.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-4, msg=name)


def test_rowwise_decoder_equals_segment_anything_image_by_image() -> None:
    sam = build_sam(CONFIG).eval()
    randomise(sam)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 16, 6, 6, generator=generator)
    queries = torch.randn(5, 16, generator=generator)
    dense = torch.randn(5, 16, 6, 6, generator=generator)
    image_of_row = torch.tensor([0, 2, 1, 0, 2])
    ours = sam.decode_masks(ImageEmbeddings(images[image_of_row]), queries, dense, sam.dense_position())
    assert isinstance(sam.mask_decoder, RowwiseMaskDecoder)
    for row, image in enumerate(image_of_row.tolist()):
        with stock_layers(sam):
            assert type(sam.mask_decoder.transformer.final_attn_token_to_image) is TwoWayAttention
            theirs, _ = MaskDecoder.forward(
                sam.mask_decoder,
                image_embeddings=images[image][None],
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=queries[row][None, None],
                dense_prompt_embeddings=dense[row][None],
                multimask_output=False,
            )
        torch.testing.assert_close(ours[row], theirs[0, 0], atol=1e-5, rtol=1e-5)


class RoundedPosition(nn.Module):
    """The positional encoding of LISA's copy of segment_anything: everything in the dtype of its matrix."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, height: int, width: int) -> torch.Tensor:
        ones = torch.ones(height, width, dtype=self.matrix.dtype)
        down, right = (ones.cumsum(0) - 0.5) / height, (ones.cumsum(1) - 0.5) / width
        places = 2 * torch.stack((right, down), dim=-1) - 1
        turned = 2 * np.pi * (places.to(self.matrix.dtype) @ self.matrix)
        return torch.cat((turned.sin(), turned.cos()), dim=-1).permute(2, 0, 1)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(48, 8, 16), (1024, 16, 256)], ids=["tiny", "published"])
def test_rounded_position_is_that_of_a_bfloat16_buffer(sizes: tuple[int, int, int], weights: torch.dtype) -> None:
    side = sizes[0] // sizes[1]
    config = replace(CONFIG, image_size=sizes[0], patch_size=sizes[1], prompt_dim=sizes[2], encoder_depth=0)
    torch.manual_seed(3)
    exact, rounded = (build_sam(replace(config, position_dtype=dtype)) for dtype in ("float32", "bfloat16"))
    rounded.load_state_dict(exact.state_dict())
    original = RoundedPosition(exact.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix).to(torch.bfloat16)
    expected = original(side, side)
    assert expected.dtype == torch.bfloat16
    rounded.prompt_encoder.no_mask_embed.to(weights)
    exact.prompt_encoder.no_mask_embed.to(weights)
    found = rounded.dense_position()
    assert found.dtype == weights
    assert torch.equal(found[0].float(), expected.float())
    precise = exact.dense_position()
    assert torch.equal(precise, exact.prompt_encoder.get_dense_pe().to(weights))
    deviation = (precise - found).float().abs()
    assert deviation.max() > 0.01
    if sizes[0] == 1024 and weights == torch.float32:
        assert 0.004 < deviation.mean() < 0.007
        assert 0.1 < deviation.max() < 0.2


def test_every_layer_of_the_decoders_is_fused_for_good_and_stock_for_a_while() -> None:
    sam = build_sam(CONFIG)
    kinds = {type(module) for module in sam.modules()}
    assert {*FUSED.values(), PatchConv2d} <= kinds
    assert not {*FUSED} & kinds
    assert {type(layer) for layer in sam.prompt_encoder.mask_downscaling} == {PatchConv2d, FUSED[LayerNorm2d], nn.GELU}
    with stock_layers(sam):
        assert not {*FUSED.values(), PatchConv2d} & {type(module) for module in sam.modules()}
    assert {type(module) for module in sam.modules()} == kinds


def test_mask_encoder_and_its_gradients_equal_segment_anything() -> None:
    sam = build_sam(CONFIG)
    randomise(sam)
    layers = sam.prompt_encoder.mask_downscaling
    masks = torch.randn(3, 1, 24, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tensors = [masks, *layers.parameters()]
    ours = layers(masks)
    our_gradients = torch.autograd.grad(ours.square().sum(), tensors)
    with stock_layers(sam):
        theirs = layers(masks)
        their_gradients = torch.autograd.grad(theirs.square().sum(), tensors)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_gradients, their_gradients, atol=1e-4, rtol=1e-4)


def test_no_dense_prompt_is_sams_own_no_mask_prompt() -> None:
    sam = build_sam(CONFIG).eval()
    randomise(sam)
    generator = torch.Generator().manual_seed(1)
    images, queries = torch.randn(2, 16, 6, 6, generator=generator), torch.randn(2, 16, generator=generator)
    _, dense = sam.prompt_encoder(points=None, boxes=torch.zeros(2, 4), masks=None)
    given = sam.decode_masks(ImageEmbeddings(images), queries, dense, sam.dense_position())
    torch.testing.assert_close(
        sam.decode_masks(ImageEmbeddings(images), queries, None, sam.dense_position()), given, atol=0, rtol=0
    )


def test_state_has_the_names_of_published_checkpoints() -> None:
    names = set(build_sam(CONFIG).state_dict())
    assert {
        "image_encoder.pos_embed",
        "image_encoder.blocks.0.attn.rel_pos_h",
        "image_encoder.neck.3.bias",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.not_a_point_embed.weight",
        "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias",
        "mask_decoder.iou_prediction_head.layers.2.weight",
    } <= names


def test_checkpoint_of_another_size_is_refused() -> None:
    other = build_sam(SamConfig(**{**CONFIG.__dict__, "encoder_depth": 1, "encoder_global_blocks": ()}))
    with pytest.raises(ValueError, match=r"(?s)48 px, 2 blocks.*blocks\.1\."):
        build_sam(CONFIG).load_sam_checkpoint(other.state_dict())


def test_checkpoint_loads_strictly() -> None:
    source, target = build_sam(CONFIG), build_sam(CONFIG)
    target.load_sam_checkpoint(source.state_dict())
    torch.testing.assert_close(target.state_dict(), source.state_dict())


def test_a_checkpoint_with_a_tensor_too_few_or_too_many_is_refused() -> None:
    state = build_sam(CONFIG).state_dict()
    first, *others = state
    with pytest.raises(ValueError, match=rf"(?s)not a SAM checkpoint for this model.*Missing key.*{first}"):
        build_sam(CONFIG).load_sam_checkpoint({key: state[key] for key in others})
    with pytest.raises(ValueError, match=r"(?s)not a SAM checkpoint for this model.*Unexpected key.*of_another_model"):
        build_sam(CONFIG).load_sam_checkpoint(state | {"of_another_model": state[first]})


def test_sincos_positions_are_half_of_sines_and_cosines() -> None:
    config = SamConfig(**{**CONFIG.__dict__, "position_init": "sincos"})
    position = build_sam(config).image_encoder.pos_embed
    assert position is not None
    # Cell (y 2, x 0), d 32: channels 0, 8, 16, 24 are sin 2, cos 2, sin 0, cos 0, each / 2.
    expected = torch.tensor([0.454649, -0.208073, 0.0, 0.5])
    torch.testing.assert_close(position[0, 2, 0, ::8].detach(), expected, atol=1e-5, rtol=0)
    assert float(build_sam(CONFIG).image_encoder.pos_embed.detach().abs().max()) == 0.0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02)]
)
@pytest.mark.parametrize("is_from_image", [True, False])
def test_image_and_few_tokens_attend_as_segment_anythings_do(
    dtype: torch.dtype, tolerance: float, is_from_image: bool
) -> None:
    """2 heads and 6 tokens: 12 vectors stand for 32 internal channels."""
    torch.manual_seed(0)
    stock = TwoWayAttention(64, 2, downsample_rate=2).double()
    fused = FUSED[TwoWayAttention](64, 2, downsample_rate=2).to(dtype)
    fused.load_state_dict(stock.state_dict())
    image, tokens = torch.randn(3, 50, 64), torch.randn(3, 6, 64)
    given = [image, tokens, tokens + 1] if is_from_image else [tokens, image, image + 1]
    ours = [tensor.detach().to(dtype).requires_grad_() for tensor in given]
    theirs = [tensor.detach().double().clone().requires_grad_() for tensor in given]
    attended, expected = fused(*ours), stock(*theirs)
    torch.testing.assert_close(attended.double(), expected, atol=tolerance, rtol=tolerance)
    attended.double().square().sum().backward()
    expected.square().sum().backward()
    for mine, other in zip([*ours, *fused.parameters()], [*theirs, *stock.parameters()], strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        if float(other.grad.norm()) > 1e-9:  # of the keys' bias nothing comes through the softmax
            assert float((mine.grad.double() - other.grad).norm() / other.grad.norm()) < 3 * tolerance


def test_convolutions_with_overlapping_patches_stay() -> None:
    sam = build_sam(CONFIG)
    sam.prompt_encoder.mask_downscaling[0] = nn.Conv2d(1, 4, kernel_size=3, stride=2, padding=1)
    fuse_layers(sam)
    assert type(sam.prompt_encoder.mask_downscaling[0]) is nn.Conv2d


def test_which_attentions_tokens_take_over() -> None:
    """SAM's 8 heads and 6 tokens have 128 internal channels, tiny's 4 heads 32."""
    assert (takes_over_from_image(8 * 6, 128), takes_over_to_image(8 * 6, 128)) == (True, True)
    assert (takes_over_from_image(4 * 6, 32), takes_over_to_image(4 * 6, 32)) == (True, False)
    assert (takes_over_from_image(2 * 6, 8), takes_over_to_image(2 * 6, 8)) == (False, False)
