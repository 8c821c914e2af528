"""Outlines of drawn shapes: float32 (N, 2) arrays of points, x to the right, y down, closed without a repeated point.

In object coordinates, an object faces right and spans about [-1, 1] in x; y = 0 is near its middle.
"""

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]
Point = tuple[float, float]

# Catmull-Rom weights of the four control points at five positions between the middle two.
_STEPS = np.linspace(0.0, 1.0, 5, endpoint=False, dtype=np.float32)
_SPLINE_WEIGHTS = 0.5 * np.stack(
    [
        -_STEPS + 2 * _STEPS**2 - _STEPS**3,
        2 - 5 * _STEPS**2 + 3 * _STEPS**3,
        _STEPS + 4 * _STEPS**2 - 3 * _STEPS**3,
        -(_STEPS**2) + _STEPS**3,
    ],
    axis=1,
)  # [5, 4]
_CIRCLE_ANGLES = np.linspace(0.0, 2.0 * np.pi, 28, endpoint=False, dtype=np.float32)
_CIRCLE = np.stack([np.cos(_CIRCLE_ANGLES), np.sin(_CIRCLE_ANGLES)], axis=1)  # [28, 2]
_CORNER_ANGLES = np.linspace(0.0, 0.5 * np.pi, 5, dtype=np.float32)


def polygon(*corners: Point) -> Points:
    """Return the straight-edged outline through the corners."""
    return np.array(corners, dtype=np.float32)


def smooth(*controls: Point) -> Points:
    """Return the closed Catmull-Rom curve through the control points."""
    points = np.array(controls, dtype=np.float32)
    neighbours = np.stack([np.roll(points, shift, axis=0) for shift in (1, 0, -1, -2)], axis=1)  # [n, 4, 2]
    return np.einsum("sk,nkd->nsd", _SPLINE_WEIGHTS, neighbours).reshape(-1, 2).astype(np.float32)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> Points:
    """Return an ellipse around (x, y), turned clockwise on the screen by `degrees`."""
    points = _CIRCLE * np.array([radius_x, radius_y], dtype=np.float32)
    return turn(points, degrees) + np.array([x, y], dtype=np.float32)


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Points:
    """Return an axis-aligned rectangle with rounded corners."""
    if radius <= 0.0:
        return polygon((left, top), (right, top), (right, bottom), (left, bottom))
    radius = min(radius, 0.5 * (right - left), 0.5 * (bottom - top))
    near, far = left + radius, right - radius
    high, low = top + radius, bottom - radius
    centres = ((far, low), (near, low), (near, high), (far, high))
    angles = np.concatenate([_CORNER_ANGLES + 0.5 * np.pi * quarter for quarter in range(4)])
    offsets = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (np.repeat(np.array(centres), len(_CORNER_ANGLES), axis=0) + offsets).astype(np.float32)


def tube(start: Point, end: Point, start_width: float, end_width: float | None = None) -> Points:
    """Return a straight bar from start to end with round ends; the width may taper."""
    head, tail = np.array(start, dtype=np.float32), np.array(end, dtype=np.float32)
    direction = (tail - head) / max(float(np.linalg.norm(tail - head)), 1e-6)
    angle = float(np.arctan2(direction[1], direction[0]))
    half_circle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 5, dtype=np.float32)
    cap = np.stack([np.cos(half_circle + angle), np.sin(half_circle + angle)], axis=1)
    last_width = start_width if end_width is None else end_width
    return np.concatenate([tail + 0.5 * last_width * cap, head - 0.5 * start_width * cap]).astype(np.float32)


def bent_tube(path: tuple[Point, ...], start_width: float, end_width: float) -> Points:
    """Return a tapering band along an open path, with flat ends."""
    points = np.array(path, dtype=np.float32)
    tangents = np.gradient(points, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-6)
    normals = np.stack([-tangents[:, 1], tangents[:, 0]], axis=1)
    half_widths = 0.5 * np.linspace(start_width, end_width, len(points), dtype=np.float32)[:, None]
    return np.concatenate([points + normals * half_widths, (points - normals * half_widths)[::-1]]).astype(np.float32)


def arc_band(x: float, y: float, inner: float, outer: float, *, degrees_from: float, degrees_to: float) -> Points:
    """Return the part of a ring around (x, y) between two angles (clockwise on the screen from the positive x axis)."""
    angles = np.radians(np.linspace(degrees_from, degrees_to, 12, dtype=np.float32))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centre = np.array([x, y], dtype=np.float32)
    return np.concatenate([centre + outer * directions, (centre + inner * directions)[::-1]]).astype(np.float32)


def turn(points: Points, degrees: float) -> Points:
    """Rotate points around the origin, clockwise on the screen."""
    if degrees == 0.0:
        return points
    angle = np.radians(degrees)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    return points @ np.array([[cosine, sine], [-sine, cosine]], dtype=np.float32)
