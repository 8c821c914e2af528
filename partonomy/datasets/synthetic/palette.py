"""Named body colours and the colours derived from them."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

NAMED_COLOURS: dict[str, Colour] = {
    "red": (206, 48, 44),
    "orange": (238, 134, 42),
    "yellow": (244, 204, 66),
    "green": (66, 146, 78),
    "blue": (48, 96, 186),
    "purple": (126, 76, 160),
    "pink": (236, 134, 166),
    "brown": (134, 86, 52),
    "white": (238, 236, 228),
    "gray": (140, 146, 154),
    "black": (54, 54, 60),
}
ANIMAL_COLOURS = ("brown", "orange", "white", "gray", "black")
PAINT_COLOURS = tuple(name for name in NAMED_COLOURS if name not in ("brown", "black"))
ALL_COLOURS = tuple(NAMED_COLOURS)

RUBBER: Colour = (44, 44, 48)
STEEL: Colour = (176, 182, 190)
IRON: Colour = (96, 100, 108)
GLASS: Colour = (158, 206, 228)
LAMP_LIGHT: Colour = (255, 240, 178)
BRAKE_RED: Colour = (226, 58, 44)
LEATHER: Colour = (112, 66, 38)
BEAK_ORANGE: Colour = (242, 156, 46)
CANVAS_WHITE: Colour = (248, 244, 230)
WOOD: Colour = (172, 120, 70)


@dataclass(frozen=True)
class Scheme:
    """Colours of one object: its named body colour after jittering, and a contrasting accent."""

    body_name: str
    body: Colour
    accent: Colour


def scale_colour(colour: Colour, factor: float) -> Colour:
    """Darken (factor < 1) or lighten (factor > 1, towards white) a colour."""
    if factor <= 1.0:
        red, green, blue = (round(channel * factor) for channel in colour)
    else:
        red, green, blue = (round(channel + (255 - channel) * min(factor - 1.0, 1.0)) for channel in colour)
    return red, green, blue


def jitter_colour(colour: Colour, rng: np.random.Generator, amount: float = 12.0) -> Colour:
    """Shift each channel by up to `amount`."""
    red, green, blue = np.clip(np.array(colour) + rng.uniform(-amount, amount, 3), 0, 255).round().astype(int).tolist()
    return red, green, blue


def choose_scheme(names: tuple[str, ...], rng: np.random.Generator) -> Scheme:
    """Choose a body colour from `names` and an accent of another name that contrasts visibly."""
    body_name = names[int(rng.integers(len(names)))]
    body = NAMED_COLOURS[body_name]
    accents = [
        colour
        for name, colour in NAMED_COLOURS.items()
        if name != body_name and sum(abs(a - b) for a, b in zip(colour, body, strict=True)) > 150
    ]
    accent = accents[int(rng.integers(len(accents)))]
    return Scheme(body_name=body_name, body=jitter_colour(body, rng), accent=jitter_colour(accent, rng))
