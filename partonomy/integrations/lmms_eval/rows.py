"""What one line of an exported lmms-eval task holds; plain JSON, masks as run-length codes."""

from collections.abc import Iterator, Mapping, Sequence

from partonomy.benchmarks.listwise import LETTERS, listwise_turns, order_key, shuffled_order
from partonomy.benchmarks.partonomy import Step, Subject, question_steps, step_turns
from partonomy.evaluation.model_api import Role, Turn
from partonomy.masks import rle_to_json
from partonomy.structures import Question

Row = Mapping[str, object]

MASK_INSTRUCTION = (
    "Segment these parts of the object, in this order: {phrases}. Answer with JSON alone: "
    '{{"masks": [{{"size": [{height}, {width}], "counts": "..."}}, ...]}}, one COCO compressed run-length code a part.'
)


def choice_rows(question: Question, seed: int) -> Iterator[tuple[Subject, Row]]:
    """One row per multiple-choice step, all choices shown at once; the second follows the correct first answer.

    Args:
        question: The question.
        seed: Of the order of the choices, as for validate_partonomy.py.
    """
    steps = question_steps(question)
    correct = [step.choices[step.correct_index] for step in steps]
    for index, step in enumerate(steps):
        order = shuffled_order(order_key(seed, question.question_id, step.subject), len(step.choices))
        shown = [step.choices[choice] for choice in order]
        labels = _labels(question, step)
        position = order.index(step.correct_index)
        row = _common(question) | {
            "prompt": as_text(listwise_turns(step_turns(steps, index, correct), shown)),
            "choices": shown,
            "choice_labels": [list(labels[choice]) for choice in order],
            "correct_position": position,
            "answer": LETTERS[position],
        }
        yield step.subject, row


def mask_row(question: Question) -> Row:
    """The question with its correct answer, and the phrases to segment."""
    steps = question_steps(question)
    correct = [step.choices[step.correct_index] for step in steps]
    parts_index = next(index for index, step in enumerate(steps) if step.subject is Subject.PARTS)
    choice = question.correct_choice
    phrases = [choice.text[span.start : span.end] for span in choice.part_spans]
    wanted = MASK_INSTRUCTION.format(phrases=", ".join(phrases), height=question.height, width=question.width)
    turns = (
        *step_turns(steps, parts_index, correct),
        Turn(Role.ASSISTANT, choice.text),
        Turn(Role.USER, wanted),
    )
    return _common(question) | {
        "prompt": as_text(turns),
        "phrases": phrases,
        "masks": [rle_to_json(part.mask) for part in question.masks],
    }


def as_text(turns: Sequence[Turn]) -> str:
    """A conversation as one message, which is all that a task of lmms-eval sends; a single turn stays as it is."""
    if len(turns) == 1:
        return turns[0].text
    names = {Role.USER: "Question", Role.ASSISTANT: "Answer"}
    return "\n".join(f"{names[turn.role]}: {turn.text}" for turn in turns)


def _common(question: Question) -> dict[str, object]:
    return {
        "question_id": question.question_id,
        "question_type": question.question_type.value,
        "image_id": question.image_id,
        "image_path": str(question.image_path),
        "height": question.height,
        "width": question.width,
        "box": [] if question.box is None else list(question.box),
    }


def _labels(question: Question, step: Step) -> list[tuple[str, ...]]:
    if step.subject is Subject.PARTS:
        return [choice.parts for choice in question.choices]
    assert question.object_question is not None  # question_steps has checked it
    return [(choice.label,) for choice in question.object_question.choices]
