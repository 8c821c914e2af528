"""Benchmarks of models ask drawn questions; how their wrong answers were chosen is nothing that they measure."""

from collections.abc import Iterator

import pytest

from tests.partonomy.quick_fits import quick_fits


@pytest.fixture(autouse=True, scope="module")
def fits() -> Iterator[None]:
    with quick_fits():
        yield
