"""Furniture: chair, armchair and floor lamp, seen slightly from above."""

import numpy as np

from partonomy.datasets.synthetic.geometry import box, ellipse, polygon, tube
from partonomy.datasets.synthetic.palette import ALL_COLOURS, IRON, LAMP_LIGHT, STEEL, WOOD, scale_colour
from partonomy.datasets.synthetic.sketch import Blueprint, Sketch

_DARK_WOOD = scale_colour(WOOD, 0.7)


def draw_chair(sketch: Sketch, rng: np.random.Generator) -> None:
    """A wooden kitchen chair with a seat in the body colour."""
    width, top = rng.uniform(0.46, 0.54), rng.uniform(-0.98, -0.84)
    body = sketch.scheme.body
    for x in (-width + 0.16, width + 0.08):
        sketch.fill("leg", tube((x, 0.0), (x, 0.76), 0.12, 0.1), _DARK_WOOD)
    back = (-width + 0.1, width + 0.14)
    for x in back:
        sketch.fill("backrest", tube((x, -0.06), (x, top), 0.1), WOOD)
    for y in (0.2, 0.55, 0.9):
        height = -0.06 + y * (top + 0.06)
        sketch.fill("backrest", box(back[0], height - 0.09, back[1], height + 0.09, 0.04), scale_colour(body, 0.92))
    for x in (-width - 0.04, width - 0.1):
        sketch.fill("leg", tube((x, 0.16), (x - 0.02, 0.98), 0.13, 0.11), WOOD)
    sketch.fill("crossbar", tube((-width - 0.05, 0.66), (width - 0.11, 0.66), 0.1), WOOD)
    seat = polygon((-width + 0.08, -0.08), (width + 0.18, -0.08), (width - 0.02, 0.2), (-width - 0.12, 0.2))
    sketch.fill("seat", seat, body, sketch.livery)
    sketch.fill("seat", box(-width - 0.12, 0.2, width - 0.02, 0.29), scale_colour(body, 0.75))
    sketch.fill("pillow", polygon((-0.24, -0.4), (0.3, -0.44), (0.36, -0.02), (-0.2, 0.04)), sketch.scheme.accent)
    sketch.detail("pillow", ellipse(0.06, -0.2, 0.05, 0.05), scale_colour(sketch.scheme.accent, 0.6))


def draw_armchair(sketch: Sketch, rng: np.random.Generator) -> None:
    """An upholstered chair with armrests."""
    width, top = rng.uniform(0.7, 0.84), rng.uniform(-0.84, -0.7)
    body, accent = sketch.scheme.body, sketch.scheme.accent
    for x in (-width + 0.1, width - 0.1):
        sketch.fill("leg", tube((x, 0.5), (x, 0.84), 0.14, 0.09), _DARK_WOOD)
    sketch.fill("backrest", box(-width + 0.12, top, width - 0.12, 0.24, 0.18), body, sketch.livery)
    sketch.fill("headrest", box(-0.34, top - 0.08, 0.34, top + 0.2, 0.1), scale_colour(accent, 0.85))
    sketch.fill("pillow", polygon((-0.28, -0.32), (0.26, -0.38), (0.32, 0.08), (-0.24, 0.14)), accent)
    sketch.detail("pillow", ellipse(0.02, -0.12, 0.05, 0.05), scale_colour(accent, 0.6))
    sketch.fill("seat", box(-width + 0.18, 0.1, width - 0.18, 0.34, 0.1), scale_colour(body, 1.12), sketch.livery)
    sketch.fill("seat", box(-width + 0.12, 0.32, width - 0.12, 0.6, 0.06), scale_colour(body, 0.8))
    for left in (-width - 0.06, width - 0.24):
        sketch.fill("armrest", box(left, -0.14, left + 0.3, 0.62, 0.14), scale_colour(body, 0.9))
        sketch.detail("armrest", ellipse(left + 0.15, 0.02, 0.08, 0.09), scale_colour(body, 0.7))


def draw_lamp(sketch: Sketch, rng: np.random.Generator) -> None:
    """A floor lamp."""
    flare, drop = rng.uniform(0.34, 0.46), rng.uniform(-0.4, -0.28)
    sketch.fill("base", ellipse(0.0, 0.92, 0.38, 0.11), IRON)
    sketch.fill("base", ellipse(0.0, 0.88, 0.26, 0.07), scale_colour(IRON, 1.2))
    sketch.fill("pole", tube((0.0, 0.88), (0.0, -0.96), 0.12), STEEL)
    sketch.fill("table", ellipse(0.0, 0.32, 0.46, 0.12), WOOD)
    sketch.fill("bulb", ellipse(0.0, drop + 0.06, 0.13, 0.16), LAMP_LIGHT)
    sketch.fill_body("lampshade", polygon((-0.24, -0.96), (0.24, -0.96), (flare + 0.06, drop), (-flare - 0.06, drop)))
    sketch.detail(
        "lampshade", polygon((-0.1, -0.94), (0.08, -0.94), (0.12, drop), (-0.18, drop)), (255, 250, 220), 0.35
    )


FURNITURE = (
    Blueprint(
        label="chair",
        category="furniture",
        required_parts=("seat", "backrest"),
        optional_parts=("leg", "crossbar", "pillow"),
        draw=draw_chair,
        scenes=("room", "room", "studio"),
        colours=ALL_COLOURS,
        max_lean_degrees=7,
        casts_shadow=True,
        supports=(("crossbar", "leg"),),
    ),
    Blueprint(
        label="armchair",
        category="furniture",
        required_parts=("seat", "backrest"),
        optional_parts=("armrest", "leg", "headrest", "pillow"),
        draw=draw_armchair,
        scenes=("room", "room", "studio"),
        colours=ALL_COLOURS,
        max_lean_degrees=6,
        casts_shadow=True,
        liveries=("plain", "stripes", "spots"),
    ),
    Blueprint(
        label="lamp",
        category="furniture",
        required_parts=("lampshade", "pole"),
        optional_parts=("base", "bulb", "table"),
        draw=draw_lamp,
        scenes=("room", "room", "studio"),
        colours=ALL_COLOURS,
        max_lean_degrees=7,
        casts_shadow=True,
        liveries=("plain", "stripes", "spots"),
    ),
)
