"""Images as the two towers read them: CLIP's square input and SAM's padded square input.

CLIP: LLaVA v1 cut the centre out of non-square photographs, and with it every part near the border; here nothing is
cut. LLaVA checkpoints get the image padded to a square with CLIP's mean colour (LLaVA v1.5's `image_aspect_ratio:
pad`), then resized
bicubically: on square images that equals transformers' CLIPImageProcessor. The embedded default, whose tower is trained
from scratch, stretches the image to the square instead, so that no patch is wasted on padding.
SAM: longest side to the input size (PIL bilinear, as segment-anything's `ResizeLongestSide`), its pixel statistics,
zero padding at the bottom and the right.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from plum.config import ModelConfig
from plum.structures import IGNORE_INDEX, ImageFrame

cv2.setNumThreads(0)  # loaders run one process per core already

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)

ClipFit = Literal["pad", "stretch"]


@dataclass(frozen=True)
class ImageInputs:
    """One image for both towers: clip_pixels [3, p, p], sam_pixels [3, P, P] where SAM is to be asked, float32."""

    clip_pixels: Tensor
    sam_pixels: Tensor | None
    frame: ImageFrame


@dataclass(frozen=True)
class ImageTransform:
    """Prepares images for one model.

    Attributes:
        clip_size: p, side of CLIP's input in pixels.
        sam_size: P, side of SAM's input in pixels.
        sam_patch: side of a cell of SAM's embedding grid, in pixels of its input.
        clip_fit: how an image that is not square becomes CLIP's square.
    """

    clip_size: int
    sam_size: int
    sam_patch: int
    clip_fit: ClipFit

    def __call__(self, image: np.ndarray, for_sam: bool = True) -> ImageInputs:
        """Transform an image.

        Args:
            image: uint8 RGB (H, W, 3).
            for_sam: False where SAM is not asked: its embedding is known, or nothing is segmented.

        Raises:
            ValueError: another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"an image must be a uint8 RGB array (H, W, 3), got {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        frame = ImageFrame((height, width), resized_size(height, width, self.sam_size))
        sam_pixels = sam_input(image, frame, self.sam_size) if for_sam else None
        return ImageInputs(clip_input(image, self.clip_size, self.clip_fit), sam_pixels, frame)

    @property
    def mask_size(self) -> int:
        """Pixels per side of SAM's low-resolution masks."""
        return 4 * (self.sam_size // self.sam_patch)


def build_image_transform(config: ModelConfig) -> ImageTransform:
    """Build the transform a model was, or will be, trained with."""
    fit: ClipFit = "stretch" if config.llava.conversation == "plain" else "pad"
    return ImageTransform(config.llava.vision.image_size, config.sam.image_size, config.sam.patch_size, fit)


def resized_size(height: int, width: int, sam_size: int) -> tuple[int, int]:
    """(h', w') of an image whose longest side becomes `sam_size` pixels, rounded as segment-anything rounds."""
    scale = sam_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def clip_input(image: np.ndarray, size: int, fit: ClipFit) -> Tensor:
    """CLIP's normalised input [3, size, size], float32."""
    picture = Image.fromarray(_pad_to_square(image) if fit == "pad" else image)
    pixels = _channels_first(picture.resize((size, size), Image.Resampling.BICUBIC))
    pixels /= 255.0
    return torch.from_numpy(_normalise(pixels, CLIP_MEAN, CLIP_STD))


def sam_input(image: np.ndarray, frame: ImageFrame, size: int) -> Tensor:
    """SAM's normalised input [3, size, size], float32; zeros right of and below the image."""
    height, width = frame.resized
    pixels = _channels_first(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    padded = np.zeros((3, size, size), dtype=np.float32)
    padded[:, :height, :width] = _normalise(pixels, SAM_MEAN, SAM_STD)
    return torch.from_numpy(padded)


def grid_classes(part_map: np.ndarray, frame: ImageFrame, transform: ImageTransform) -> Tensor:
    """Class at the centre of every pixel of SAM's low-resolution masks (four to a cell of its embedding grid each way).

    Args:
        part_map: integer classes (H, W), original-image pixels.
        frame: sizes of the same image.
        transform: gives the grid.

    Returns:
        LongTensor [4h, 4w], IGNORE_INDEX for pixels whose centre lies in the padding.
    """
    n = transform.mask_size
    centres = (np.arange(n) + 0.5) * transform.sam_size / n  # pixels of SAM's padded input
    (height, width), (inner_height, inner_width) = frame.original, frame.resized
    rows = (centres * height / inner_height).astype(np.int64)
    columns = (centres * width / inner_width).astype(np.int64)
    classes = np.full((n, n), IGNORE_INDEX, dtype=np.int64)
    in_rows, in_columns = centres < inner_height, centres < inner_width
    sampled = part_map[np.minimum(rows[in_rows], height - 1)][:, np.minimum(columns[in_columns], width - 1)]
    classes[np.ix_(in_rows, in_columns)] = sampled
    return torch.from_numpy(classes)


def _pad_to_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = [int(channel * 255) for channel in CLIP_MEAN]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _channels_first(picture: Image.Image) -> np.ndarray:
    """Return float32 [3, H, W], contiguous: NumPy is several times slower on rows of three channels."""
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1), dtype=np.float32)


def _normalise(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Subtract each channel's mean and divide by its deviation, in place."""
    pixels -= np.asarray(mean, np.float32)[:, None, None]
    pixels /= np.asarray(std, np.float32)[:, None, None]
    return pixels
