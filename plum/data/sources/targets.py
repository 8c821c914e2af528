"""How drawn targets become questions: one or several targets per question, and their division among the questions."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from plum.data.sources.base import draw_indices
from plum.data.sources.wordings import PLUM_WORDINGS, Wordings


@dataclass(frozen=True)
class AskedTargets:
    """What a source asks for in one question.

    Attributes:
        targets: `authors`: as the loaders of LISA and PLUM draw them: a class of a label map, or one annotated instance
            of an object or part. `lists`: this project's own form, one to three names in a question and, for part data,
            all parts of an object; instances of one name are united.
        per_question: most targets of one question, for `authors`: 1 in LISA and PLUM, 3 in M2SA.
        wordings: the wordings of questions and answers.
    """

    targets: Literal["authors", "lists"] = "authors"
    per_question: int = 1
    wordings: Wordings = PLUM_WORDINGS

    def __post_init__(self) -> None:
        if self.per_question < 1:
            raise ValueError(f"targets_per_question is {self.per_question}, it must be at least 1")
        if self.targets == "lists" and (self.per_question != 1 or self.wordings is not PLUM_WORDINGS):
            raise ValueError("targets: lists draws its own lists, in PLUM's wordings: set targets: authors instead")

    def divide(self, total: int, max_questions: int, generator: np.random.Generator) -> list[list[int]]:
        """Draw targets without replacement and divide them among questions.

        With several targets per question this is M2SA's division: up to `max_questions * per_question` targets are
        drawn; each of min(max_questions, drawn) questions gets one, and every other target goes to a random question
        that is not full.

        Args:
            total: number of targets of the image.
            max_questions: maximum number of questions.
            generator: decides.

        Returns:
            The indices of each question's targets; no question is empty, and no index occurs twice.
        """
        drawn = draw_indices(total, max_questions * self.per_question, generator)
        questions = [[index] for index in drawn[:max_questions]]
        for index in drawn[max_questions:]:
            open_questions = [question for question in questions if len(question) < self.per_question]
            open_questions[int(generator.integers(len(open_questions)))].append(index)
        return questions


AS_AUTHORS = AskedTargets()
"""As in LISA and PLUM: one target per question."""
