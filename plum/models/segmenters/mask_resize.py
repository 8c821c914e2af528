"""Low-resolution mask logits to original-image pixels, as SAM does it, for many masks at once.

SAM enlarges to its padded square, cuts the padding off and resizes to the image. All three are linear, and alike for
every row and every column, so that together they are one small matrix from the left and one from the right. The square
(4 MB a mask at full size) is never made, and the backward pass is two products instead of a scatter, which is several
times slower and on a GPU gives other gradients each time.

Source: facebookresearch/segment-anything, `Sam.postprocess_masks`.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import torch
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
    rows, columns = resize_matrices(mask_logits.shape[-1], frame, padded_size, mask_logits.device)
    return rows @ (mask_logits.float() @ columns.T)


def resize_matrices(size: int, frame: ImageFrame, padded_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the matrices [H, size] and [W, size] of the resize of one image's masks; arguments as above."""
    rows, columns = (
        resize_matrix(size, padded_size, frame.resized[axis], frame.original[axis], device) for axis in (0, 1)
    )
    return rows, columns


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


@lru_cache(maxsize=256)
def resize_matrix(size: int, padded: int, inner: int, original: int, device: torch.device) -> Tensor:
    """Return one axis of the resize, [original, size] float32: enlarge to `padded`, keep `inner`, resize to `original`.

    Both resizes are bilinear with half-pixel centres, the identity where nothing changes.
    """
    # An inference tensor could not be used in training later.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        unit = torch.eye(size)[None]  # row i becomes what pixel i gives to the others
        enlarged = functional.interpolate(unit, size=padded, mode="linear", align_corners=False)[..., :inner]
        resized = functional.interpolate(enlarged, size=original, mode="linear", align_corners=False)
        return resized[0].T.contiguous().to(device)
