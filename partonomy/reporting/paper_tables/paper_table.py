"""The base class of all paper tables, which show quoted rows and runs in the same columns."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from partonomy.benchmarks.partonomy.metrics import MetricProtocol
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.loaded_run import AnyRun
from partonomy.table_format import Table, format_percent

OURS, EXACT = "ours", "exact"
"""Values of the source column next to `partonomy.quoted_rows.QUOTED`: measured by this code, computed exactly."""
PAPER_PROTOCOL, NO_PROTOCOL = "paper", "-"
"""Values of the protocol column in rows that do not belong to a run."""


@dataclass(frozen=True)
class PaperTableStyle:
    """How a table shows runs: one row per protocol, with or without 95% intervals below the values."""

    protocols: tuple[MetricProtocol, ...] = (MetricProtocol.OURS,)
    has_intervals: bool = True


@dataclass(frozen=True)
class TidyRow:
    """One number of a table in tidy form, one line of its CSV.

    Attributes:
        table: Name of the paper's table with this number; empty if no table has the metric.
        method: The paper's method, or the model and folder of a run.
        dataset: Name of the data, e.g. a question set.
        source: quoted, ours or exact (computed without a model).
        protocol: paper, ours, authors, a benchmark's own protocol, or "-".
        question_type: The group, as in the summary.
        metric: As in the summary, without the prefix of the authors' protocol.
        value: The number in percent; empty if the paper has a dash.
        low: Lower end of the 95% interval in percent; empty if there is no interval.
        high: Upper end of the interval; empty if there is no interval.
        n: Number of masks, images or questions counted; empty for quoted numbers.
    """

    table: str
    method: str
    dataset: str
    source: str
    protocol: str
    question_type: str
    metric: str
    value: str
    low: str = ""
    high: str = ""
    n: str = ""


class PaperTable(ABC):
    """A table of a paper, with its printed rows and a row for every run.

    Attributes:
        name: The value of `--table`.
        is_automatic: Whether the table includes a run without being requested by name.
        is_by_name: Whether only its name requests it; `all` and reports then leave it out.
    """

    name: str
    is_automatic: bool = False
    is_by_name: bool = False

    @abstractmethod
    def holds(self, run: AnyRun) -> bool:
        """Whether the table may include a run."""

    def suits(self, run: AnyRun) -> bool:
        """Whether this is the right table for a run that several tables may include."""
        return self.holds(run)

    @abstractmethod
    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """Return the paper's rows and then the runs.

        Raises:
            ValueError: Two runs would share a cell or are not comparable.
        """

    @abstractmethod
    def quoted(self) -> Iterator[TidyRow]:
        """Generate the paper's numbers."""

    def exact(self, runs: Sequence[AnyRun]) -> Iterator[TidyRow]:
        """Generate numbers that are computed without a model."""
        return iter(())

    def further(self, runs: Sequence[AnyRun]) -> Iterator[TidyRow]:
        """Generate numbers of the runs that are not metrics of their summaries."""
        return iter(())

    @abstractmethod
    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """Return a run's metrics that the table shows, by group."""


def format_interval(estimate: Estimate) -> str:
    """Format the interval in percent, e.g. "34.0-38.5"; empty if there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{format_percent(estimate.low)}-{format_percent(estimate.high)}"


def tidy_percent(value: float | None) -> str:
    """Format a percentage of a tidy row."""
    return "" if value is None else f"{100 * value:.4f}"
