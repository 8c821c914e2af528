"""Backgrounds of the embedded dataset: eight kinds of scene with clutter, slightly out of focus."""

from collections.abc import Callable

import cv2
import numpy as np

from partonomy.datasets.synthetic.canvas import Image
from partonomy.datasets.synthetic.palette import NAMED_COLOURS, Colour, jitter_colour, scale_colour
from partonomy.datasets.synthetic.sketch import SceneKind


def draw_background(kind: SceneKind, size: int, rng: np.random.Generator) -> Image:
    """Draw a scene without its main object, (size, size, 3) RGB."""
    picture = _PAINTERS[kind](size, rng)
    blurred = cv2.blur(picture, (max(size // 64, 1), max(size // 64, 1)))
    return np.asarray(blurred, dtype=np.uint8)


def cast_shadow(picture: Image, left: float, right: float, y: float, strength: float) -> Image:
    """Draw a soft, flat shadow from left to right at height y (pixels) on a picture."""
    size = picture.shape[0]
    shadow = np.full(picture.shape, 255, dtype=np.uint8)
    axes = (max(round(0.5 * (right - left)), 1), max(round(0.07 * (right - left)), 1))
    centre = (round(0.5 * (left + right)), round(y))
    cv2.ellipse(shadow, centre, axes, 0.0, 0.0, 360.0, (round(255 * (1.0 - strength)),) * 3, -1)
    width = max(size // 24, 1)
    shadow = np.asarray(cv2.blur(cv2.blur(shadow, (width, width // 2 + 1)), (width, width // 2 + 1)), dtype=np.uint8)
    return np.asarray(cv2.multiply(picture, shadow, scale=1.0 / 255.0), dtype=np.uint8)


def _gradient(size: int, *colours: Colour) -> Image:
    """Return a vertical blend of colours from top to bottom."""
    column = np.array(colours, dtype=np.uint8)[:, None, :]
    return np.asarray(cv2.resize(column, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _mottle(picture: Image, top: int, amount: float, grain: int, rng: np.random.Generator) -> None:
    """Vary the brightness below row `top` with soft blotches, in place."""
    height, width = picture.shape[0] - top, picture.shape[1]
    blotches = rng.integers(0, round(2 * amount) + 1, (max(height // grain, 2), max(width // grain, 2)), dtype=np.uint8)
    field = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_LINEAR)
    picture[top:] = cv2.addWeighted(picture[top:], 1.0, cv2.merge([field, field, field]), 1.0, -amount)


def _clouds(picture: Image, rng: np.random.Generator, num_clouds: int, lowest: float) -> None:
    size = picture.shape[0]
    layer = picture.copy()
    for _ in range(num_clouds):
        x, y = rng.uniform(0, size), rng.uniform(0.05, lowest) * size
        width = rng.uniform(0.08, 0.16) * size
        for _ in range(4):
            centre = (round(x + rng.uniform(-1.2, 1.2) * width), round(y + rng.uniform(-0.3, 0.2) * width))
            axes = (round(width * rng.uniform(0.5, 1.0)), round(width * rng.uniform(0.28, 0.45)))
            cv2.ellipse(layer, centre, axes, 0.0, 0.0, 360.0, (250, 251, 253), -1, cv2.LINE_AA)
    layer = np.asarray(cv2.blur(layer, (size // 32 + 1, size // 32 + 1)), dtype=np.uint8)
    cv2.addWeighted(layer, 0.7, picture, 0.3, 0.0, dst=picture)


def _sky_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    skies: tuple[tuple[Colour, Colour], ...] = (
        ((86, 152, 220), (206, 230, 246)),
        ((112, 178, 226), (232, 240, 244)),
        ((112, 116, 176), (250, 190, 146)),
        ((150, 166, 184), (214, 220, 224)),
        ((70, 110, 180), (246, 214, 178)),
    )
    return skies[int(rng.integers(len(skies)))]


def _tree(picture: Image, x: float, foot: float, height: float, rng: np.random.Generator) -> None:
    trunk_width = max(round(0.12 * height), 2)
    leaves = jitter_colour((72, 128, 70), rng, 24)
    top = round(foot - height)
    cv2.line(picture, (round(x), round(foot)), (round(x), top), (104, 78, 56), trunk_width)
    for offset_x, offset_y, radius in ((0.0, 0.0, 0.34), (-0.24, 0.22, 0.28), (0.24, 0.2, 0.28)):
        centre = (round(x + offset_x * height), round(top + offset_y * height))
        cv2.circle(picture, centre, round(radius * height), leaves, -1, cv2.LINE_AA)
        cv2.circle(
            picture,
            (centre[0] - 2, centre[1] - 2),
            round(0.6 * radius * height),
            scale_colour(leaves, 1.12),
            -1,
            cv2.LINE_AA,
        )


def _paint_sky(size: int, rng: np.random.Generator) -> Image:
    high, low = _sky_colours(rng)
    picture = _gradient(size, high, high, low, low)
    _clouds(picture, rng, int(rng.integers(2, 6)), 0.9)
    if rng.random() < 0.5:
        _hills(picture, rng, rng.uniform(0.84, 0.95))
    return picture


def _hills(picture: Image, rng: np.random.Generator, horizon: float) -> None:
    size = picture.shape[0]
    steps = np.linspace(0.0, 1.0, 17)
    for layer, factor in enumerate((1.3, 1.1)):
        phase, waves = rng.uniform(0, 6.3), rng.uniform(3, 8)
        heights = horizon - 0.07 + 0.05 * layer - 0.04 * np.sin(waves * steps + phase)
        ridge = np.stack([steps, heights], axis=1) * size
        outline = np.concatenate([ridge, [[size, size], [0, size]]]).round().astype(np.int32)
        cv2.fillPoly(picture, [outline], scale_colour(jitter_colour((96, 136, 96), rng), factor), cv2.LINE_AA)


def _paint_street(size: int, rng: np.random.Generator) -> Image:
    high, low = _sky_colours(rng)
    picture = _gradient(size, high, low, low)
    pavement = rng.uniform(0.56, 0.7)
    x = -rng.uniform(0.0, 0.1)
    while x < 1.0:
        width, height = rng.uniform(0.12, 0.26), rng.uniform(0.25, 0.55)
        wall = jitter_colour((188, 164, 146) if rng.random() < 0.5 else (158, 166, 178), rng, 30)
        left, right = round(x * size), round((x + width) * size)
        top, bottom = round((pavement - height) * size), round(pavement * size)
        cv2.rectangle(picture, (left, top), (right, bottom), wall, -1)
        pane = scale_colour(wall, 0.72)
        step = max(round(0.062 * size), 3)
        for row in range(top + step // 2, bottom - step, step):
            for column in range(left + step // 2, right - step // 2, step):
                cv2.rectangle(picture, (column, row), (column + step // 3, row + step // 2), pane, -1)
        x += width
    road = jitter_colour((104, 106, 112), rng, 14)
    cv2.rectangle(picture, (0, round(pavement * size)), (size, size), road, -1)
    kerb = round((pavement + 0.04) * size)
    cv2.rectangle(picture, (0, round(pavement * size)), (size, kerb), (172, 170, 166), -1)
    _mottle(picture, kerb, 8, 4, rng)
    for start in np.arange(-rng.uniform(0, 0.3), 1.0, 0.3):
        y = round(0.93 * size)
        cv2.line(
            picture, (round(start * size), y), (round((start + 0.15) * size), y), (226, 222, 200), max(size // 64, 1)
        )
    if rng.random() < 0.6:
        _tree(picture, rng.uniform(0.05, 0.95) * size, kerb, rng.uniform(0.25, 0.4) * size, rng)
    return picture


def _paint_meadow(size: int, rng: np.random.Generator) -> Image:
    high, low = _sky_colours(rng)
    picture = _gradient(size, high, low, low)
    if rng.random() < 0.6:
        _clouds(picture, rng, 2, 0.35)
    horizon = rng.uniform(0.5, 0.68)
    _hills(picture, rng, horizon)
    grass = jitter_colour((118, 158, 80), rng, 18)
    top = round(horizon * size)
    picture[top:] = _gradient(size, scale_colour(grass, 1.12), scale_colour(grass, 0.85))[top:]
    _mottle(picture, top, 10, 5, rng)
    for x in rng.uniform(0.0, 1.0, int(rng.integers(1, 4))):
        _tree(picture, x * size, (horizon + 0.04) * size, rng.uniform(0.16, 0.32) * size, rng)
    for x, y in rng.uniform(0.0, 1.0, (10, 2)):
        petal = (240, 220, 90) if x + y > 1.0 else (244, 240, 244)
        cv2.circle(
            picture, (round(x * size), round((horizon + (1 - horizon) * y) * size)), max(size // 110, 1), petal, -1
        )
    return picture


def _paint_park(size: int, rng: np.random.Generator) -> Image:
    picture = _paint_meadow(size, rng)
    path = jitter_colour((206, 188, 156), rng, 14)
    top = rng.uniform(0.7, 0.78) * size
    outline = np.array([[0, top], [size, top + 0.03 * size], [size, size], [0, size]]).round().astype(np.int32)
    cv2.fillPoly(picture, [outline], path, cv2.LINE_AA)
    _mottle(picture, round(top), 7, 4, rng)
    for x in np.arange(rng.uniform(0.0, 0.12), 1.0, 0.12):
        foot, head = round(top), round(top - 0.13 * size)
        cv2.rectangle(picture, (round(x * size), head), (round((x + 0.02) * size), foot), (206, 198, 184), -1)
    cv2.rectangle(picture, (0, round(top - 0.1 * size)), (size, round(top - 0.08 * size)), (214, 206, 192), -1)
    return picture


def _paint_underwater(size: int, rng: np.random.Generator) -> Image:
    deep = jitter_colour((20, 74, 122), rng, 20)
    picture = _gradient(size, scale_colour(deep, 1.55), scale_colour(deep, 1.25), deep)
    rays = picture.copy()
    for x in rng.uniform(-0.1, 1.0, 3):
        beam = np.array([[x, 0], [x + 0.1, 0], [x + 0.3, 1], [x + 0.05, 1]]) * size
        cv2.fillPoly(rays, [beam.round().astype(np.int32)], scale_colour(deep, 1.7), cv2.LINE_AA)
    cv2.addWeighted(rays, 0.3, picture, 0.7, 0.0, dst=picture)
    floor = round(rng.uniform(0.84, 0.92) * size)
    picture[floor:] = jitter_colour((206, 186, 140), rng, 16)
    _mottle(picture, floor, 10, 4, rng)
    for x in rng.uniform(0.0, 1.0, int(rng.integers(3, 7))):
        height, sway = rng.uniform(0.12, 0.4) * size, rng.uniform(-0.06, 0.06) * size
        weed = jitter_colour((52, 128, 84), rng, 26)
        blade = np.array([[x * size - 3, size], [x * size + sway, size - height], [x * size + 5, size]])
        cv2.fillPoly(picture, [blade.round().astype(np.int32)], weed, cv2.LINE_AA)
    for x, y in rng.uniform(0.0, 0.9, (9, 2)):
        radius = max(round((0.006 + 0.014 * y) * size), 1)
        cv2.circle(picture, (round(x * size), round(y * size)), radius, (190, 224, 240), 1, cv2.LINE_AA)
    return picture


def _paint_room(size: int, rng: np.random.Generator) -> Image:
    walls: tuple[Colour, ...] = ((226, 214, 196), (196, 212, 216), (216, 200, 206), (202, 212, 190), (174, 184, 200))
    wall = jitter_colour(walls[int(rng.integers(len(walls)))], rng, 14)
    picture = _gradient(size, scale_colour(wall, 1.1), scale_colour(wall, 0.9))
    if rng.random() < 0.4:
        for x in range(0, size, max(size // 12, 2)):
            cv2.line(picture, (x, 0), (x, size), scale_colour(wall, 0.9), max(size // 48, 1))
    floor = round(rng.uniform(0.66, 0.8) * size)
    wood = jitter_colour((176, 138, 100), rng, 24)
    picture[floor:] = wood
    for y in range(floor, size, max(size // 20, 2)):
        cv2.line(picture, (0, y), (size, y), scale_colour(wood, 0.86), 1)
    _mottle(picture, floor, 6, 6, rng)
    cv2.rectangle(picture, (0, floor - size // 40), (size, floor), scale_colour(wall, 1.4), -1)
    for _ in range(int(rng.integers(1, 3))):
        _frame(picture, rng)
    if rng.random() < 0.5:
        rug = jitter_colour(tuple(NAMED_COLOURS.values())[int(rng.integers(6))], rng)
        centre = (round(rng.uniform(0.3, 0.7) * size), round(0.5 * (floor + size)))
        cv2.ellipse(picture, centre, (size * 2 // 5, (size - floor) * 2 // 5), 0.0, 0.0, 360.0, rug, -1, cv2.LINE_AA)
        cv2.ellipse(
            picture,
            centre,
            (size // 3, (size - floor) // 3),
            0.0,
            0.0,
            360.0,
            scale_colour(rug, 1.3),
            size // 60 + 1,
            cv2.LINE_AA,
        )
    return picture


def _frame(picture: Image, rng: np.random.Generator) -> None:
    """Draw a picture or a window on the wall."""
    size = picture.shape[0]
    left, top = rng.uniform(0.02, 0.75), rng.uniform(0.03, 0.3)
    width, height = rng.uniform(0.14, 0.26), rng.uniform(0.14, 0.3)
    corner = (round(left * size), round(top * size))
    opposite = (round((left + width) * size), round((top + height) * size))
    cv2.rectangle(picture, corner, opposite, jitter_colour((150, 190, 214), rng, 50), -1)
    cv2.rectangle(picture, corner, opposite, jitter_colour((120, 92, 66), rng, 20), max(size // 64, 1))


def _paint_sea(size: int, rng: np.random.Generator) -> Image:
    high, low = _sky_colours(rng)
    picture = _gradient(size, high, low, low)
    if rng.random() < 0.6:
        _clouds(picture, rng, 3, 0.4)
    horizon = rng.uniform(0.45, 0.6)
    if rng.random() < 0.5:
        _hills(picture, rng, horizon)
    water = jitter_colour((52, 116, 156), rng, 18)
    top = round(horizon * size)
    picture[top:] = _gradient(size, scale_colour(water, 1.3), scale_colour(water, 0.85))[top:]
    for x, y in rng.uniform(0.0, 1.0, (26, 2)):
        row = round((horizon + (1 - horizon) * y) * size)
        half = round((0.02 + 0.05 * y) * size)
        crest = scale_colour(water, 1.25 + 0.2 * (x - 0.5))
        cv2.ellipse(
            picture, (round(x * size), row), (half, max(half // 6, 1)), 0.0, 180.0, 360.0, crest, 1, cv2.LINE_AA
        )
    return picture


def _paint_studio(size: int, rng: np.random.Generator) -> Image:
    first, second = (rng.integers(90, 236, 3).tolist() for _ in range(2))
    corners = np.array([[first, scale_colour((first[0], first[1], first[2]), 1.3)], [first, second]], dtype=np.uint8)
    picture = np.asarray(cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    _mottle(picture, 0, 8, max(size // 12, 1), rng)
    layer = picture.copy()
    for x, y in rng.uniform(0.0, 1.0, (int(rng.integers(3, 8)), 2)):
        radius = round(rng.uniform(0.04, 0.14) * size)
        cv2.circle(
            layer, (round(x * size), round(y * size)), radius, tuple(rng.integers(80, 250, 3).tolist()), -1, cv2.LINE_AA
        )
    cv2.addWeighted(layer, 0.45, picture, 0.55, 0.0, dst=picture)
    return picture


_PAINTERS: dict[SceneKind, Callable[[int, np.random.Generator], Image]] = {
    "sky": _paint_sky,
    "street": _paint_street,
    "park": _paint_park,
    "meadow": _paint_meadow,
    "underwater": _paint_underwater,
    "room": _paint_room,
    "sea": _paint_sea,
    "studio": _paint_studio,
}
