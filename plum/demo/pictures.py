"""Pictures of the demo page: a photo as the page shows it, and masks as transparent layers of the same size."""

import base64
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from partonomy.visualize import FILL_OPACITY, Colour, encode_base64, enlarge, resize

MAX_SIDE = 1024
"""Longer side, in pixels, of a photo on the page; downloads are not reduced to it."""
MIN_SIDE = 480
"""Shorter side, in pixels, to which smaller images are enlarged, so that contours stay thin."""


@dataclass(frozen=True)
class Picture:
    """A photo and its masks as a browser shows them.

    Attributes:
        photo: data address of a JPEG.
        layers: per mask, the data address of a transparent PNG of the same size.
        width: in pixels.
        height: in pixels.
    """

    photo: str
    layers: tuple[str, ...]
    width: int
    height: int


def draw_picture(pixels: np.ndarray, masks: np.ndarray, colours: tuple[Colour, ...]) -> Picture:
    """Draw a photo and its masks.

    Args:
        pixels: uint8 RGB (H, W, 3).
        masks: bool (S, H, W), in the image's frame.
        colours: one per mask.
    """
    scale = MAX_SIDE / max(pixels.shape[:2])
    if scale < 1:
        pixels, masks = resize(pixels, masks, scale)
    elif MIN_SIDE / min(pixels.shape[:2]) * max(pixels.shape[:2]) <= MAX_SIDE:
        pixels, masks = enlarge(pixels, masks, MIN_SIDE)
    layers = tuple(draw_layer(mask, colour) for mask, colour in zip(masks, colours, strict=True))
    photo = f"data:image/jpeg;base64,{encode_base64(pixels, 'JPEG')}"
    return Picture(photo, layers, pixels.shape[1], pixels.shape[0])


def draw_layer(mask: np.ndarray, colour: Colour) -> str:
    """Draw a mask as a transparent PNG: half-opaque inside, with an opaque contour.

    Args:
        mask: bool (H, W).
        colour: of the mask.

    Returns:
        The data address of the file.
    """
    values = mask.astype(np.uint8)  # 0 outside, 1 inside, 2 contour
    contours, _ = cv2.findContours(values.copy(), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(values, contours, -1, 2, max(1, round(min(mask.shape) / 200)))
    layer = Image.fromarray(values, mode="P")
    layer.putpalette([*colour, *colour, *colour])
    buffer = io.BytesIO()
    layer.save(buffer, format="PNG", transparency=bytes([0, round(255 * FILL_OPACITY), 255]), optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
