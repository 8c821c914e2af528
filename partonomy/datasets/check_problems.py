"""What `check` can find in a data set, how serious each is, and what to do about it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

STATUS_ERRORS = 2
STATUS_WARNINGS = 1


class Severity(StrEnum):
    """error: `build` refuses it or leaves it out. warning: questions or scores may be wrong. note: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Problem:
    """A kind of problem."""

    title: str
    severity: Severity
    advice: str


MISSING_IMAGE = Problem("missing image", Severity.ERROR, "check the image folder, or remove the record")
OUTSIDE_IMAGE = Problem(
    "image outside the image folder", Severity.ERROR, "move it into the folder and name it relative to it"
)
UNREADABLE_IMAGE = Problem("unreadable or truncated image", Severity.ERROR, "fetch the file again")
SIZE_MISMATCH = Problem(
    "image size differs from its annotation", Severity.ERROR, "use the image that was annotated, or correct its size"
)
BAD_RECORD = Problem("broken record", Severity.ERROR, "correct the record in the annotation file")
DUPLICATE_ID = Problem("id that occurs twice", Severity.ERROR, "give every record an id of its own")
UNKNOWN_IMAGE = Problem("annotation of an unknown image", Severity.ERROR, "add the image or remove the annotation")
UNKNOWN_CATEGORY = Problem(
    "annotation of an unknown category", Severity.ERROR, "add the category or remove the annotation"
)
UNREADABLE_MASK = Problem("unreadable mask", Severity.ERROR, "draw or export the mask again")
EMPTY_MASK = Problem("part without mask", Severity.ERROR, "draw the mask or remove the annotation")
NO_OBJECT = Problem(
    "part of no object",
    Severity.ERROR,
    "link it by obj_ann_id, name its category object:part, or pass --object_name",
)
TWO_CATEGORIES = Problem("object in two categories", Severity.ERROR, "give the object one category")
NO_CATEGORY = Problem("object without category", Severity.ERROR, "add it to the file of --categories")
EMPTY_NAME = Problem("name of which nothing is left", Severity.ERROR, "give it a name in the file of --name_map")
EMPTY_OBJECT_MASK = Problem("object with an empty mask", Severity.WARNING, "draw the mask or leave it out")
FEW_PIXELS = Problem(
    "mask of very few pixels", Severity.WARNING, "look at the mask: stray strokes are often of this size"
)
OUTSIDE_OBJECT = Problem(
    "part outside its object", Severity.WARNING, "check the link to the object and the object's outline"
)
COLLAPSED_NAMES = Problem(
    "names that become one once cleaned", Severity.WARNING, "tell them apart, or unite them, in the file of --name_map"
)
SIMILAR_NAMES = Problem(
    "names that differ in plural, hyphen or case",
    Severity.WARNING,
    "unite them in the file of --name_map, or build with --part_comparison lemma",
)
SAME_MASK = Problem("same label on the same mask", Severity.WARNING, "remove one of the annotations")
SAME_IMAGE = Problem("same image file twice", Severity.WARNING, "keep one; `split` keeps both on one side")
SMALL_SHARE = Problem("mask of a small share of its image", Severity.NOTE, "small parts are real, but hard to score")
CROWD = Problem("iscrowd annotation", Severity.NOTE, "`build` leaves crowds and their parts out")
NO_ANNOTATION = Problem("image without annotations", Severity.NOTE, "nothing is asked about it")
UNUSED_CATEGORY = Problem("category without annotations", Severity.NOTE, "it is ignored")

PROBLEMS: tuple[Problem, ...] = (
    MISSING_IMAGE,
    OUTSIDE_IMAGE,
    UNREADABLE_IMAGE,
    SIZE_MISMATCH,
    BAD_RECORD,
    DUPLICATE_ID,
    UNKNOWN_IMAGE,
    UNKNOWN_CATEGORY,
    UNREADABLE_MASK,
    EMPTY_MASK,
    NO_OBJECT,
    TWO_CATEGORIES,
    NO_CATEGORY,
    EMPTY_NAME,
    EMPTY_OBJECT_MASK,
    FEW_PIXELS,
    OUTSIDE_OBJECT,
    COLLAPSED_NAMES,
    SIMILAR_NAMES,
    SAME_MASK,
    SAME_IMAGE,
    SMALL_SHARE,
    CROWD,
    NO_ANNOTATION,
    UNUSED_CATEGORY,
)
"""All kinds, in the order they are shown: errors, warnings, notes."""


@dataclass(frozen=True)
class Finding:
    """One problem found: `record` names where ("annotation 7"), `detail` says what."""

    problem: Problem
    record: str
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """Everything found. `remarks` say what was not looked at, and why."""

    source: str
    num_images: int
    num_annotations: int
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]

    def of_problem(self, problem: Problem) -> tuple[Finding, ...]:
        """The findings of one kind, in file order."""
        return tuple(finding for finding in self.findings if finding.problem == problem)

    def exit_status(self, is_strict: bool) -> int:
        """2 with an error, 1 with a warning where those count (`is_strict`), else 0."""
        counts = count_severities(self.findings)
        if counts[Severity.ERROR]:
            return STATUS_ERRORS
        return STATUS_WARNINGS if is_strict and counts[Severity.WARNING] else 0


def count_severities(findings: Sequence[Finding]) -> Counter[Severity]:
    """How many findings of each severity."""
    return Counter(finding.problem.severity for finding in findings)
