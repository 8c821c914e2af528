"""Image preprocessing for the two towers: CLIP's square input and the segmenter's.

CLIP (`VisionConfig.fit`): `crop` equals transformers' CLIPImageProcessor, with which LLaVA v1, LISA, M2SA and the code
of PLUM's authors train: the language model then sees nothing of the borders of a photograph that is not square, while
SAM sees all of it. (M2SA's paper says "resized to 224 x 224", PLUM's paper nothing.) `pad` is LLaVA v1.5's
`image_aspect_ratio: pad`: a square with CLIP's mean colour. `stretch` is the embedded default's: its tower is trained
from scratch, its parts reach the border, and no patch is wasted on padding. For square images all three are the same.
SAM: the longest side is resized to the input size (PIL bilinear, as in segment-anything's `ResizeLongestSide`), pixels
are normalised with SAM's statistics, and the bottom and the right are padded with zeros.
SAM 2 and its relatives: the image is stretched to the square (PIL bilinear), without padding, and normalised with
ImageNet's statistics, which are SAM's, or SAM 3's (`Sam2ImageProcessor`, `Sam3ImageProcessor` of transformers).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plum.config import Fit, HfBackboneConfig, ModelConfig, Sam2Config, SegmenterConfig, usual_fit
from plum.constants import constant
from plum.inputs.encoding import ImageSlot
from plum.inputs.stock_inputs import StockInputs
from plum.structures import IGNORE_INDEX, Batch, ImageFrame, Pixels, StockPixels

cv2.setNumThreads(0)  # loaders run one process per core already

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
SAM_3_MEAN = SAM_3_STD = (127.5, 127.5, 127.5)


@dataclass(frozen=True)
class ImageInputs:
    """One image for backbone and segmenter.

    clip_pixels: [3, p, p] (LLaVA), or the arguments of a stock model's image encoder
    sam_pixels: [3, P, P], or None if the segmenter is not run
        Both are normalised float32, or uint8 if the transform leaves them as bytes.
    slot: what takes the image's place in a conversation's tokens; None: the same for every image of the model
    """

    clip_pixels: Tensor | Mapping[str, Tensor]
    sam_pixels: Tensor | None
    frame: ImageFrame
    slot: ImageSlot | None = None


@dataclass(frozen=True)
class SegmenterInput:
    """How an image becomes a segmenter's input.

    Attributes:
        size: P, side of the square in pixels.
        fit: `pad`: the longest side is resized to P, the rest padded; `stretch`: both sides are resized to P.
        mean, std: pixel statistics, RGB, 0 to 255.
    """

    size: int
    fit: Literal["pad", "stretch"] = "pad"
    mean: tuple[float, ...] = SAM_MEAN
    std: tuple[float, ...] = SAM_STD

    def frame(self, height: int, width: int) -> ImageFrame:
        """Return the sizes of an image of `height` x `width` pixels before and after resizing."""
        resized = resized_size(height, width, self.size) if self.fit == "pad" else (self.size, self.size)
        return ImageFrame((height, width), resized)

    def __call__(self, image: np.ndarray, frame: ImageFrame) -> Tensor:
        """Return the normalised input [3, P, P], float32, of a uint8 image; see `sam_input`."""
        return sam_input(image, frame, self.size, self.mean, self.std)

    def bytes(self, image: np.ndarray, frame: ImageFrame) -> Tensor:
        """Return the input before it is normalised, uint8 [3, P, P]; what the padding holds does not matter."""
        height, width = frame.resized
        padded = np.zeros((3, self.size, self.size), dtype=np.uint8)
        padded[:, :height, :width] = np.asarray(_sam_picture(image, frame)).transpose(2, 0, 1)
        return torch.from_numpy(padded)


def segmenter_input(config: SegmenterConfig) -> SegmenterInput:
    """Return the preprocessing that a segmenter was trained with."""
    if not isinstance(config, Sam2Config):
        return SegmenterInput(config.image_size)
    if config.model_type == "sam3_tracker":
        return SegmenterInput(config.image_size, "stretch", SAM_3_MEAN, SAM_3_STD)
    return SegmenterInput(config.image_size, "stretch")


@dataclass(frozen=True)
class ImageTransform:
    """Prepares images for one model.

    Attributes:
        clip_size: p, side of CLIP's input in pixels.
        for_segmenter: how the segmenter's input is made.
        sam_patch: side of a cell of its embedding grid, in pixels of its input.
        clip_fit: how a non-square image is fitted to CLIP's square (`VisionConfig.fit`).
        stock: prepares images for a stock model in place of CLIP.
        as_bytes: leave pixels as uint8, a quarter of the bytes; `normalise` then does the rest on their device.
    """

    clip_size: int
    for_segmenter: SegmenterInput
    sam_patch: int
    clip_fit: Fit
    stock: StockInputs | None = None
    as_bytes: bool = False

    def __call__(self, image: np.ndarray, for_sam: bool = True) -> ImageInputs:
        """Transform an image.

        Args:
            image: uint8 RGB (H, W, 3).
            for_sam: False if SAM is not run: its embedding is known, or nothing is segmented.

        Raises:
            ValueError: the array has another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"an image must be a uint8 RGB array (H, W, 3), got {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        frame = self.for_segmenter.frame(height, width)
        sam_pixels = None
        if for_sam:
            sam_pixels = self.for_segmenter.bytes(image, frame) if self.as_bytes else self.for_segmenter(image, frame)
        if self.stock is not None:
            pixels, slot = self.stock.read_image(image)
            return ImageInputs(pixels, sam_pixels, frame, slot)
        square = _square_bytes if self.as_bytes else clip_input
        return ImageInputs(square(image, self.clip_size, self.clip_fit), sam_pixels, frame)

    def stack(self, images: Sequence[ImageInputs]) -> Pixels:
        """Return the backbone's input of images, of which there may be none."""
        if self.stock is not None:
            return StockPixels(tuple(dict(image.clip_pixels) for image in images))
        pixels = [image.clip_pixels for image in images if isinstance(image.clip_pixels, Tensor)]
        return torch.stack(pixels) if pixels else torch.zeros(0, 3, self.clip_size, self.clip_size)

    def normalise(self, batch: Batch) -> Batch:
        """Return a batch whose images are bytes with the pixels that a transform without `as_bytes` would have made.

        Divisors are tensors: a GPU multiplies by the inverse of a Python number, which rounds otherwise. A stock
        model's pixels are as its own processor made them.
        """
        assert batch.sam_sizes is not None, "the collator has set the sizes"
        device, clip = batch.sam_pixels.device, batch.clip_pixels
        if isinstance(clip, Tensor):
            clip = _standardise(clip.float() / constant((255.0,), torch.float32, device), CLIP_MEAN, CLIP_STD)
        sam = _standardise(batch.sam_pixels.float(), self.for_segmenter.mean, self.for_segmenter.std)
        places = torch.arange(self.sam_size, device=device)
        in_rows, in_columns = (places < batch.sam_sizes[:, axis, None] for axis in (0, 1))  # [U, P]
        is_image = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        return replace(batch, clip_pixels=clip, sam_pixels=sam.masked_fill_(~is_image, 0.0))

    @property
    def sam_size(self) -> int:
        """P, side of the segmenter's input in pixels."""
        return self.for_segmenter.size

    @property
    def mask_size(self) -> int:
        """Pixels per side of the segmenter's low-resolution masks."""
        return 4 * (self.sam_size // self.sam_patch)


def build_image_transform(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> ImageTransform:
    """Build the image transform that a model is trained with.

    Args:
        config: the model.
        tokenizer: the model's; a stock model's processor needs it.
    """
    segmenter, patch, backbone = segmenter_input(config.sam), config.sam.patch_size, config.backbone
    if isinstance(backbone, HfBackboneConfig):
        return ImageTransform(0, segmenter, patch, "stretch", StockInputs(backbone, tokenizer))
    fit = backbone.vision.fit or usual_fit(backbone.conversation)
    return ImageTransform(backbone.vision.image_size, segmenter, patch, fit)


def resized_size(height: int, width: int, sam_size: int) -> tuple[int, int]:
    """(h', w') of an image whose longest side becomes `sam_size` pixels, rounded as segment-anything rounds."""
    scale = sam_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def clip_input(image: np.ndarray, size: int, fit: Fit) -> Tensor:
    """CLIP's normalised input [3, size, size], float32."""
    pixels = _channels_first(_clip_square(image, size, fit))
    pixels /= 255.0
    return torch.from_numpy(_normalise(pixels, CLIP_MEAN, CLIP_STD))


def sam_input(
    image: np.ndarray,
    frame: ImageFrame,
    size: int,
    mean: tuple[float, ...] = SAM_MEAN,
    std: tuple[float, ...] = SAM_STD,
) -> Tensor:
    """A segmenter's normalised input [3, size, size], float32; zeros right of and below the image."""
    height, width = frame.resized
    pixels = _channels_first(_sam_picture(image, frame))
    padded = np.zeros((3, size, size), dtype=np.float32)
    padded[:, :height, :width] = _normalise(pixels, mean, std)
    return torch.from_numpy(padded)


def _square_bytes(image: np.ndarray, size: int, fit: Fit) -> Tensor:
    """Return CLIP's input before it is normalised, uint8 [3, size, size]."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(_clip_square(image, size, fit)).transpose(2, 0, 1)))


def _clip_square(image: np.ndarray, size: int, fit: Fit) -> Image.Image:
    picture = Image.fromarray(_pad_to_square(image) if fit == "pad" else image)
    return _crop_to_square(picture, size) if fit == "crop" else picture.resize((size, size), Image.Resampling.BICUBIC)


def _sam_picture(image: np.ndarray, frame: ImageFrame) -> Image.Image:
    height, width = frame.resized
    return Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)


def grid_classes(part_map: np.ndarray, frame: ImageFrame, transform: ImageTransform) -> Tensor:
    """Sample the class at the centre of every pixel of low-resolution masks (4 x 4 pixels per embedding cell).

    Args:
        part_map: integer classes (H, W), original-image pixels.
        frame: sizes of the same image.
        transform: defines the grid.

    Returns:
        LongTensor [4h, 4w], IGNORE_INDEX for pixels whose centre lies in the padding.
    """
    n = transform.mask_size
    centres = (np.arange(n) + 0.5) * transform.sam_size / n  # pixels of the segmenter's input
    (height, width), (inner_height, inner_width) = frame.original, frame.resized
    rows = (centres * height / inner_height).astype(np.int64)
    columns = (centres * width / inner_width).astype(np.int64)
    classes = np.full((n, n), IGNORE_INDEX, dtype=np.int64)
    in_rows, in_columns = centres < inner_height, centres < inner_width
    sampled = part_map[np.minimum(rows[in_rows], height - 1)][:, np.minimum(columns[in_columns], width - 1)]
    classes[np.ix_(in_rows, in_columns)] = sampled
    return torch.from_numpy(classes)


def _crop_to_square(picture: Image.Image, size: int) -> Image.Image:
    """Resize the shortest side to `size` pixels and cut out the centre, both rounded as CLIPImageProcessor rounds."""
    shortest = min(picture.size)
    width, height = (int(size * side / shortest) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def _pad_to_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = [int(channel * 255) for channel in CLIP_MEAN]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _channels_first(picture: Image.Image) -> np.ndarray:
    """Return contiguous float32 [3, H, W]; NumPy is several times slower with the three channels last."""
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1), dtype=np.float32)


def _standardise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Do what `_normalise` does to [B, 3, H, W] on any device, in place."""
    of_mean, of_std = (constant(values, torch.float32, pixels.device)[:, None, None] for values in (mean, std))
    return pixels.sub_(of_mean).div_(of_std)


def _normalise(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Subtract each channel's mean and divide by its deviation, in place."""
    pixels -= np.asarray(mean, np.float32)[:, None, None]
    pixels /= np.asarray(std, np.float32)[:, None, None]
    return pixels
