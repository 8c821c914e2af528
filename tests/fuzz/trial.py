"""A reader under test, and its trial on many damaged files."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        cases: damaged input.
        prepare: writes the valid files into a folder, once.
        check: reads a case in that folder; returns what became of it and raises where the contract is broken.
    """

    name: str
    cases: st.SearchStrategy[Any]
    prepare: Callable[[Path], None]
    check: Callable[[Any, Path], str]


@dataclass
class Tally:
    """What became of the cases of one reader, and the first crashes."""

    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: list[tuple[Any, Exception]] = field(default_factory=list)


def run_cases(
    reader: Reader,
    num_cases: int,
    folder: Path,
    *,
    collect_crashes: bool = False,
    on_case: Callable[[], object] = bool,
    number: int = 0,
) -> Tally:
    """Try a reader on damaged files, the same ones each time.

    Args:
        reader: what is tried.
        num_cases: how many.
        folder: empty.
        collect_crashes: count broken contracts instead of stopping at the first.
        on_case: called after each.
        number: other cases for every number.
    """
    reader.prepare(folder)
    tally = Tally()

    @seed(number)
    @settings(
        max_examples=num_cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.cases)
    def try_case(case: Any) -> None:
        try:
            tally.outcomes[reader.check(case, folder)] += 1
        except Exception as error:
            if not collect_crashes:
                raise
            tally.crashes.append((case, error))
        on_case()

    try_case()
    return tally
