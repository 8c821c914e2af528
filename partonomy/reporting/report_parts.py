"""Formats the numbers of a report page."""

from dataclasses import dataclass

from partonomy.metrics.bootstrap import Estimate


@dataclass(frozen=True)
class Tile:
    """A headline number: `value` in percent, its interval as text and, for choices, a guess's percentage."""

    label: str
    value: str
    interval: str
    blind: str = ""


def percent(estimate: Estimate | None) -> str:
    """Format a percentage with one decimal; a dash if there is no value."""
    return "–" if estimate is None or estimate.value is None else f"{100 * estimate.value:.1f}"


def interval(estimate: Estimate | None) -> str:
    """Format the interval in percent; empty if there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
