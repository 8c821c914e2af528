"""Composes one picture: background, second object, main object, foreground, light and grain."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from partonomy.datasets.synthetic.background import cast_shadow, draw_background
from partonomy.datasets.synthetic.canvas import BACKGROUND_LABEL, Canvas, Image
from partonomy.datasets.synthetic.catalogue import BLUEPRINTS
from partonomy.datasets.synthetic.geometry import turn
from partonomy.datasets.synthetic.occluders import Box, draw_occluder
from partonomy.datasets.synthetic.palette import Scheme, choose_scheme
from partonomy.datasets.synthetic.sketch import Blueprint, SceneKind, Sketch, Stroke

BoolMask = npt.NDArray[np.bool_]

MISSING_PART_PROBABILITY = 0.28
SECOND_OBJECT_PROBABILITY = 0.3
OCCLUDER_PROBABILITY = 0.25
UNUSUAL_SCENE_PROBABILITY = 0.12
FLIP_PROBABILITY = 0.2
MIN_VISIBLE_PARTS = 2
# A part that shows fewer pixels than this in a 192 x 192 image counts as not visible.
MIN_PART_PIXELS = 96
_REFERENCE_SIZE = 192
_UNUSUAL_SCENES: tuple[SceneKind, ...] = ("studio", "street", "park", "meadow", "room")


@dataclass(frozen=True)
class ScenePlan:
    """The content of a picture, planned before anything is drawn."""

    blueprint: Blueprint
    scheme: Scheme
    present_parts: tuple[str, ...]
    scene: SceneKind
    second_object: Blueprint | None
    has_occluder: bool


@dataclass(frozen=True)
class DrawnImage:
    """One picture, (H, W, 3) uint8 RGB, with the visible masks of its main object.

    Masks are (H, W) bool in image pixels; parts are disjoint and lie inside `object_mask`. `colour` names the colour
    of the object's body. A second object, if any, has another class and is not annotated.
    """

    image: Image
    label: str
    category: str
    parts: dict[str, BoolMask]
    object_mask: BoolMask
    colour: str


def plan_scene(blueprint: Blueprint, scheme: Scheme, rng: np.random.Generator) -> ScenePlan:
    """Choose an object's parts, scene, second object and occluder."""
    kept = set(blueprint.required_parts)
    kept |= {part for part in blueprint.optional_parts if rng.random() >= MISSING_PART_PROBABILITY}
    kept -= {part for part, support in blueprint.supports if support not in kept}
    scenes = _UNUSUAL_SCENES if rng.random() < UNUSUAL_SCENE_PROBABILITY else blueprint.scenes
    scene = scenes[int(rng.integers(len(scenes)))]
    company = [other for other in BLUEPRINTS if other.label != blueprint.label and scene in other.scenes]
    has_company = bool(rng.random() < SECOND_OBJECT_PROBABILITY) and bool(company)
    return ScenePlan(
        blueprint=blueprint,
        scheme=scheme,
        present_parts=tuple(part for part in blueprint.parts if part in kept),
        scene=scene,
        second_object=company[int(rng.integers(len(company)))] if has_company else None,
        has_occluder=bool(rng.random() < OCCLUDER_PROBABILITY),
    )


def draw_scene(plan: ScenePlan, size: int, rng: np.random.Generator) -> DrawnImage:
    """Draw a planned picture of size x size pixels."""
    blueprint = plan.blueprint
    strokes = _sketch_object(blueprint, plan.scheme, plan.present_parts, rng)
    extent = rng.uniform(0.8, 0.98) if rng.random() < 0.9 else rng.uniform(0.5, 0.8)
    strokes, object_box = _pose(strokes, blueprint, plan.scene, extent, size=size, rng=rng)

    background = draw_background(plan.scene, size, rng)
    if blueprint.casts_shadow:
        left, _, right, bottom = object_box
        background = cast_shadow(background, left, right, bottom - 0.01 * size, rng.uniform(0.4, 0.6))
    canvas = Canvas(background)
    if plan.second_object is not None:
        _draw_second_object(canvas, plan.second_object, plan.scene, size, rng)

    object_parts = blueprint.parts
    for stroke in strokes:
        _draw_stroke(canvas, stroke, plan.scheme, object_parts.index(stroke.part) + 1)
    if plan.has_occluder:
        draw_occluder(canvas, plan.scene, object_box, rng)

    labels = canvas.finish_labels()
    min_pixels = MIN_PART_PIXELS * (size / _REFERENCE_SIZE) ** 2
    pixel_counts = np.bincount(labels.ravel(), minlength=len(object_parts) + 1)
    return DrawnImage(
        image=_expose(canvas.finish(), rng),
        label=blueprint.label,
        category=blueprint.category,
        parts={
            part: labels == number for number, part in enumerate(object_parts, 1) if pixel_counts[number] >= min_pixels
        },
        object_mask=labels != BACKGROUND_LABEL,
        colour=plan.scheme.body_name,
    )


def _sketch_object(
    blueprint: Blueprint, scheme: Scheme, present_parts: tuple[str, ...], rng: np.random.Generator
) -> list[Stroke]:
    livery = blueprint.liveries[int(rng.integers(len(blueprint.liveries)))]
    sketch = Sketch(scheme=scheme, livery=livery, present_parts=present_parts)
    blueprint.draw(sketch, rng)
    return sketch.strokes


def _pose(
    strokes: list[Stroke], blueprint: Blueprint, scene: SceneKind, extent: float, *, size: int, rng: np.random.Generator
) -> tuple[list[Stroke], Box]:
    """Flip, stretch, shear, lean and place an object so that its longer side takes `extent` of the image."""
    flip = -1.0 if rng.random() < FLIP_PROBABILITY else 1.0
    shear = rng.uniform(-0.08, 0.08)
    stretch = rng.uniform(0.9, 1.12)
    lean = rng.uniform(-blueprint.max_lean_degrees, blueprint.max_lean_degrees)
    matrix = np.array([[flip, 0.0], [shear, stretch]], dtype=np.float32)  # rows: images of the object's x and y axes
    matrix = turn(matrix, lean)
    moved = np.concatenate([stroke.points for stroke in strokes]) @ matrix
    lower, upper = moved.min(axis=0), moved.max(axis=0)
    scale = extent * size / float((upper - lower).max())
    width, height = ((upper - lower) * scale).tolist()

    left = (size - width) * rng.uniform(0.0, 1.0)
    if blueprint.casts_shadow or scene == "sea":
        top = min(rng.uniform(0.8, 0.97) * size - height, size - height)
    else:
        top = (size - height) * rng.uniform(0.1, 0.9)
    top = max(top, 0.01 * size)
    shift = np.array([left, top], dtype=np.float32) - lower * scale
    placed = [
        Stroke(
            points=(stroke.points @ matrix) * np.float32(scale) + shift,
            colour=stroke.colour,
            part=stroke.part,
            is_detail=stroke.is_detail,
            texture=stroke.texture,
            opacity=stroke.opacity,
            has_outline=stroke.has_outline,
        )
        for stroke in strokes
    ]
    return placed, (left, top, left + width, top + height)


def _draw_stroke(canvas: Canvas, stroke: Stroke, scheme: Scheme, label: int) -> None:
    canvas.fill(
        stroke.points,
        stroke.colour,
        None if stroke.is_detail else label,
        texture=stroke.texture,
        texture_colour=_texture_colour(stroke, scheme),
        opacity=stroke.opacity,
        has_outline=stroke.has_outline,
    )


def _texture_colour(stroke: Stroke, scheme: Scheme) -> tuple[int, int, int]:
    """Return a darker shade for plank seams; for stripes and spots, the accent colour halfway to the ground colour."""
    ground, other = stroke.colour, scheme.accent
    if stroke.texture == "planks":
        other = (0, 0, 0)
    red, green, blue = ((a + b) // 2 for a, b in zip(ground, other, strict=True))
    return red, green, blue


def _draw_second_object(
    canvas: Canvas, blueprint: Blueprint, scene: SceneKind, size: int, rng: np.random.Generator
) -> None:
    """Draw a smaller, complete object of another class behind the main one."""
    scheme = choose_scheme(blueprint.colours, rng)
    strokes = _sketch_object(blueprint, scheme, blueprint.parts, rng)
    strokes, (_, top, _, bottom) = _pose(strokes, blueprint, scene, rng.uniform(0.22, 0.36), size=size, rng=rng)
    if blueprint.casts_shadow or scene == "sea":
        # Objects further away are higher up in the picture.
        lift = np.array([0.0, rng.uniform(0.66, 0.76) * size - bottom], dtype=np.float32)
    else:
        lift = np.array([0.0, rng.uniform(0.02, 0.6) * size - top], dtype=np.float32)
    for stroke in strokes:
        canvas.fill(
            stroke.points + lift,
            stroke.colour,
            None if stroke.is_detail else BACKGROUND_LABEL,
            has_outline=stroke.has_outline,
            opacity=stroke.opacity,
        )


def _expose(picture: Image, rng: np.random.Generator) -> Image:
    """Apply uneven light, contrast and fine grain."""
    size = picture.shape[0]
    light = rng.integers(206, 256, (3, 3), dtype=np.uint8)
    field = cv2.resize(light, (size, size), interpolation=cv2.INTER_CUBIC)
    lit = cv2.multiply(picture, cv2.merge([field, field, field]), scale=rng.uniform(1.0, 1.12) / 245.0)
    grain = rng.integers(0, 13, picture.shape, dtype=np.uint8)
    return np.asarray(cv2.addWeighted(lit, 1.0, grain, 1.0, -6.0), dtype=np.uint8)
