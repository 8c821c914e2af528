"""How far a score may be from its golden value."""

import math
from collections.abc import Iterator
from typing import Any

EXACT = 1e-6
"""For models without a network: the stored values have nine digits."""
NETWORK = 1e-3
"""For the tiny PLUM. A pixel at logit 0 may fall on the other side on another CPU, which moves a score of these few
small images. With torch's plain kernels in the place of its AVX ones, and with every weight changed by one part in a
million, no value moved by more than 1.1e-4 and no count or reason changed."""


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
