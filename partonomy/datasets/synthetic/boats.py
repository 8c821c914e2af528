"""Boats: sailboat and ferry, seen from the side."""

import numpy as np

from partonomy.datasets.synthetic.geometry import box, ellipse, polygon, smooth, tube
from partonomy.datasets.synthetic.palette import CANVAS_WHITE, PAINT_COLOURS, WOOD, Colour, scale_colour
from partonomy.datasets.synthetic.shared_parts import add_door, add_flag, add_window_row
from partonomy.datasets.synthetic.sketch import Blueprint, Sketch

_BUOY_ORANGE: Colour = (240, 110, 40)


def _add_lifebuoy(sketch: Sketch, x: float, y: float) -> None:
    sketch.fill("lifebuoy", ellipse(x, y, 0.135, 0.135), _BUOY_ORANGE)
    sketch.detail("lifebuoy", ellipse(x, y, 0.055, 0.055), CANVAS_WHITE)
    for degrees in (0, 90):
        sketch.detail("lifebuoy", ellipse(x, y, 0.13, 0.024, degrees), CANVAS_WHITE)


def draw_sailboat(sketch: Sketch, rng: np.random.Generator) -> None:
    """A boat with two sails."""
    top, boom = rng.uniform(-1.02, -0.86), rng.uniform(-0.76, -0.6)
    accent = sketch.scheme.accent
    sketch.fill("rudder", polygon((-0.9, 0.34), (-0.58, 0.34), (-0.66, 0.84), (-1.0, 0.84)), WOOD)
    sketch.fill("mast", tube((0.06, 0.36), (0.06, top), 0.1), WOOD)
    add_flag(sketch, 0.06, top - 0.06)
    sketch.fill("mainsail", polygon((0.0, top + 0.16), (0.0, 0.16), (boom, 0.14)), CANVAS_WHITE, sketch.livery)
    jib = smooth((0.16, top + 0.24), (0.44, -0.3), (0.8, 0.14), (0.46, 0.16), (0.14, 0.14))
    sketch.fill("jib", jib, accent)
    sketch.fill(
        "cabin", polygon((-0.5, 0.34), (-0.46, 0.18), (-0.02, 0.18), (0.1, 0.34)), scale_colour(CANVAS_WHITE, 0.85)
    )
    sketch.fill(
        "hull",
        smooth((-0.92, 0.32), (0.0, 0.33), (1.0, 0.26), (0.74, 0.56), (0.4, 0.64), (-0.6, 0.64), (-0.86, 0.52)),
        sketch.scheme.body,
    )
    sketch.detail("hull", tube((-0.84, 0.4), (0.8, 0.38), 0.045), scale_colour(sketch.scheme.body, 1.5))
    _add_lifebuoy(sketch, -0.3, 0.49)


def draw_ferry(sketch: Sketch, rng: np.random.Generator) -> None:
    """A ship with a long cabin and a funnel."""
    deck, chimney = rng.uniform(-0.28, -0.16), rng.uniform(-0.5, -0.24)
    body, accent = sketch.scheme.body, sketch.scheme.accent
    sketch.fill("mast", tube((0.5, deck), (0.5, -0.84), 0.1), WOOD)
    add_flag(sketch, 0.5, -0.88)
    sketch.fill(
        "funnel",
        polygon((chimney, deck), (chimney + 0.3, deck), (chimney + 0.24, -0.66), (chimney + 0.0, -0.66)),
        accent,
    )
    sketch.detail("funnel", box(chimney + 0.0, -0.66, chimney + 0.24, -0.56), (50, 48, 52))
    sketch.fill("cabin", box(-0.8, deck, 0.64, 0.2, 0.06), scale_colour(CANVAS_WHITE, 0.95))
    sketch.fill(
        "bridge",
        polygon((0.22, deck), (0.22, deck - 0.24), (0.62, deck - 0.24), (0.72, deck)),
        scale_colour(CANVAS_WHITE, 0.85),
    )
    sketch.detail("bridge", box(0.28, deck - 0.18, 0.64, deck - 0.07), (130, 180, 206))
    add_window_row(sketch, -0.74, 0.3, deck + 0.08, deck + 0.26, num_panes=5)
    add_door(sketch, 0.36, deck + 0.08, 0.54, 0.2)
    sketch.fill(
        "hull",
        polygon(
            (-0.96, 0.1), (-0.8, 0.18), (0.6, 0.18), (1.04, 0.04), (0.84, 0.52), (0.7, 0.6), (-0.8, 0.6), (-0.9, 0.5)
        ),
        body,
    )
    sketch.detail("hull", box(-0.88, 0.46, 0.84, 0.53), scale_colour(body, 0.6))
    _add_lifebuoy(sketch, -0.56, 0.34)


BOATS = (
    Blueprint(
        label="sailboat",
        category="boats",
        required_parts=("hull", "mast"),
        optional_parts=("mainsail", "jib", "rudder", "flag", "cabin", "lifebuoy"),
        draw=draw_sailboat,
        scenes=("sea", "sea", "studio"),
        colours=PAINT_COLOURS,
        max_lean_degrees=10,
        casts_shadow=False,
    ),
    Blueprint(
        label="ferry",
        category="boats",
        required_parts=("hull", "cabin"),
        optional_parts=("bridge", "funnel", "window", "door", "mast", "flag", "lifebuoy"),
        draw=draw_ferry,
        scenes=("sea", "sea", "studio"),
        colours=PAINT_COLOURS,
        max_lean_degrees=6,
        casts_shadow=False,
        supports=(("flag", "mast"),),
    ),
)
