"""Parts that several classes share, drawn the same way in each."""

from partonomy.datasets.synthetic.geometry import Point, box, ellipse, polygon, tube
from partonomy.datasets.synthetic.palette import (
    BRAKE_RED,
    GLASS,
    IRON,
    LAMP_LIGHT,
    LEATHER,
    RUBBER,
    STEEL,
    scale_colour,
)
from partonomy.datasets.synthetic.sketch import Sketch


def add_wheel(sketch: Sketch, part: str, x: float, y: float, radius: float) -> None:
    """A tyre with a bright rim and a hub."""
    sketch.fill(part, ellipse(x, y, radius, radius), RUBBER)
    sketch.detail(part, ellipse(x, y, 0.6 * radius, 0.6 * radius), STEEL)
    sketch.detail(part, ellipse(x, y, 0.2 * radius, 0.2 * radius), IRON)


def add_spoked_wheel(sketch: Sketch, part: str, x: float, y: float, radius: float) -> None:
    """A thin tyre around a pale disc with spokes."""
    sketch.fill(part, ellipse(x, y, radius, radius), RUBBER)
    sketch.detail(part, ellipse(x, y, 0.8 * radius, 0.8 * radius), (214, 218, 222))
    for degrees in (0, 45, 90, 135):
        sketch.detail(part, ellipse(x, y, 0.8 * radius, 0.03 * radius + 0.006, degrees), (150, 154, 160))
    sketch.detail(part, ellipse(x, y, 0.14 * radius, 0.14 * radius), IRON)


def add_glass(sketch: Sketch, part: str, *corners: Point) -> None:
    """A pane with a slanted reflection."""
    sketch.fill(part, polygon(*corners), GLASS)
    first, second, third = corners[0], corners[1], corners[2]
    middle = (0.5 * (first[0] + second[0]), 0.5 * (first[1] + second[1]))
    reflection = (0.5 * (middle[0] + third[0]), 0.5 * (middle[1] + third[1]))
    sketch.detail(part, polygon(middle, second, reflection), (255, 255, 255), 0.45)


def add_window_row(sketch: Sketch, left: float, right: float, top: float, bottom: float, *, num_panes: int) -> None:
    """A row of equal upright panes of the part "window"."""
    pitch = (right - left) / num_panes
    for pane in range(num_panes):
        start, end = left + pitch * (pane + 0.1), left + pitch * (pane + 0.9)
        add_glass(sketch, "window", (start, top), (end, top), (end, bottom), (start, bottom))


def add_door(sketch: Sketch, left: float, top: float, right: float, bottom: float) -> None:
    """A panel a shade darker than the body, with a handle."""
    sketch.fill("door", box(left, top, right, bottom, 0.03), scale_colour(sketch.scheme.body, 0.72))
    height = top + 0.42 * (bottom - top)
    sketch.detail(
        "door", box(left + 0.12 * (right - left), height, left + 0.42 * (right - left), height + 0.035), STEEL
    )


def add_headlight(sketch: Sketch, x: float, y: float, radius: float) -> None:
    """A round yellow light in a metal ring."""
    sketch.fill("headlight", ellipse(x, y, radius, radius), STEEL)
    sketch.detail("headlight", ellipse(x, y, 0.75 * radius, 0.75 * radius), LAMP_LIGHT)


def add_tail_light(sketch: Sketch, left: float, top: float, right: float, bottom: float) -> None:
    """A red light at the rear."""
    sketch.fill("tail light", box(left, top, right, bottom, 0.03), BRAKE_RED)


def add_propeller(sketch: Sketch, x: float, y: float, length: float, degrees: float) -> None:
    """Two blades seen nearly from the side, with a spinner."""
    sketch.fill("propeller", ellipse(x, y, 0.075, length, degrees), LEATHER)
    sketch.fill("propeller", ellipse(x, y, 0.1, 0.09), STEEL)


def add_landing_gear(sketch: Sketch, x: float, top: float, bottom: float, lean: float) -> None:
    """A leg with a small wheel."""
    sketch.fill("landing gear", tube((x, top), (x + lean, bottom), 0.09), STEEL)
    add_wheel(sketch, "landing gear", x + lean, bottom, 0.13)


def add_saddle(sketch: Sketch, x: float, y: float, half_length: float) -> None:
    """A leather saddle, higher at the back."""
    sketch.fill(
        "saddle",
        polygon(
            (x - half_length, y - 0.08),
            (x - 0.6 * half_length, y - 0.07),
            (x + half_length, y - 0.03),
            (x + half_length, y + 0.03),
            (x + 0.1 * half_length, y + 0.05),
            (x - 0.8 * half_length, y + 0.06),
        ),
        LEATHER,
    )


def add_flag(sketch: Sketch, x: float, top: float) -> None:
    """A pennant that flies towards the stern."""
    sketch.fill("flag", polygon((x + 0.05, top), (x - 0.44, top + 0.11), (x + 0.05, top + 0.25)), BRAKE_RED)
