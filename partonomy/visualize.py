"""Draws part masks: coloured overlays with contours and a legend, panels side by side, base64 encoding."""

import base64
import colorsys
import io
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

FILL_OPACITY = 0.5
MIN_SIDE = 320
"""Shorter side, in pixels, to which smaller images are enlarged before contours and names are drawn on them."""
_BASE_COLOURS: tuple[Colour, ...] = (
    (230, 57, 70),
    (29, 120, 216),
    (255, 183, 3),
    (22, 160, 90),
    (155, 81, 224),
    (251, 112, 25),
    (6, 182, 212),
    (222, 72, 170),
    (132, 180, 20),
    (121, 85, 60),
)
_GOLDEN_ANGLE = 0.61803398875


def part_colours(count: int) -> tuple[Colour, ...]:
    """Return distinct colours: ten hand-picked ones, then hues a golden angle apart."""
    colours = list(_BASE_COLOURS[:count])
    for index in range(len(colours), count):
        brightness = 0.95 if index % 2 else 0.7
        red, green, blue = colorsys.hsv_to_rgb((index * _GOLDEN_ANGLE) % 1.0, 0.75, brightness)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colours)


def colour_parts(image: np.ndarray, masks: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Fill and outline masks on an image of the same size.

    Large masks are drawn first, so that small parts stay visible on top of them.

    Args:
        image: uint8 RGB (H, W, 3); not modified.
        masks: bool (S, H, W), in the image's frame.
        colours: One per mask.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        ValueError: The shapes do not match.
    """
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(f"masks of shape {masks.shape} do not fit an image of shape {image.shape}")
    if len(colours) != len(masks):
        raise ValueError(f"{len(masks)} masks need as many colours, got {len(colours)}")
    canvas = image.astype(np.float32)
    order = sorted(range(len(masks)), key=lambda index: -int(masks[index].sum()))
    for index in order:
        colour = np.array(colours[index], dtype=np.float32)
        canvas[masks[index]] = (1 - FILL_OPACITY) * canvas[masks[index]] + FILL_OPACITY * colour
    drawn = canvas.round().astype(np.uint8)
    thickness = max(1, round(min(image.shape[:2]) / 200))
    for index in order:
        contours, _ = cv2.findContours(masks[index].astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, colours[index], thickness, cv2.LINE_AA)
    return drawn


def draw_overlay(
    image: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[str],
    has_legend: bool = True,
    colours: Sequence[Colour] | None = None,
) -> np.ndarray:
    """Draw part masks in colour on an image, with the parts' names below it.

    Args:
        image: uint8 RGB (H, W, 3).
        masks: bool (S, H, W), in the image's frame.
        labels: S names.
        has_legend: Whether to add the strip with the names.
        colours: One per mask; None: those of `part_colours`.

    Returns:
        uint8 RGB. The legend adds to the height, and small images are enlarged.
    """
    if len(labels) != len(masks):
        raise ValueError(f"{len(masks)} masks need as many labels, got {len(labels)}")
    colours = part_colours(len(masks)) if colours is None else colours
    image, masks = enlarge(image, masks)
    overlay = colour_parts(image, masks, colours)
    return np.concatenate([overlay, _draw_legend(labels, colours, overlay.shape[1])]) if has_legend else overlay


def enlarge(image: np.ndarray, masks: np.ndarray, min_side: int = MIN_SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge image and masks so that the shorter side has at least `min_side` pixels."""
    height, width = image.shape[:2]
    scale = min_side / min(height, width)
    if scale <= 1:
        return image, masks
    return resize(image, masks, scale)


def resize(image: np.ndarray, masks: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image and its masks (S, H, W) by a factor."""
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image, size, interpolation=interpolation)
    # Interpolating the masks and thresholding at one half gives smooth contours when a tiny mask is enlarged.
    smooth = [
        cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        >= 0.5
        for mask in masks
    ]
    return resized, np.stack(smooth) if smooth else np.zeros((0, size[1], size[0]), dtype=bool)


def side_by_side(panels: Sequence[np.ndarray], titles: Sequence[str] = (), gap: int = 8) -> np.ndarray:
    """Place panels of any size in one row on white, top-aligned, with titles above.

    Args:
        panels: uint8 RGB arrays.
        titles: One per panel, or none.
        gap: Pixels between panels.
    """
    if not panels:
        raise ValueError("side_by_side needs at least one panel")
    if titles and len(titles) != len(panels):
        raise ValueError(f"{len(panels)} panels need as many titles, got {len(titles)}")
    font = _font(16)
    top = 26 if titles else 0
    height = top + max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] for panel in panels) + gap * (len(panels) - 1)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    left = 0
    for index, panel in enumerate(panels):
        canvas.paste(Image.fromarray(panel), (left, top))
        if titles:
            draw.text((left + 2, 3), titles[index], fill=(30, 30, 30), font=font)
        left += panel.shape[1] + gap
    return np.asarray(canvas)


def encode_base64(image: np.ndarray, image_format: Literal["PNG", "JPEG"]) -> str:
    """Encode a uint8 RGB image as a base64 file; use JPEG for photographs, PNG if every pixel counts."""
    buffer = io.BytesIO()
    if image_format == "JPEG":
        Image.fromarray(image).save(buffer, format="JPEG", quality=88)
    else:
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def encode_png_base64(image: np.ndarray) -> str:
    """Encode a uint8 RGB image (H, W, 3) as a base64 PNG file."""
    return encode_base64(image, "PNG")


def _draw_legend(labels: Sequence[str], colours: Sequence[Colour], width: int) -> np.ndarray:
    """Draw a white strip of the given width with a coloured square and a name per part, wrapped into rows."""
    font, row_height, margin, square = _font(15), 24, 8, 14
    places: list[tuple[int, int]] = []
    left, row = margin, 0
    for label in labels:
        item_width = square + 6 + round(font.getlength(label)) + 14
        if left > margin and left + item_width > width:
            left, row = margin, row + 1
        places.append((left, row))
        left += item_width
    height = (row + 1) * row_height + 6 if labels else 1
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for label, colour, (x, line) in zip(labels, colours, places, strict=True):
        y = 5 + line * row_height
        draw.rectangle((x, y + 2, x + square, y + 2 + square), fill=colour)
        draw.text((x + square + 6, y), label, fill=(30, 30, 30), font=font)
    return np.asarray(canvas)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, so that images look the same on every machine."""
    return ImageFont.load_default(size)
