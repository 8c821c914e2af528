"""Findings of the doctor: fine, a remark, or something needed that is missing."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Severity of a finding."""

    FINE = "ok"
    REMARK = "note"
    MISSING = "MISSING"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was examined, what was found, and what to do about it (empty: nothing)."""

    state: State
    what: str
    found: str
    to_do: str = ""
