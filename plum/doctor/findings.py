"""What the doctor says about one thing: fine, a remark, or something needed that is missing."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How much it matters."""

    FINE = "ok"
    REMARK = "note"
    MISSING = "MISSING"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and what to do about it (empty: nothing)."""

    state: State
    what: str
    found: str
    to_do: str = ""
