"""A sketch: the ordered strokes of one object in object coordinates, later strokes over earlier ones."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from partonomy.datasets.synthetic.geometry import Points
from partonomy.datasets.synthetic.palette import Colour, Scheme

Texture = Literal["plain", "stripes", "spots", "planks"]
SceneKind = Literal["sky", "street", "park", "meadow", "underwater", "room", "sea", "studio"]


@dataclass(frozen=True)
class Stroke:
    """One filled outline. A detail colours the strokes below it without changing the part that they belong to."""

    points: Points
    colour: Colour
    part: str
    is_detail: bool
    texture: Texture
    opacity: float
    has_outline: bool


@dataclass
class Sketch:
    """Collects strokes and drops those of absent parts, so that a blueprint need not check which parts are present."""

    scheme: Scheme
    livery: Texture
    present_parts: Collection[str]
    strokes: list[Stroke] = field(default_factory=list)

    def fill(self, part: str, points: Points, colour: Colour, texture: Texture = "plain") -> None:
        """Add a filled, outlined shape that belongs to `part`."""
        if part in self.present_parts:
            self.strokes.append(Stroke(points, colour, part, False, texture, 1.0, True))

    def fill_body(self, part: str, points: Points) -> None:
        """Add a shape in the body colour with the object's livery."""
        self.fill(part, points, self.scheme.body, self.livery)

    def detail(self, part: str, points: Points, colour: Colour, opacity: float = 1.0) -> None:
        """Add a decoration on top of `part` that does not change the masks."""
        if part in self.present_parts:
            self.strokes.append(Stroke(points, colour, part, True, "plain", opacity, False))


@dataclass(frozen=True)
class Blueprint:
    """An object class: its parts, its drawing function, its maximum lean and its scenes.

    `draw` adds the strokes to a sketch; its Generator varies the proportions.
    """

    label: str
    category: str
    required_parts: tuple[str, ...]
    optional_parts: tuple[str, ...]
    draw: Callable[[Sketch, np.random.Generator], None]
    scenes: tuple[SceneKind, ...]
    colours: tuple[str, ...]
    max_lean_degrees: float
    casts_shadow: bool
    liveries: tuple[Texture, ...] = ("plain", "plain", "stripes")
    supports: tuple[tuple[str, str], ...] = ()
    """(part, its support): the part is missing whenever its support is."""

    @property
    def parts(self) -> tuple[str, ...]:
        """All part labels of the class."""
        return self.required_parts + self.optional_parts
