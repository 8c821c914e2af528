"""What marks such as [SEG] in a model's answers mean for its scores: kept with every result and printed beside it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from partonomy.metrics.matching import Matching
from partonomy.models.contract import MarkingModel

MARKS_KEY = "answer_marks"
"""In the provenance of a summary."""


@dataclass(frozen=True)
class AnswerMarks:
    """`note`: what a reader has to know, empty for plain answers; `has_mask_per_phrase`: see `MarkingModel`."""

    note: str = ""
    has_mask_per_phrase: bool = True

    @property
    def has_marks(self) -> bool:
        """Whether the answers carry marks at all."""
        return bool(self.note)

    @property
    def matching(self) -> Matching:
        """The pairing whose numbers tables show."""
        return Matching.PAIRED if self.has_mask_per_phrase else Matching.UNION


def describe_marks(model: object) -> AnswerMarks:
    """Read what a model says of its answers."""
    if isinstance(model, MarkingModel):
        return AnswerMarks(model.protocol_note, model.has_mask_per_phrase)
    return AnswerMarks()


def marks_provenance(marks: AnswerMarks | None) -> dict[str, Any]:
    """What a summary keeps."""
    return asdict(marks or AnswerMarks())


def read_marks(provenance: Mapping[str, Any]) -> AnswerMarks:
    """The marks of a finished run; runs of earlier code had models with plain answers alone."""
    return AnswerMarks(**provenance.get(MARKS_KEY, {}))


def marks_lines(provenance: Mapping[str, Any]) -> list[str]:
    """Lines that stand with a run's own results."""
    marks = read_marks(provenance)
    lines = [f"Protocol: {marks.note}"] if marks.note else []
    if not marks.has_mask_per_phrase:
        lines.append('Masks: only "union" numbers compare that one mask with all targets, the others with each of them')
    return lines
