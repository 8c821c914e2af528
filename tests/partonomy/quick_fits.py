"""Fits of `balanced` to few simulated questions, for builds that are only compared with one another.

A fit of the shipped size takes seconds of a core for a tiny data set. How well the fitted choices hide the answer is
what `tests/partonomy/questions/test_leaks.py` asks, with fits of the shipped size; so do the golden values.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from partonomy.questions import balanced_models

NUM_SIMULATED, NUM_WEIGHED = 10, 20


@contextmanager
def quick_fits() -> Iterator[None]:
    """Let the fits of this process simulate few questions; every step of a fit is still made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balanced_models, "NUM_SIMULATED", NUM_SIMULATED)
        patch.setattr(balanced_models, "NUM_WEIGHED", NUM_WEIGHED)
        yield
