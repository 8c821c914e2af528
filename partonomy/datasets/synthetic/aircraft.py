"""Aircraft: airplane, biplane, seaplane and helicopter, seen from the side and slightly from above."""

import numpy as np

from partonomy.datasets.synthetic.geometry import box, ellipse, polygon, smooth, tube
from partonomy.datasets.synthetic.palette import IRON, PAINT_COLOURS, RUBBER, STEEL, scale_colour
from partonomy.datasets.synthetic.shared_parts import (
    add_door,
    add_glass,
    add_landing_gear,
    add_propeller,
    add_window_row,
)
from partonomy.datasets.synthetic.sketch import Blueprint, Sketch


def draw_airplane(sketch: Sketch, rng: np.random.Generator) -> None:
    """A jet with swept wings, an engine under the near wing and a row of windows."""
    sweep, span = rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.66)
    accent = sketch.scheme.accent
    far_wing = polygon((0.22, -0.06), (-0.14, -0.06), (-0.12 - sweep, -0.8 * span), (0.06 - sweep, -0.8 * span))
    sketch.fill("wing", far_wing, scale_colour(STEEL, 0.85))
    add_landing_gear(sketch, 0.66, 0.1, 0.4, 0.03)
    add_landing_gear(sketch, 0.34, 0.1, 0.42, -0.03)
    sketch.fill("tail fin", polygon((-0.5, -0.1), (-0.95, -0.05), (-1.08, -0.56), (-0.86, -0.56)), accent)
    hull = (
        (1.0, 0.05),
        (0.86, -0.13),
        (0.6, -0.2),
        (-0.5, -0.18),
        (-1.0, -0.07),
        (-0.5, 0.15),
        (0.6, 0.2),
        (0.9, 0.16),
    )
    sketch.fill_body("fuselage", smooth(*hull))
    add_glass(sketch, "cockpit", (0.64, -0.18), (0.82, -0.14), (0.97, 0.0), (0.66, 0.01))
    add_door(sketch, 0.44, -0.13, 0.6, 0.17)
    add_window_row(sketch, -0.62, 0.4, -0.12, 0.01, num_panes=6)
    near_wing = polygon((0.3, 0.06), (-0.18, 0.08), (-0.14 - sweep, span), (0.12 - sweep, span + 0.02))
    sketch.fill("wing", near_wing, STEEL)
    sketch.fill("jet engine", box(-0.12, 0.22, 0.28, 0.46, 0.1), accent)
    sketch.detail("jet engine", ellipse(0.22, 0.34, 0.055, 0.1), RUBBER)


def draw_biplane(sketch: Sketch, rng: np.random.Generator) -> None:
    """A propeller plane with two stacked wings joined by struts."""
    gap, chord = rng.uniform(0.4, 0.5), rng.uniform(0.38, 0.48)
    accent = sketch.scheme.accent
    add_landing_gear(sketch, 0.42, 0.1, 0.4, 0.04)
    sketch.fill("tail fin", smooth((-0.62, -0.04), (-0.78, -0.32), (-1.0, -0.34), (-1.02, 0.0)), accent)
    sketch.fill("strut", tube((0.42, -0.1), (0.42, -gap), 0.09), IRON)
    sketch.fill_body(
        "fuselage",
        smooth(
            (0.82, 0.0),
            (0.74, -0.17),
            (0.2, -0.19),
            (-0.5, -0.12),
            (-1.0, -0.05),
            (-0.95, 0.03),
            (-0.4, 0.12),
            (0.3, 0.2),
            (0.74, 0.17),
        ),
    )
    sketch.detail("fuselage", box(0.56, -0.17, 0.62, 0.18), scale_colour(sketch.scheme.body, 0.6))
    add_glass(sketch, "cockpit", (-0.22, -0.36), (0.0, -0.36), (0.14, -0.15), (-0.34, -0.13))
    lower = polygon((0.12 + chord, 0.08), (0.12, 0.08), (-0.22, 0.5), (-0.22 + chord, 0.5))
    sketch.fill("lower wing", lower, scale_colour(accent, 0.75))
    sketch.fill("strut", tube((0.02, 0.36), (0.0, 0.06 - gap), 0.09), IRON)
    sketch.fill("strut", tube((0.22, 0.36), (0.2, 0.06 - gap), 0.09), IRON)
    upper = polygon((0.26 + chord, -gap - 0.2), (0.26, -gap - 0.2), (-0.16, 0.18 - gap), (-0.16 + chord, 0.18 - gap))
    sketch.fill("upper wing", upper, scale_colour(accent, 1.1))
    add_propeller(sketch, 0.86, 0.0, rng.uniform(0.34, 0.42), rng.uniform(-14, 14))


def draw_seaplane(sketch: Sketch, rng: np.random.Generator) -> None:
    """A high-winged propeller plane that stands on floats."""
    depth, chord = rng.uniform(0.46, 0.56), rng.uniform(0.36, 0.46)
    accent = sketch.scheme.accent
    for x in (0.42, -0.2):
        sketch.fill("strut", tube((x, 0.1), (x - 0.02, depth), 0.09), IRON)
    hull = smooth(
        (0.86, depth - 0.06),
        (0.6, depth + 0.12),
        (-0.5, depth + 0.12),
        (-0.76, depth + 0.0),
        (-0.5, depth - 0.04),
        (0.6, depth - 0.04),
    )
    sketch.fill("float", hull, scale_colour(STEEL, 0.9))
    sketch.detail("float", tube((-0.6, depth + 0.05), (0.7, depth + 0.03), 0.03), accent)
    sketch.fill("tail fin", polygon((-0.56, -0.08), (-0.94, -0.04), (-1.06, -0.44), (-0.86, -0.46)), accent)
    sketch.fill_body(
        "fuselage",
        smooth(
            (0.84, 0.0),
            (0.74, -0.12),
            (0.44, -0.22),
            (0.0, -0.22),
            (-0.5, -0.12),
            (-1.0, -0.06),
            (-0.9, 0.04),
            (-0.2, 0.17),
            (0.5, 0.18),
            (0.78, 0.13),
        ),
    )
    add_glass(sketch, "cockpit", (0.3, -0.21), (0.48, -0.21), (0.7, -0.03), (0.3, -0.02))
    add_door(sketch, 0.08, -0.17, 0.26, 0.15)
    add_window_row(sketch, -0.4, 0.06, -0.14, 0.02, num_panes=3)
    wing = polygon(
        (0.36 + 0.6 * chord, -0.46),
        (0.3 - 0.3 * chord, -0.46),
        (-0.14 - 0.4 * chord, -0.08),
        (-0.1 + 0.6 * chord, -0.08),
    )
    sketch.fill("wing", wing, scale_colour(STEEL, 1.05))
    add_propeller(sketch, 0.88, 0.01, rng.uniform(0.3, 0.38), rng.uniform(-14, 14))


def draw_helicopter(sketch: Sketch, rng: np.random.Generator) -> None:
    """A cabin under a rotor, with a boom to the tail rotor, on skids."""
    length, tilt = rng.uniform(0.8, 0.95), rng.uniform(-4, 4)
    body, accent = sketch.scheme.body, sketch.scheme.accent
    for x in (0.0, 0.46):
        sketch.fill("landing skid", tube((x, 0.28), (x - 0.04, 0.56), 0.06), IRON)
    sketch.fill("landing skid", tube((-0.3, 0.57), (0.8, 0.57), 0.075), IRON)
    sketch.fill(
        "tail boom", polygon((-0.1, -0.12), (-1.0, -0.14), (-1.02, -0.04), (-0.1, 0.16)), scale_colour(body, 0.65)
    )
    sketch.fill("tail fin", polygon((-0.84, -0.1), (-1.02, -0.1), (-1.16, -0.4), (-1.0, -0.42)), accent)
    sketch.fill(
        "fuselage",
        smooth((-0.05, -0.3), (0.45, -0.3), (0.5, -0.42), (0.08, -0.44), (-0.1, -0.38)),
        scale_colour(body, 0.7),
    )
    sketch.fill_body(
        "fuselage",
        smooth(
            (0.88, 0.12),
            (0.72, -0.14),
            (0.4, -0.32),
            (0.0, -0.32),
            (-0.28, -0.12),
            (-0.2, 0.2),
            (0.1, 0.34),
            (0.66, 0.32),
        ),
    )
    add_glass(sketch, "cockpit", (0.4, -0.28), (0.6, -0.22), (0.86, 0.1), (0.42, 0.1))
    add_door(sketch, 0.1, -0.2, 0.36, 0.24)
    add_window_row(sketch, -0.18, 0.08, -0.18, 0.03, num_panes=1)
    sketch.fill("tail rotor", ellipse(-1.02, -0.1, 0.08, 0.32, rng.uniform(-40, 40)), scale_colour(IRON, 0.8))
    sketch.fill("tail rotor", ellipse(-1.02, -0.1, 0.06, 0.06), STEEL)
    sketch.fill("main rotor", box(0.2, -0.56, 0.28, -0.42), IRON)
    sketch.fill("main rotor", ellipse(0.24, -0.57, length, 0.07, tilt), scale_colour(IRON, 0.7))
    sketch.fill("main rotor", ellipse(0.24, -0.57, 0.1, 0.06), STEEL)


AIRCRAFT = (
    Blueprint(
        label="airplane",
        category="aircraft",
        required_parts=("fuselage", "wing"),
        optional_parts=("tail fin", "jet engine", "cockpit", "window", "door", "landing gear"),
        draw=draw_airplane,
        scenes=("sky", "sky", "studio"),
        colours=PAINT_COLOURS,
        max_lean_degrees=15,
        casts_shadow=False,
    ),
    Blueprint(
        label="biplane",
        category="aircraft",
        required_parts=("fuselage", "upper wing"),
        optional_parts=("lower wing", "propeller", "tail fin", "strut", "cockpit", "landing gear"),
        draw=draw_biplane,
        supports=(("strut", "lower wing"),),
        scenes=("sky", "sky", "meadow"),
        colours=PAINT_COLOURS,
        max_lean_degrees=15,
        casts_shadow=False,
    ),
    Blueprint(
        label="seaplane",
        category="aircraft",
        required_parts=("fuselage", "wing"),
        optional_parts=("float", "strut", "propeller", "tail fin", "cockpit", "window", "door"),
        draw=draw_seaplane,
        scenes=("sky", "sea", "sea"),
        colours=PAINT_COLOURS,
        max_lean_degrees=12,
        casts_shadow=False,
        supports=(("float", "strut"),),
    ),
    Blueprint(
        label="helicopter",
        category="aircraft",
        required_parts=("fuselage", "tail boom"),
        optional_parts=("main rotor", "tail rotor", "tail fin", "landing skid", "cockpit", "window", "door"),
        draw=draw_helicopter,
        scenes=("sky", "sky", "street"),
        colours=PAINT_COLOURS,
        max_lean_degrees=12,
        casts_shadow=False,
    ),
)
