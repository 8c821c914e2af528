"""Low-resolution logits to original pixels."""

import torch
from segment_anything.modeling.sam import Sam

from plum.models.mask_resize import group_by_frame, masks_in_original_pixels, resize_to_original
from plum.models.sam import build_sam
from plum.structures import ImageFrame

LANDSCAPE = ImageFrame(original=(30, 45), resized=(43, 64))
SQUARE = ImageFrame(original=(64, 64), resized=(64, 64))


def test_equals_segment_anything() -> None:
    from plum.config import SamConfig

    parts = build_sam(SamConfig(64, 16, 32, 1, 2, (), 2, 16, decoder_heads=2, decoder_mlp_dim=32))
    sam = Sam(parts.image_encoder, parts.prompt_encoder, parts.mask_decoder)
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    theirs = sam.postprocess_masks(logits[:, None], LANDSCAPE.resized, LANDSCAPE.original)[:, 0]
    torch.testing.assert_close(resize_to_original(logits, LANDSCAPE, 64), theirs)


def test_mixed_sizes_keep_their_order() -> None:
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    frames = [LANDSCAPE, SQUARE, LANDSCAPE]
    resized = masks_in_original_pixels(logits, frames, 64)
    assert [tuple(mask.shape) for mask in resized] == [(30, 45), (64, 64), (30, 45)]
    for row, frame in enumerate(frames):
        torch.testing.assert_close(resized[row], resize_to_original(logits[row][None], frame, 64)[0])


def test_constant_logits_stay_constant() -> None:
    resized = resize_to_original(torch.full((1, 16, 16), -2.5), LANDSCAPE, 64)
    torch.testing.assert_close(resized, torch.full((1, 30, 45), -2.5))


def test_groups_in_order_of_appearance() -> None:
    assert group_by_frame([SQUARE, LANDSCAPE, SQUARE]) == {SQUARE: [0, 2], LANDSCAPE: [1]}
    assert group_by_frame([]) == {}
