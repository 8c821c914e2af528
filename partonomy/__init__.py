"""Partonomy: the benchmark of part-level visual understanding, and the harness that runs every benchmark.

The packages, lowest layer last; imports point down (see pyproject.toml, `lint-imports`):

- files, images, locks, masks, names, progress, quoted_rows, sharding, structures, suggestions, table_format,
  version, visualize: shared by all packages
- metrics: IoU, matching, multiple choice, intervals
- datasets: annotations in the project's own form; sources, curation, the drawn data set
- questions: Partonomy's questions and wrong answers; MMR-like questions
- models: the model contract, and every model that is not PLUM
- benchmarks: one file or folder each: items, requests, score, metrics
- harness: runs any model on any benchmark
- reporting: tables, comparisons, report pages
- integrations: task folders for other harnesses
- cli: one file per group of commands

`__version__` is the version of the package; everything else is imported from the packages above. Start
reading at `benchmarks/task.py` and `harness/run.py`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Return `__version__`, which is read only when it is asked for."""
    if name == "__version__":
        from partonomy.version import find_version  # noqa: PLC0415

        return find_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
