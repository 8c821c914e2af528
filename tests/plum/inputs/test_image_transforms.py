from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from plum.config import Fit, Sam2Config
from plum.inputs.image_transforms import (
    CLIP_MEAN,
    CLIP_STD,
    SAM_MEAN,
    SAM_STD,
    ImageTransform,
    SegmenterInput,
    build_image_transform,
    clip_input,
    grid_classes,
    resized_size,
    sam_input,
    segmenter_input,
)
from plum.models.tiny import tiny_model_config, tiny_sam2_config
from plum.structures import IGNORE_INDEX, ImageFrame
from tests.plum.data.tokenizers_for_tests import byte_level


def test_the_towers_statistics_are_the_published_ones() -> None:
    """SAM: segment_anything/build_sam.py (`pixel_mean`, `pixel_std`); CLIP: openai/clip-*, preprocessor_config.json."""
    assert SAM_MEAN == (123.675, 116.28, 103.53)
    assert SAM_STD == (58.395, 57.12, 57.375)
    assert CLIP_MEAN == (0.48145466, 0.4578275, 0.40821073)
    assert CLIP_STD == (0.26862954, 0.26130258, 0.27577711)
    # The same numbers in the pixels: a white image, red, green and blue.
    white = np.full((4, 4, 3), 255, dtype=np.uint8)
    of_sam = [(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    assert sam_input(white, ImageFrame((4, 4), (4, 4)), 4)[:, 0, 0].tolist() == pytest.approx(of_sam, abs=1e-5)
    of_clip = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    assert clip_input(white, 4, "pad")[:, 0, 0].tolist() == pytest.approx(of_clip, abs=1e-5)


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def clip_processor(size: int) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


@pytest.mark.parametrize("size", [28, 224])
@pytest.mark.parametrize("shape", [(50, 80), (81, 50), (333, 500), (500, 333), (29, 28), (20, 21), (3, 90), (90, 1)])
def test_crop_equals_the_clip_processor(shape: tuple[int, int], size: int) -> None:
    """Larger and smaller than the input, odd and even margins, both orientations."""
    image = _noise(*shape)
    expected = clip_processor(size)(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    found = clip_input(image, size, "crop")
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, clip_input(image, size, "pad"), atol=0.1)
    assert not torch.allclose(found, clip_input(image, size, "stretch"), atol=0.1)


def test_the_transform_takes_the_fit_of_the_model() -> None:
    image, config = _noise(16, 40), tiny_model_config(40)
    for fit in get_args(Fit):
        vision = replace(config.llava.vision, fit=fit)
        transform = build_image_transform(replace(config, llava=replace(config.llava, vision=vision)), byte_level())
        assert torch.equal(transform(image).clip_pixels, clip_input(image, 16, fit))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_square_images_equal_the_clip_processor(fit: str) -> None:
    image = _noise(50, 50)
    expected = clip_processor(28)(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    found = clip_input(image, 28, fit)  # type: ignore[arg-type]
    assert torch.allclose(found, expected, atol=1e-5)


def test_padding_keeps_the_whole_image_in_the_middle() -> None:
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels = clip_input(image, 8, "pad")  # no resize: rows 0, 1, 6 and 7 are padding
    black = (0 - 0.48145466) / 0.26862954
    assert torch.allclose(pixels[0, 2:6], torch.full((4, 8), black))
    padding = (int(0.48145466 * 255) / 255 - 0.48145466) / 0.26862954
    assert torch.allclose(pixels[0, [0, 1, 6, 7]], torch.full((4, 8), padding))


def test_sam_input_is_resized_normalised_and_padded() -> None:
    image = np.full((10, 20, 3), 200, dtype=np.uint8)
    frame = ImageFrame((10, 20), resized_size(10, 20, 32))
    assert frame.resized == (16, 32)
    pixels = sam_input(image, frame, 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.float32
    for channel in range(3):
        inside = (200 - SAM_MEAN[channel]) / SAM_STD[channel]
        assert torch.allclose(pixels[channel, :16], torch.full((16, 32), inside))
    assert not pixels[:, 16:].any()


def test_sam_2_stretches_an_image_without_padding() -> None:
    image = np.zeros((10, 20, 3), dtype=np.uint8)
    image[:, 10:] = 200  # the right half
    given = segmenter_input(tiny_sam2_config())
    frame = given.frame(10, 20)
    assert frame == ImageFrame((10, 20), (64, 64))
    pixels = given(image, frame)
    assert pixels.shape == (3, 64, 64)
    for channel in range(3):
        dark, light = ((value - SAM_MEAN[channel]) / SAM_STD[channel] for value in (0, 200))
        assert torch.allclose(pixels[channel, :, :30], torch.full((64, 30), dark))
        assert torch.allclose(pixels[channel, :, 34:], torch.full((64, 30), light))


def test_sam_2_and_3_are_normalised_as_their_processors_do() -> None:
    """transformers: Sam2ImageProcessor has ImageNet's default statistics, Sam3ImageProcessor the standard ones."""
    image = np.full((4, 4, 3), 51, dtype=np.uint8)
    for config, mean, std in (
        (Sam2Config("sam2", 4), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        (Sam2Config("edgetam", 4), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        (Sam2Config("sam3_tracker", 4), IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
    ):
        given = segmenter_input(config)
        expected = [(51 / 255 - mean[channel]) / std[channel] for channel in range(3)]
        assert given(image, given.frame(4, 4))[:, 2, 2].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (768, 1024)),
        ((640, 427), (1024, 683)),  # 427 * 1.6 = 683.2
        ((333, 500), (682, 1024)),  # 333 * 2.048 = 681.98
        ((1, 5000), (1, 1024)),  # 0.2 rounds to 0, and one row is kept
    ],
)
def test_resized_size_rounds_as_segment_anything_does(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, 1024) == expected


def test_grid_classes_read_cell_centres() -> None:
    # 4 x 8 original, SAM input 16 in one cell, so 4 x 4 pixels of 4: resized to 8 x 16, the lower half is padding.
    transform = ImageTransform(8, SegmenterInput(16), 16, "stretch")
    frame = ImageFrame((4, 8), (8, 16))
    part_map = np.arange(32).reshape(4, 8)
    # Centres 2, 6 | 10, 14 in input pixels are rows 1, 3 and columns 1, 3, 5, 7 of the original (scale 1/2).
    expected = [[9, 11, 13, 15], [25, 27, 29, 31], [IGNORE_INDEX] * 4, [IGNORE_INDEX] * 4]
    assert grid_classes(part_map, frame, transform).tolist() == expected


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 RGB array"):
        ImageTransform(8, 16, 4, "stretch")(image)
