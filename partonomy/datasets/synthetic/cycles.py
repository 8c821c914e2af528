"""Two-wheelers: bicycle and motorcycle, seen from the side."""

import numpy as np

from partonomy.datasets.synthetic.geometry import Point, arc_band, bent_tube, box, ellipse, polygon, smooth, tube
from partonomy.datasets.synthetic.palette import IRON, PAINT_COLOURS, RUBBER, STEEL, WOOD, scale_colour
from partonomy.datasets.synthetic.shared_parts import (
    add_headlight,
    add_saddle,
    add_spoked_wheel,
    add_tail_light,
    add_wheel,
)
from partonomy.datasets.synthetic.sketch import Blueprint, Sketch


def draw_bicycle(sketch: Sketch, rng: np.random.Generator) -> None:
    """A city bicycle with a basket and mudguards."""
    radius = rng.uniform(0.36, 0.42)
    rear, front = (-0.58, 0.26), (0.6, 0.26)
    crank, seat_top, head = (-0.08, 0.3), (-0.26, -0.3), (0.42, -0.28)
    accent = sketch.scheme.accent
    add_spoked_wheel(sketch, "rear wheel", *rear, radius)
    add_spoked_wheel(sketch, "front wheel", *front, radius)
    for x, y in (rear, front):
        sketch.fill("mudguard", arc_band(x, y, radius + 0.01, radius + 0.12, degrees_from=190, degrees_to=330), accent)
    bars: tuple[tuple[Point, Point], ...] = (
        (rear, crank),
        (rear, (-0.22, -0.16)),
        (crank, seat_top),
        (crank, (0.45, -0.14)),
        ((-0.23, -0.17), (0.43, -0.2)),
        (head, front),
    )
    for start, end in bars:
        sketch.fill("frame", tube(start, end, 0.09), sketch.scheme.body)
    sketch.detail("frame", ellipse(*crank, 0.1, 0.1), IRON)
    add_saddle(sketch, -0.28, -0.33, 0.19)
    sketch.fill("basket", polygon((0.5, -0.42), (0.9, -0.42), (0.84, -0.14), (0.54, -0.14)), WOOD, "planks")
    sketch.fill("handlebar", tube((0.42, -0.26), (0.38, -0.48), 0.08), STEEL)
    sketch.fill("handlebar", bent_tube(((0.54, -0.54), (0.38, -0.52), (0.22, -0.46), (0.16, -0.42)), 0.1, 0.13), RUBBER)
    add_headlight(sketch, 0.52, -0.06, 0.11)


def draw_motorcycle(sketch: Sketch, rng: np.random.Generator) -> None:
    """A motorcycle with its engine between the wheels."""
    radius = rng.uniform(0.29, 0.35)
    body, accent = sketch.scheme.body, sketch.scheme.accent
    add_wheel(sketch, "rear wheel", -0.62, 0.28, radius)
    add_wheel(sketch, "front wheel", 0.66, 0.28, radius)
    sketch.fill("frame", tube((-0.62, 0.28), (-0.1, 0.12), 0.09), IRON)
    sketch.fill("frame", tube((0.4, -0.3), (0.66, 0.28), 0.085), STEEL)
    sketch.fill("frame", polygon((-0.4, -0.06), (0.36, -0.18), (0.3, 0.06), (-0.16, 0.12)), scale_colour(body, 0.6))
    for x in (-0.62, 0.66):
        sketch.fill(
            "mudguard", arc_band(x, 0.28, radius + 0.01, radius + 0.13, degrees_from=200, degrees_to=320), accent
        )
    sketch.fill("engine", box(-0.2, 0.06, 0.26, 0.42, 0.06), scale_colour(STEEL, 0.8), "planks")
    sketch.fill("engine", ellipse(0.02, 0.3, 0.12, 0.12), IRON)
    sketch.fill("exhaust pipe", bent_tube(((0.24, 0.36), (0.1, 0.48), (-0.4, 0.5), (-0.95, 0.42)), 0.11, 0.17), STEEL)
    sketch.fill_body(
        "fuel tank", smooth((0.42, -0.24), (0.32, -0.38), (0.04, -0.36), (-0.12, -0.2), (0.1, -0.1), (0.36, -0.12))
    )
    add_tail_light(sketch, -0.98, -0.22, -0.76, -0.04)
    sketch.fill(
        "saddle",
        smooth(
            (-0.8, -0.26), (-0.6, -0.28), (-0.3, -0.19), (-0.06, -0.22), (-0.1, -0.08), (-0.5, -0.08), (-0.76, -0.16)
        ),
        (112, 66, 38),
    )
    sketch.fill("windshield", polygon((0.4, -0.34), (0.22, -0.74), (0.42, -0.76), (0.64, -0.32)), (158, 206, 228))
    sketch.fill("handlebar", bent_tube(((0.46, -0.42), (0.34, -0.46), (0.2, -0.44), (0.1, -0.4)), 0.1, 0.13), RUBBER)
    add_headlight(sketch, 0.54, -0.26, 0.13)


CYCLES = (
    Blueprint(
        label="bicycle",
        category="cycles",
        required_parts=("frame",),
        optional_parts=(
            "front wheel",
            "rear wheel",
            "handlebar",
            "saddle",
            "basket",
            "mudguard",
            "headlight",
        ),
        draw=draw_bicycle,
        scenes=("park", "street", "studio"),
        colours=PAINT_COLOURS,
        max_lean_degrees=8,
        casts_shadow=True,
        liveries=("plain",),
    ),
    Blueprint(
        label="motorcycle",
        category="cycles",
        required_parts=("frame", "fuel tank"),
        optional_parts=(
            "front wheel",
            "rear wheel",
            "handlebar",
            "saddle",
            "engine",
            "exhaust pipe",
            "mudguard",
            "headlight",
            "tail light",
            "windshield",
        ),
        draw=draw_motorcycle,
        scenes=("street", "park", "studio"),
        colours=PAINT_COLOURS,
        max_lean_degrees=8,
        casts_shadow=True,
        liveries=("plain",),
    ),
)
