"""The Partonomy benchmark's questions and their turns (Partonomy/PLUM paper, sections 3 and A.1).

The part-whole types ask two questions in sequence: `whole_to_part` asks for the object first and then its parts,
`part_to_whole` for the parts first and then the object. The second question follows the correct first answer (`gold`,
as in the authors' code) or the model's own first choice (`predicted`, the paper's "we select an answer choice twice in
sequence").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan, Question, QuestionType, Subject

VERSION = "partonomy-2.0"
"""Changes whenever a prompt, a protocol or a metric changes a number."""


class Conditioning(StrEnum):
    """The first answer that the second question of a part-whole type follows.

    If several choices tie, the model's own answer (`predicted`) is the first of them.
    """

    GOLD = "gold"
    PREDICTED = "predicted"


class ChoiceProtocol(StrEnum):
    """How a model chooses: by the probability of each answer, or by naming one of all answers shown (`listwise`).

    The paper asks GPT-4o and SegLLM the second way. It says that this lets a model identify the answer from which the
    wrong ones were derived.
    """

    LIKELIHOOD = "likelihood"
    LISTWISE = "listwise"


@dataclass(frozen=True)
class Step:
    """One multiple-choice question of a conversation; `phrases` are each choice's part spans in reading order."""

    subject: Subject
    text: str
    choices: tuple[str, ...]
    correct_index: int
    phrases: tuple[tuple[CharSpan, ...], ...]


def question_steps(question: Question) -> tuple[Step, ...]:
    """Return the multiple-choice questions of one benchmark question, in the order in which they are asked.

    Raises:
        ValueError: The number of correct choices is not one, or a part-whole type lacks its object question.
    """
    parts = Step(
        Subject.PARTS,
        question.text,
        tuple(choice.text for choice in question.choices),
        _correct_index([choice.is_correct for choice in question.choices], question, Subject.PARTS),
        tuple(choice.part_spans for choice in question.choices),
    )
    if not question.question_type.is_part_whole:
        return (parts,)
    if question.object_question is None:
        raise ValueError(f"question {question.question_id} is {question.question_type} but has no object question")
    object_question = question.object_question
    whole = Step(
        Subject.OBJECT,
        object_question.text,
        tuple(choice.text for choice in object_question.choices),
        _correct_index([choice.is_correct for choice in object_question.choices], question, Subject.OBJECT),
        ((),) * len(object_question.choices),
    )
    return (whole, parts) if question.question_type is QuestionType.WHOLE_TO_PART else (parts, whole)


def step_turns(steps: Sequence[Step], index: int, answers: Sequence[str]) -> tuple[Turn, ...]:
    """Return the conversation up to and including the question of step `index`.

    Args:
        steps: All steps of the question.
        index: The step to ask.
        answers: The assistant's answers to the steps before it.
    """
    turns = []
    for step, answer in zip(steps[:index], answers[:index], strict=True):
        phrases = step.phrases[step.choices.index(answer)] if answer in step.choices else ()
        turns += [Turn(Role.USER, step.text), Turn(Role.ASSISTANT, answer, phrases)]
    return (*turns, Turn(Role.USER, steps[index].text))


def first_answer(step: Step, chosen_index: int, conditioning: Conditioning) -> str:
    """Return the answer to `step` that the next question follows; `chosen_index` is the first of tied choices."""
    return step.choices[step.correct_index if conditioning is Conditioning.GOLD else chosen_index]


def _correct_index(flags: Sequence[bool], question: Question, subject: Subject) -> int:
    if sum(flags) != 1:
        raise ValueError(
            f"question {question.question_id} has {sum(flags)} correct {subject} choices of {len(flags)}; it needs one"
        )
    return list(flags).index(True)
