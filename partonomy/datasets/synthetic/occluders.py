"""Foreground objects that hide some of the main object; they erase the label map where they cover it."""

import numpy as np
import numpy.typing as npt

from partonomy.datasets.synthetic.canvas import BACKGROUND_LABEL, Canvas
from partonomy.datasets.synthetic.geometry import Points, box, ellipse, polygon, smooth
from partonomy.datasets.synthetic.palette import Colour, jitter_colour, scale_colour
from partonomy.datasets.synthetic.sketch import SceneKind

Curve = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the finished image."""


def draw_occluder(canvas: Canvas, kind: SceneKind, object_box: Box, rng: np.random.Generator) -> None:
    """Draw a foreground object that fits the scene over the lower or outer region of the main object's box."""
    if kind == "sky":
        _draw_cloud(canvas, object_box, rng)
    elif kind in ("meadow", "park", "underwater"):
        _draw_plant(canvas, object_box, rng)
    elif kind == "sea":
        _draw_wave(canvas, object_box, rng)
    elif kind == "street":
        _draw_cone(canvas, object_box, rng)
    else:
        _draw_parcel(canvas, object_box, rng)


def _place(points: Points, x: float, y: float, size: float) -> Points:
    return points * np.float32(size) + np.array([x, y], dtype=np.float32)


def _foot(object_box: Box, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return (x, y) of the foot and the size of something in front of the main object."""
    left, top, right, bottom = object_box
    x = left + (right - left) * rng.uniform(0.05, 0.95)
    return x, bottom + 0.03 * (bottom - top), rng.uniform(0.22, 0.4) * max(right - left, bottom - top)


def _draw_cloud(canvas: Canvas, object_box: Box, rng: np.random.Generator) -> None:
    left, top, right, bottom = object_box
    side = rng.random() < 0.5
    x = left + (right - left) * (rng.uniform(0.0, 0.25) if side else rng.uniform(0.75, 1.0))
    y = top + (bottom - top) * rng.uniform(0.2, 0.9)
    size = rng.uniform(0.12, 0.2) * (right - left)
    white = jitter_colour((240, 243, 247), rng, 8)
    for offset_x, offset_y, radius in ((-0.9, 0.15, 0.6), (0.9, 0.2, 0.6), (0.0, -0.1, 0.85), (0.4, 0.25, 0.7)):
        points = _place(ellipse(offset_x, offset_y, radius * 1.2, radius * 0.75), x, y, size)
        canvas.fill(points, white, BACKGROUND_LABEL, has_outline=False)


def _draw_plant(canvas: Canvas, object_box: Box, rng: np.random.Generator) -> None:
    x, y, size = _foot(object_box, rng)
    green = jitter_colour((72, 132, 62), rng, 22)
    for lean in rng.uniform(-0.45, 0.45, 7):
        blade = polygon((lean * 0.5 - 0.1, 0.15), (lean, -0.55 - 0.45 * rng.random()), (lean * 0.5 + 0.1, 0.15))
        shade = scale_colour(green, 0.85 + 0.3 * rng.random())
        canvas.fill(_place(blade, x, y, size), shade, BACKGROUND_LABEL)


def _draw_wave(canvas: Canvas, object_box: Box, rng: np.random.Generator) -> None:
    _, top, _, bottom = object_box
    height, width = canvas.height, canvas.width
    water: Colour = jitter_colour((58, 122, 162), rng, 14)
    level = bottom - rng.uniform(0.02, 0.12) * (bottom - top)
    xs = np.linspace(-0.02 * width, 1.02 * width, 25)
    crest = level + 0.015 * width * np.sin(np.linspace(0.0, rng.uniform(18, 36), 25))
    sea_bed = np.full(25, 1.02 * height)
    canvas.fill(_band(xs, crest, sea_bed), water, BACKGROUND_LABEL, has_outline=False)
    canvas.fill(_band(xs, crest, crest + 0.015 * width), (232, 242, 246), None, has_outline=False)


def _band(xs: Curve, upper: Curve, lower: Curve) -> Points:
    """Return the outline between two curves over the same x."""
    there, back = np.stack([xs, upper], axis=1), np.stack([xs, lower], axis=1)[::-1]
    return np.concatenate([there, back]).astype(np.float32)


def _draw_cone(canvas: Canvas, object_box: Box, rng: np.random.Generator) -> None:
    x, y, size = _foot(object_box, rng)
    size *= 0.9
    orange = jitter_colour((240, 110, 40), rng)
    canvas.fill(
        _place(polygon((-0.07, -1.0), (0.07, -1.0), (0.28, 0.0), (-0.28, 0.0)), x, y, size), orange, BACKGROUND_LABEL
    )
    stripe = polygon((-0.13, -0.7), (0.13, -0.7), (0.19, -0.42), (-0.19, -0.42))
    canvas.fill(_place(stripe, x, y, size), (246, 244, 238), None, has_outline=False)
    canvas.fill(_place(box(-0.38, -0.06, 0.38, 0.06, 0.03), x, y, size), orange, BACKGROUND_LABEL)


def _draw_parcel(canvas: Canvas, object_box: Box, rng: np.random.Generator) -> None:
    x, y, size = _foot(object_box, rng)
    card = jitter_colour((196, 152, 104), rng, 20)
    if rng.random() < 0.5:
        canvas.fill(_place(box(-0.45, -0.6, 0.45, 0.1), x, y, size), card, BACKGROUND_LABEL)
        canvas.fill(_place(box(-0.07, -0.6, 0.07, 0.1), x, y, size), scale_colour(card, 1.35), None, has_outline=False)
        return
    canvas.fill(
        _place(polygon((-0.24, -0.35), (0.24, -0.35), (0.17, 0.1), (-0.17, 0.1)), x, y, size),
        (186, 96, 66),
        BACKGROUND_LABEL,
    )
    green = jitter_colour((70, 136, 78), rng, 18)
    for lean in (-0.34, -0.12, 0.14, 0.36):
        leaf = smooth((0.0, -0.32), (0.5 * lean - 0.1, -0.6), (lean, -0.95), (0.5 * lean + 0.12, -0.58))
        canvas.fill(_place(leaf, x, y, size), scale_colour(green, 0.9 + 0.5 * abs(lean)), BACKGROUND_LABEL)
