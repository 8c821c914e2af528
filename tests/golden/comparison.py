"""How far a score may be from its golden value."""

import math
from collections.abc import Iterator
from typing import Any

EXACT = 1e-6
"""For models without a network: the stored values have nine digits."""
NETWORK = 2e-3
"""For the tiny PLUM. On another CPU a pixel at logit 0 may fall on the other side, which moves the IoU of a small part.
Torch's plain kernels in the place of its AVX ones moved no value by more than 4.6e-4; a relative change of every weight
by 1e-6 moved none by more than 1.1e-3. Neither changed a count or a reason."""


def differences(found: Any, golden: Any, tolerance: float, place: str = "") -> Iterator[str]:
    """What is not as stored; counts and texts must be equal."""
    if isinstance(found, dict) and isinstance(golden, dict):
        for key in sorted({*found, *golden}):
            if key not in found or key not in golden:
                yield f"{place}/{key}: only in the {'golden values' if key in golden else 'run'}"
            else:
                yield from differences(found[key], golden[key], tolerance, f"{place}/{key}")
    elif isinstance(found, list) and isinstance(golden, list) and len(found) == len(golden):
        for number, (one, other) in enumerate(zip(found, golden, strict=True)):
            yield from differences(one, other, tolerance, f"{place}[{number}]")
    elif isinstance(found, float) and isinstance(golden, float):
        if not math.isclose(found, golden, rel_tol=0, abs_tol=tolerance):
            yield f"{place}: {found} instead of {golden}"
    elif found != golden:
        yield f"{place}: {found!r} instead of {golden!r}"


def check(found: Any, golden: Any, tolerance: float) -> None:
    """Fail with the first differences."""
    problems = list(differences(found, golden, tolerance))
    assert not problems, "\n".join([f"{len(problems)} values changed", *problems[:20]])
