"""Numbers as a report's page writes them."""

from dataclasses import dataclass

from partonomy.metrics.bootstrap import Estimate


@dataclass(frozen=True)
class Tile:
    """A headline number: `value` in percent, its interval as text, and a guess's percent where it is a choice's."""

    label: str
    value: str
    interval: str
    blind: str = ""


def percent(estimate: Estimate | None) -> str:
    """Percent with one decimal; a dash for none."""
    return "–" if estimate is None or estimate.value is None else f"{100 * estimate.value:.1f}"


def interval(estimate: Estimate | None) -> str:
    """The interval in percent; empty for none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
