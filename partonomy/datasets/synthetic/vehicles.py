"""Road vehicles: car, bus and pickup truck, seen from the side."""

import numpy as np

from partonomy.datasets.synthetic.geometry import box, polygon, smooth, tube
from partonomy.datasets.synthetic.palette import IRON, PAINT_COLOURS, STEEL, WOOD, scale_colour
from partonomy.datasets.synthetic.shared_parts import (
    add_door,
    add_glass,
    add_headlight,
    add_tail_light,
    add_wheel,
    add_window_row,
)
from partonomy.datasets.synthetic.sketch import Blueprint, Sketch


def _add_wheel_arches(sketch: Sketch, rear_x: float, front_x: float, y: float, radius: float) -> None:
    """Draw dark hollows that stay visible if a wheel is missing."""
    for x in (rear_x, front_x):
        hollow = smooth(
            (x - radius, y),
            (x - 0.7 * radius, y - 0.75 * radius),
            (x, y - radius),
            (x + 0.7 * radius, y - 0.75 * radius),
            (x + radius, y),
        )
        sketch.detail("body", hollow, scale_colour(sketch.scheme.body, 0.3))


def draw_car(sketch: Sketch, rng: np.random.Generator) -> None:
    """A saloon car."""
    radius, roof = rng.uniform(0.19, 0.23), rng.uniform(-0.44, -0.36)
    for x in (-0.4, 0.16):
        sketch.fill("roof rack", tube((x, roof + 0.02), (x, roof - 0.1), 0.07), IRON)
    sketch.fill("roof rack", box(-0.58, roof - 0.26, 0.32, roof - 0.08, 0.04), WOOD, "planks")
    sketch.fill_body(
        "body",
        smooth(
            (-1.0, 0.2),
            (-0.98, 0.0),
            (-0.74, -0.06),
            (-0.5, roof),
            (-0.1, roof - 0.02),
            (0.24, roof),
            (0.56, -0.06),
            (0.9, 0.02),
            (1.02, 0.2),
            (0.96, 0.34),
            (0.0, 0.36),
            (-0.96, 0.34),
        ),
    )
    _add_wheel_arches(sketch, -0.58, 0.6, 0.36, radius + 0.05)
    add_glass(sketch, "window", (-0.62, -0.04), (-0.46, roof + 0.06), (-0.2, roof + 0.06), (-0.2, -0.04))
    add_glass(sketch, "window", (-0.15, -0.04), (-0.15, roof + 0.06), (0.1, roof + 0.06), (0.19, -0.04))
    add_glass(sketch, "windshield", (0.26, -0.03), (0.17, roof + 0.05), (0.32, roof + 0.07), (0.66, -0.03))
    add_door(sketch, -0.16, 0.0, 0.28, 0.3)
    sketch.fill("bumper", box(0.8, 0.24, 1.14, 0.41, 0.05), STEEL)
    add_headlight(sketch, 0.87, 0.12, 0.13)
    add_tail_light(sketch, -1.04, 0.0, -0.82, 0.19)
    add_wheel(sketch, "rear wheel", -0.58, 0.36, radius)
    add_wheel(sketch, "front wheel", 0.6, 0.36, radius)


def draw_bus(sketch: Sketch, rng: np.random.Generator) -> None:
    """A city bus with a sign over its windows."""
    radius, top = rng.uniform(0.17, 0.21), rng.uniform(-0.66, -0.52)
    sketch.fill_body("body", box(-1.0, top, 1.0, 0.4, 0.1))
    sketch.detail("body", box(-0.98, 0.16, 0.98, 0.24), sketch.scheme.accent)
    _add_wheel_arches(sketch, -0.56, 0.46, 0.4, radius + 0.05)
    add_window_row(sketch, -0.94, 0.34, top + 0.22, top + 0.54, num_panes=4)
    add_glass(sketch, "windshield", (0.8, top + 0.14), (0.98, top + 0.14), (0.98, 0.1), (0.8, 0.1))
    add_door(sketch, 0.4, top + 0.22, 0.72, 0.36)
    sketch.detail("door", box(0.44, top + 0.25, 0.68, 0.02, 0.03), (190, 224, 238))
    sketch.fill("destination sign", box(0.0, top + 0.02, 0.76, top + 0.19, 0.03), (40, 40, 46))
    sketch.detail("destination sign", box(0.1, top + 0.07, 0.66, top + 0.14), (255, 196, 60))
    sketch.fill("bumper", box(0.7, 0.32, 1.1, 0.48, 0.05), STEEL)
    add_headlight(sketch, 0.87, 0.2, 0.13)
    add_tail_light(sketch, -1.04, -0.02, -0.84, 0.2)
    add_wheel(sketch, "rear wheel", -0.56, 0.4, radius)
    add_wheel(sketch, "front wheel", 0.46, 0.4, radius)


def draw_pickup_truck(sketch: Sketch, rng: np.random.Generator) -> None:
    """A cab in front of an open cargo bed."""
    radius, roof = rng.uniform(0.21, 0.25), rng.uniform(-0.5, -0.42)
    sketch.fill("cargo bed", box(-1.0, -0.14, -0.12, 0.28, 0.03), scale_colour(sketch.scheme.accent, 0.9), "planks")
    sketch.detail("cargo bed", box(-1.0, -0.14, -0.12, -0.07), scale_colour(sketch.scheme.accent, 0.6))
    sketch.fill_body("body", box(-0.98, 0.16, 0.98, 0.34, 0.05))
    sketch.fill_body(
        "body",
        smooth(
            (-0.14, 0.32),
            (-0.14, -0.1),
            (-0.08, roof),
            (0.24, roof),
            (0.48, -0.06),
            (0.9, 0.0),
            (1.0, 0.14),
            (0.98, 0.32),
            (0.4, 0.34),
        ),
    )
    _add_wheel_arches(sketch, -0.6, 0.62, 0.36, radius + 0.05)
    add_glass(sketch, "window", (-0.07, -0.06), (-0.03, roof + 0.08), (0.18, roof + 0.08), (0.2, -0.06))
    add_glass(sketch, "windshield", (0.25, -0.04), (0.21, roof + 0.05), (0.32, roof + 0.08), (0.6, -0.04))
    add_door(sketch, -0.08, 0.0, 0.3, 0.3)
    sketch.fill("bumper", box(0.8, 0.24, 1.14, 0.41, 0.05), STEEL)
    add_headlight(sketch, 0.87, 0.12, 0.13)
    add_tail_light(sketch, -1.05, 0.03, -0.85, 0.24)
    add_wheel(sketch, "rear wheel", -0.6, 0.36, radius)
    add_wheel(sketch, "front wheel", 0.62, 0.36, radius)
    sketch.fill("exhaust pipe", polygon((-0.36, 0.06), (-0.22, 0.06), (-0.22, roof - 0.06), (-0.36, roof + 0.02)), IRON)


VEHICLES = (
    Blueprint(
        label="car",
        category="vehicles",
        required_parts=("body",),
        optional_parts=(
            "front wheel",
            "rear wheel",
            "window",
            "windshield",
            "door",
            "headlight",
            "tail light",
            "bumper",
            "roof rack",
        ),
        draw=draw_car,
        scenes=("street", "street", "studio"),
        colours=PAINT_COLOURS,
        max_lean_degrees=6,
        casts_shadow=True,
    ),
    Blueprint(
        label="bus",
        category="vehicles",
        required_parts=("body",),
        optional_parts=(
            "front wheel",
            "rear wheel",
            "window",
            "windshield",
            "door",
            "headlight",
            "tail light",
            "bumper",
            "destination sign",
        ),
        draw=draw_bus,
        scenes=("street", "street", "park"),
        colours=PAINT_COLOURS,
        max_lean_degrees=6,
        casts_shadow=True,
        liveries=("plain",),
    ),
    Blueprint(
        label="pickup truck",
        category="vehicles",
        required_parts=("body", "cargo bed"),
        optional_parts=(
            "front wheel",
            "rear wheel",
            "window",
            "windshield",
            "door",
            "headlight",
            "tail light",
            "bumper",
            "exhaust pipe",
        ),
        draw=draw_pickup_truck,
        scenes=("street", "meadow", "studio"),
        colours=PAINT_COLOURS,
        max_lean_degrees=6,
        casts_shadow=True,
        liveries=("plain",),
    ),
)
