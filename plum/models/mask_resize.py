"""Low-resolution mask logits to original-image pixels, as SAM does it, for many masks at once.

Source: facebookresearch/segment-anything, `Sam.postprocess_masks`.
"""

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from plum.structures import ImageFrame


def resize_to_original(mask_logits: Tensor, frame: ImageFrame, padded_size: int) -> Tensor:
    """Bring the mask logits of images of one size to original-image pixels.

    Args:
        mask_logits: [m, 4h, 4w] in the frame of SAM's padded input.
        frame: sizes of the image before and after SAM's resizing.
        padded_size: side of SAM's padded input in pixels.

    Returns:
        Logits [m, H, W], float32: enlarged to the padded square, padding cropped, resized to the original.
    """
    logits = _resize(mask_logits.float()[:, None], (padded_size, padded_size))
    logits = logits[..., : frame.resized[0], : frame.resized[1]]
    return _resize(logits, frame.original)[:, 0]


def group_by_frame(frames: Sequence[ImageFrame]) -> dict[ImageFrame, list[int]]:
    """Group the rows of a list of frames by equal sizes, in order of first appearance."""
    groups: dict[ImageFrame, list[int]] = defaultdict(list)
    for row, frame in enumerate(frames):
        groups[frame].append(row)
    return dict(groups)


def masks_in_original_pixels(mask_logits: Tensor, frames: Sequence[ImageFrame], padded_size: int) -> tuple[Tensor, ...]:
    """Bring M masks of images of any sizes to their original pixels, one resize per distinct size.

    Args:
        mask_logits: [M, 4h, 4w] in the frame of SAM's padded input.
        frames: M frames, each mask's own image.
        padded_size: side of SAM's padded input in pixels.

    Returns:
        M logit maps (H, W), float32.
    """
    resized: dict[int, Tensor] = {}
    for frame, rows in group_by_frame(frames).items():
        resized.update(zip(rows, resize_to_original(mask_logits[rows], frame, padded_size), strict=True))
    return tuple(resized[row] for row in range(len(frames)))


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of [m, 1, y, x], half-pixel centres; the identity where nothing changes."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
