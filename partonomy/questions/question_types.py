"""The ten question types of Explanatory Part Segmentation (paper, section 3.1)."""

from enum import StrEnum


class QuestionType(StrEnum):
    """Value = the published record's `question_type`; `positive`: the paper's intersection, `negative`: difference."""

    IDENTIFICATION = "identification"
    IDENTIFICATION_WITH_LABEL = "identification_with_label"
    POSITIVE = "positive"
    POSITIVE_WITH_LABEL = "positive_with_label"
    NEGATIVE = "negative"
    NEGATIVE_WITH_LABEL = "negative_with_label"
    DIFFERENCE = "difference"
    DIFFERENCE_WITH_LABEL = "difference_with_label"
    WHOLE_TO_PART = "whole_to_part"
    PART_TO_WHOLE = "part_to_whole"

    @property
    def is_part_whole(self) -> bool:
        """Whether the type asks two questions in sequence, object and parts."""
        return self in (QuestionType.WHOLE_TO_PART, QuestionType.PART_TO_WHOLE)

    @property
    def names_object(self) -> bool:
        """Whether the question names the object ("the biplane") instead of saying "the object"."""
        return self.value.endswith("_with_label")

    @property
    def may_rename_parts(self) -> bool:
        """Whether published correct answers may name parts by other words than their masks (see `locate_listed`)."""
        return self in (QuestionType.POSITIVE, QuestionType.POSITIVE_WITH_LABEL)


TABLE_TYPES = (
    QuestionType.IDENTIFICATION_WITH_LABEL,
    QuestionType.POSITIVE_WITH_LABEL,
    QuestionType.NEGATIVE_WITH_LABEL,
    QuestionType.PART_TO_WHOLE,
    QuestionType.WHOLE_TO_PART,
)
"""The types of the paper's tables 2, 3, 9, 10 and 11, in their column order."""
