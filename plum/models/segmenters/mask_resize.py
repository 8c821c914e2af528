"""Resizing of low-resolution mask logits to original-image pixels, as in SAM, for many masks at once.

SAM enlarges masks to its padded square, crops the padding and resizes to the image. All three steps are linear, and the
same for every row and every column, so together they are one small matrix on the left and one on the right. The square
(4 MB per mask at full size) is never materialised. The backward pass is two products instead of a scatter, which is
several times slower and not deterministic on a GPU.

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
    """Resize the mask logits of images of one size to original-image pixels.

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
    """Return the matrices [H, size] and [W, size] that resize one image's masks; see `resize_to_original`."""
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
    """Resize M masks of images of any sizes to original-image pixels, with one resize per distinct size.

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

    Both resizes are bilinear with half-pixel centres, the identity if the size does not change.
    """
    # An inference tensor could not be used in training later.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        unit = torch.eye(size)[None]  # row i becomes the contribution of pixel i to the others
        enlarged = functional.interpolate(unit, size=padded, mode="linear", align_corners=False)[..., :inner]
        resized = functional.interpolate(enlarged, size=original, mode="linear", align_corners=False)
        return resized[0].T.contiguous().to(device)
