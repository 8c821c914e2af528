"""Low-resolution logits to original pixels."""

import torch

from plum.models.segmenters.mask_resize import (
    group_by_frame,
    masks_in_original_pixels,
    resize_matrix,
    resize_to_original,
)
from plum.models.segmenters.sam import build_sam
from plum.models.segmenters.sam_modules import Sam
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


def test_stretched_masks_are_resized_in_each_direction_by_hand() -> None:
    """Two mask pixels a side, a square of 4, an image of 2 x 4: columns as they are in the square, rows halved.

    Enlarging (0, 8) to four pixels with half-pixel centres gives (0, 2, 6, 8); halving averages neighbours: (1, 7).
    """
    frame = ImageFrame(original=(2, 4), resized=(4, 4))
    across = resize_to_original(torch.tensor([[[0.0, 8.0], [0.0, 8.0]]]), frame, 4)[0]
    assert across.tolist() == [[0.0, 2.0, 6.0, 8.0]] * 2
    down = resize_to_original(torch.tensor([[[0.0, 0.0], [8.0, 8.0]]]), frame, 4)[0]
    assert down.tolist() == [[1.0] * 4, [7.0] * 4]
    padded = resize_to_original(torch.tensor([[[0.0, 0.0], [8.0, 8.0]]]), ImageFrame((2, 4), (2, 4)), 4)[0]
    assert padded.tolist() == [[0.0] * 4, [2.0] * 4]  # SAM's frame of the same image: the lower half is padding


def test_gradients_equal_those_of_two_resizes() -> None:
    """At SAM's own sizes: 256 to 1024, cut, down to a photograph."""
    frame = ImageFrame(original=(48, 64), resized=(192, 256))
    logits = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)).mul(10).requires_grad_()
    target = torch.randn(2, 48, 64, generator=torch.Generator().manual_seed(1))
    enlarged = torch.nn.functional.interpolate(logits[:, None], (256, 256), mode="bilinear")[..., :192, :256]
    expected = torch.nn.functional.interpolate(enlarged, (48, 64), mode="bilinear")[:, 0]
    found = resize_to_original(logits, frame, 256)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((one * target).sum(), logits)[0] for one in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


def test_rows_of_the_matrix_golden() -> None:
    # 2 pixels to 4 have centres -.25, .25, .75, 1.25 in units of the 2; outside the border pixel counts alone.
    expected = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
    torch.testing.assert_close(resize_matrix(2, 4, 4, 4, torch.device("cpu")), expected)
    assert torch.equal(resize_matrix(3, 3, 3, 3, torch.device("cpu")), torch.eye(3))
    # Cut to the first 2 of the 4, then halved: the mean of the first two rows.
    torch.testing.assert_close(resize_matrix(2, 4, 2, 1, torch.device("cpu")), torch.tensor([[0.875, 0.125]]))


def test_training_follows_inference() -> None:
    """The matrices are kept between calls: one first asked for in inference must serve a backward pass later."""
    resize_matrix.cache_clear()
    logits = torch.randn(1, 16, 16, requires_grad=True)
    with torch.inference_mode():
        resize_to_original(logits, LANDSCAPE, 64)
    resize_to_original(logits, LANDSCAPE, 64).sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.any())


def test_bfloat16_logits_are_resized_in_float32() -> None:
    assert resize_to_original(torch.zeros(1, 16, 16, dtype=torch.bfloat16), LANDSCAPE, 64).dtype == torch.float32


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
