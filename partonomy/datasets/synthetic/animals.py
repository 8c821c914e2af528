"""Animals: dog, horse, bird and fish, seen from the side."""

import numpy as np

from partonomy.datasets.synthetic.geometry import Point, bent_tube, box, ellipse, polygon, smooth, tube
from partonomy.datasets.synthetic.palette import (
    ALL_COLOURS,
    ANIMAL_COLOURS,
    BEAK_ORANGE,
    Colour,
    scale_colour,
)
from partonomy.datasets.synthetic.shared_parts import add_saddle
from partonomy.datasets.synthetic.sketch import Blueprint, Sketch


def _contrast(colour: Colour, factor: float) -> Colour:
    """Return another shade of a coat: darker, or lighter if it is already dark."""
    return scale_colour(colour, factor) if sum(colour) > 260 else scale_colour(colour, 2.0 - factor)


def _add_eye(sketch: Sketch, x: float, y: float, radius: float) -> None:
    sketch.detail("head", ellipse(x, y, radius, radius), (250, 250, 246))
    sketch.detail("head", ellipse(x + 0.2 * radius, y, 0.65 * radius, 0.65 * radius), (24, 22, 24))


def _add_leg(sketch: Sketch, part: str, hip: Point, foot: Point, *, width: float, colour: Colour) -> None:
    sketch.fill(part, tube(hip, foot, 1.5 * width, width), colour)
    sketch.fill(part, ellipse(foot[0] + 0.03, foot[1], 0.75 * width, 0.45 * width), _contrast(colour, 0.7))


def draw_dog(sketch: Sketch, rng: np.random.Generator) -> None:
    """A dog with a collar and a raised tail."""
    coat, far = sketch.scheme.body, _contrast(sketch.scheme.body, 0.75)
    stride, lift = rng.uniform(-0.1, 0.12), rng.uniform(-0.25, 0.1)
    _add_leg(sketch, "hind leg", (-0.42, 0.16), (-0.5 - stride, 0.68), width=0.13, colour=far)
    _add_leg(sketch, "front leg", (0.3, 0.16), (0.36 + stride, 0.68), width=0.13, colour=far)
    sketch.fill(
        "tail",
        bent_tube(((-0.56, -0.08), (-0.78, -0.2), (-0.92, -0.36 + lift), (-0.94, -0.5 + lift)), 0.18, 0.11),
        coat,
    )
    sketch.fill_body(
        "torso",
        smooth(
            (-0.64, 0.0),
            (-0.5, -0.2),
            (0.0, -0.18),
            (0.4, -0.26),
            (0.56, -0.02),
            (0.4, 0.24),
            (0.0, 0.2),
            (-0.44, 0.24),
        ),
    )
    _add_leg(sketch, "hind leg", (-0.48, 0.14), (-0.5 + stride, 0.72), width=0.14, colour=coat)
    _add_leg(sketch, "front leg", (0.36, 0.16), (0.38 - stride, 0.72), width=0.14, colour=coat)
    sketch.fill("torso", polygon((0.26, -0.18), (0.36, -0.46), (0.62, -0.36), (0.54, 0.0)), coat)
    sketch.fill("head", ellipse(0.6, -0.48, 0.24, 0.22), coat)
    sketch.fill(
        "snout", smooth((0.72, -0.52), (0.96, -0.46), (1.0, -0.38), (0.94, -0.3), (0.7, -0.3)), _contrast(coat, 1.25)
    )
    sketch.detail("snout", ellipse(0.97, -0.44, 0.06, 0.05), (30, 26, 28))
    _add_eye(sketch, 0.66, -0.54, 0.05)
    sketch.fill(
        "ear", smooth((0.5, -0.66), (0.36, -0.58), (0.34, -0.26), (0.46, -0.22), (0.56, -0.46)), _contrast(coat, 0.6)
    )
    sketch.fill("collar", bent_tube(((0.3, -0.24), (0.44, -0.14), (0.6, -0.12)), 0.15, 0.15), sketch.scheme.accent)


def draw_horse(sketch: Sketch, rng: np.random.Generator) -> None:
    """A horse, with or without a saddle."""
    coat, far = sketch.scheme.body, _contrast(sketch.scheme.body, 0.75)
    mane = _contrast(coat, 0.45)
    stride = rng.uniform(-0.12, 0.14)
    _add_leg(sketch, "hind leg", (-0.46, 0.1), (-0.56 - stride, 0.84), width=0.1, colour=far)
    _add_leg(sketch, "front leg", (0.28, 0.1), (0.36 + stride, 0.84), width=0.1, colour=far)
    sketch.fill(
        "tail",
        smooth((-0.58, -0.2), (-0.76, -0.2), (-0.94, 0.1), (-0.92, 0.52), (-0.78, 0.44), (-0.74, 0.06), (-0.6, -0.06)),
        mane,
    )
    sketch.fill(
        "mane", smooth((0.18, -0.2), (0.3, -0.6), (0.5, -0.94), (0.64, -0.9), (0.52, -0.5), (0.34, -0.16)), mane
    )
    sketch.fill("neck", polygon((0.2, -0.12), (0.5, -0.8), (0.74, -0.68), (0.54, 0.06)), coat)
    sketch.fill_body(
        "torso",
        smooth(
            (-0.66, -0.04),
            (-0.52, -0.26),
            (-0.1, -0.2),
            (0.3, -0.26),
            (0.54, -0.06),
            (0.42, 0.2),
            (0.0, 0.24),
            (-0.46, 0.2),
        ),
    )
    _add_leg(sketch, "hind leg", (-0.5, 0.08), (-0.52 + stride, 0.88), width=0.11, colour=coat)
    _add_leg(sketch, "front leg", (0.36, 0.1), (0.36 - stride, 0.88), width=0.11, colour=coat)
    sketch.fill("ear", polygon((0.5, -0.76), (0.54, -1.1), (0.74, -0.82)), _contrast(coat, 0.65))
    sketch.fill(
        "head",
        smooth((0.5, -0.76), (0.66, -0.88), (0.8, -0.76), (1.0, -0.44), (0.92, -0.34), (0.78, -0.42), (0.62, -0.56)),
        coat,
    )
    _add_eye(sketch, 0.7, -0.72, 0.04)
    sketch.detail("head", ellipse(0.93, -0.4, 0.03, 0.025), (40, 32, 32))
    if "saddle" in sketch.present_parts:
        sketch.fill("saddle", box(-0.22, -0.22, 0.12, 0.06, 0.05), sketch.scheme.accent)
    add_saddle(sketch, -0.06, -0.22, 0.26)


def draw_bird(sketch: Sketch, rng: np.random.Generator) -> None:
    """A perching bird with folded or raised wing."""
    coat, accent = sketch.scheme.body, sketch.scheme.accent
    raised = rng.uniform(-0.1, 0.5)
    for x in (-0.02, 0.2):
        sketch.fill("leg", tube((x, 0.3), (x + 0.02, 0.66), 0.065), BEAK_ORANGE)
        sketch.fill("leg", tube((x - 0.06, 0.68), (x + 0.16, 0.68), 0.065), BEAK_ORANGE)
    sketch.fill(
        "tail", polygon((-0.42, 0.0), (-1.0, 0.08), (-1.02, 0.28), (-0.9, 0.32), (-0.36, 0.2)), _contrast(coat, 0.6)
    )
    sketch.fill("crest", polygon((0.38, -0.58), (0.08, -0.9), (0.38, -0.84), (0.44, -1.06), (0.64, -0.62)), accent)
    sketch.fill_body(
        "torso",
        smooth((-0.56, 0.12), (-0.3, -0.14), (0.2, -0.36), (0.54, -0.3), (0.6, 0.0), (0.36, 0.34), (-0.1, 0.38)),
    )
    sketch.detail("torso", ellipse(0.34, 0.1, 0.22, 0.2), _contrast(coat, 1.3), 0.6)
    sketch.fill("beak", polygon((0.68, -0.64), (1.12, -0.43), (0.68, -0.28)), BEAK_ORANGE)
    sketch.fill("head", ellipse(0.52, -0.46, 0.25, 0.23), coat)
    _add_eye(sketch, 0.6, -0.5, 0.055)
    tip: Point = (-0.72, 0.12 - raised)
    sketch.fill(
        "wing",
        smooth(
            (0.3, -0.1), (0.06, -0.22 - 0.4 * raised), tip, (tip[0] + 0.14, tip[1] + 0.16), (0.0, 0.22), (0.24, 0.12)
        ),
        accent,
    )
    for offset in (0.0, 0.14):
        sketch.detail(
            "wing",
            tube((0.08 - offset, 0.1), (tip[0] + 0.2, tip[1] + 0.1 - 0.4 * offset), 0.025),
            scale_colour(accent, 0.65),
        )


def draw_fish(sketch: Sketch, rng: np.random.Generator) -> None:
    """A tropical fish."""
    height, spread = rng.uniform(0.36, 0.5), rng.uniform(0.3, 0.42)
    coat, accent = sketch.scheme.body, sketch.scheme.accent
    sketch.fill(
        "tail fin",
        smooth((-0.5, 0.0), (-0.8, -0.3), (-1.04, -spread - 0.06), (-0.9, 0.0), (-1.04, spread + 0.06), (-0.8, 0.3)),
        accent,
    )
    sketch.fill(
        "dorsal fin",
        smooth(
            (-0.46, -0.5 * height),
            (-0.4, -height - 0.2),
            (0.0, -height - 0.22),
            (0.3, -0.8 * height),
            (0.0, -0.7 * height),
        ),
        accent,
    )
    sketch.fill("belly fin", polygon((0.24, 0.8 * height), (-0.16, height + 0.34), (-0.4, 0.6 * height)), accent)
    sketch.fill_body(
        "torso",
        smooth(
            (0.94, 0.02),
            (0.62, -0.7 * height),
            (0.1, -height),
            (-0.4, -0.55 * height),
            (-0.64, -0.1),
            (-0.64, 0.1),
            (-0.4, 0.55 * height),
            (0.1, height),
            (0.62, 0.72 * height),
        ),
    )
    sketch.fill(
        "head",
        smooth(
            (0.94, 0.02),
            (0.72, -0.56 * height),
            (0.46, -0.84 * height),
            (0.38, 0.0),
            (0.46, 0.86 * height),
            (0.72, 0.6 * height),
        ),
        _contrast(coat, 0.7),
    )
    _add_eye(sketch, 0.66, -0.14, 0.085)
    sketch.detail("head", tube((0.9, 0.08), (0.78, 0.13), 0.03), (60, 36, 36))
    sketch.fill(
        "pectoral fin",
        smooth((0.32, 0.06), (-0.06, 0.0), (-0.14, 0.2), (0.06, 0.3), (0.3, 0.18)),
        _contrast(accent, 0.8),
    )


ANIMALS = (
    Blueprint(
        label="dog",
        category="animals",
        required_parts=("torso", "head"),
        optional_parts=("snout", "ear", "front leg", "hind leg", "tail", "collar"),
        draw=draw_dog,
        scenes=("meadow", "park", "room"),
        colours=ANIMAL_COLOURS,
        max_lean_degrees=8,
        casts_shadow=True,
        liveries=("plain", "plain", "spots"),
    ),
    Blueprint(
        label="horse",
        category="animals",
        required_parts=("torso", "neck", "head"),
        optional_parts=("ear", "mane", "front leg", "hind leg", "tail", "saddle"),
        draw=draw_horse,
        scenes=("meadow", "meadow", "park"),
        colours=ANIMAL_COLOURS,
        max_lean_degrees=8,
        casts_shadow=True,
        liveries=("plain", "plain", "spots"),
    ),
    Blueprint(
        label="bird",
        category="animals",
        required_parts=("torso", "head"),
        optional_parts=("beak", "wing", "tail", "leg", "crest"),
        draw=draw_bird,
        scenes=("park", "meadow", "sky"),
        colours=ALL_COLOURS,
        max_lean_degrees=12,
        casts_shadow=True,
        liveries=("plain", "plain", "spots"),
    ),
    Blueprint(
        label="fish",
        category="animals",
        required_parts=("torso",),
        optional_parts=("head", "tail fin", "dorsal fin", "belly fin", "pectoral fin"),
        draw=draw_fish,
        scenes=("underwater", "underwater", "studio"),
        colours=ALL_COLOURS,
        max_lean_degrees=15,
        casts_shadow=False,
        liveries=("plain", "stripes", "spots"),
    ),
)
