"""A supersampled canvas that draws the picture and records which part every pixel belongs to."""

import cv2
import numpy as np
import numpy.typing as npt

from partonomy.datasets.synthetic.geometry import Points
from partonomy.datasets.synthetic.palette import Colour, scale_colour
from partonomy.datasets.synthetic.sketch import Texture

Image = npt.NDArray[np.uint8]
LabelMap = npt.NDArray[np.uint8]

SUPERSAMPLING = 2
BACKGROUND_LABEL = 0
_SUBPIXEL_BITS = 4
_SUBPIXELS = 1 << _SUBPIXEL_BITS


class Canvas:
    """Draws filled outlines at SUPERSAMPLING times the size of the finished image.

    `labels` is the z-order label map: the last labelled shape drawn over a pixel owns it.
    """

    def __init__(self, background: Image) -> None:
        """Start from a background picture of the finished image's size, (H, W, 3) RGB."""
        height, width = background.shape[:2]
        self.height, self.width = height, width
        self._size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self.pixels: Image = np.asarray(
            cv2.resize(background, self._size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8
        )
        self.labels: LabelMap = np.zeros((self._size[1], self._size[0]), dtype=np.uint8)

    def fill(
        self,
        points: Points,
        colour: Colour,
        label: int | None,
        *,
        texture: Texture = "plain",
        texture_colour: Colour = (255, 255, 255),
        opacity: float = 1.0,
        has_outline: bool = True,
    ) -> None:
        """Fill an outline given in pixels of the finished image, lit from above; `label` None changes no labels."""
        outline = points * SUPERSAMPLING
        lower = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
        upper = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, self._size)
        if (upper <= lower).any():
            return
        (left, top), (right, bottom) = lower.tolist(), upper.tolist()
        fixed_point = np.round((outline - lower) * _SUBPIXELS).astype(np.int32)
        coverage = np.zeros((bottom - top, right - left), dtype=np.uint8)
        cv2.fillPoly(coverage, [fixed_point], 255, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
        window = self.pixels[top:bottom, left:right]
        patch = _shade(colour, bottom - top, right - left, contrast=0.16 if label is not None else 0.0)
        if texture != "plain":
            _add_texture(patch, texture, texture_colour)
        if opacity < 1.0:
            patch = np.asarray(cv2.addWeighted(patch, opacity, window, 1.0 - opacity, 0.0), dtype=np.uint8)
        np.copyto(window, patch, where=(coverage > 0)[..., None])
        if label is not None:
            self.labels[top:bottom, left:right][coverage > 0] = label
        if has_outline:
            line = scale_colour(colour, 0.55)
            cv2.polylines(window, [fixed_point], True, line, SUPERSAMPLING, cv2.LINE_AA, _SUBPIXEL_BITS)

    def finish(self) -> Image:
        """Return the picture at its finished size, (H, W, 3) RGB."""
        size = (self.width, self.height)
        return np.asarray(cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def finish_labels(self) -> LabelMap:
        """Return the label map at the finished size: one sample per pixel, so that regions stay disjoint."""
        return self.labels[::SUPERSAMPLING, ::SUPERSAMPLING].copy()


def _shade(colour: Colour, height: int, width: int, contrast: float) -> Image:
    """Return a patch that fades from lighter at the upper left to darker at the lower right."""
    if contrast == 0.0:
        return np.full((height, width, 3), colour, dtype=np.uint8)
    light, dark = scale_colour(colour, 1.0 + contrast), scale_colour(colour, 1.0 - contrast)
    middle = scale_colour(colour, 1.02)
    corners = np.array([[light, middle], [colour, dark]], dtype=np.uint8)
    return np.asarray(cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _add_texture(patch: Image, texture: Texture, colour: Colour) -> None:
    """Draw stripes, spots or plank seams on a patch, in place."""
    height, width = patch.shape[:2]
    spacing = max(height // 3, width // 9, 12)
    if texture == "stripes":
        for start in range(-height, width, spacing):
            cv2.line(patch, (start, height), (start + height, 0), colour, max(spacing // 3, 3), cv2.LINE_AA)
    elif texture == "spots":
        for row, y in enumerate(range(spacing // 2, height, spacing)):
            for x in range(spacing // (2 + 2 * (row % 2)), width, spacing):
                cv2.circle(patch, (x, y), max(spacing // 5, 2), colour, -1, cv2.LINE_AA)
    elif texture == "planks":
        for y in range(spacing, height, spacing):
            cv2.line(patch, (0, y), (width, y), colour, 2, cv2.LINE_AA)
