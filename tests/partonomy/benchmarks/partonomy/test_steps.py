from pathlib import Path

import pytest

from partonomy.benchmarks.partonomy.metrics import metric_names
from partonomy.benchmarks.partonomy.steps import Conditioning, first_answer, question_steps, step_turns
from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan, Choice, ObjectChoice, ObjectQuestion, Question, QuestionType, Subject


def make_question(question_type: QuestionType, num_correct: int = 1) -> Question:
    """A question with two choices, the second one correct."""
    choices = (
        Choice("A hull.", ("hull",), (CharSpan(2, 6),), is_correct=num_correct > 1),
        Choice("A wing.", ("wing",), (CharSpan(2, 6),), is_correct=num_correct > 0),
    )
    objects = ObjectQuestion("What is it?", (ObjectChoice("A jet.", "jet", True), ObjectChoice("A bus.", "bus", False)))
    return Question(
        question_id="q1",
        question_type=question_type,
        image_id=1,
        instance_id=1,
        image_path=Path("image.png"),
        height=4,
        width=4,
        object_label="jet",
        text="Which parts?",
        choices=choices,
        masks=(),
        object_question=objects if question_type.is_part_whole else None,
    )


def test_plain_type_asks_once() -> None:
    steps = question_steps(make_question(QuestionType.IDENTIFICATION))
    assert [step.subject for step in steps] == [Subject.PARTS]
    assert steps[0].correct_index == 1
    assert step_turns(steps, 0, ()) == (Turn(Role.USER, "Which parts?"),)


@pytest.mark.parametrize(
    ("question_type", "order"),
    [
        (QuestionType.WHOLE_TO_PART, [Subject.OBJECT, Subject.PARTS]),
        (QuestionType.PART_TO_WHOLE, [Subject.PARTS, Subject.OBJECT]),
    ],
)
def test_part_whole_types_ask_in_their_order(question_type: QuestionType, order: list[Subject]) -> None:
    assert [step.subject for step in question_steps(make_question(question_type))] == order


@pytest.mark.parametrize(
    ("conditioning", "answer"), [(Conditioning.GOLD, "A jet."), (Conditioning.PREDICTED, "A bus.")]
)
def test_second_question_follows_the_first_answer(conditioning: Conditioning, answer: str) -> None:
    steps = question_steps(make_question(QuestionType.WHOLE_TO_PART))
    given = first_answer(steps[0], 1, conditioning)
    assert step_turns(steps, 1, [given]) == (
        Turn(Role.USER, "What is it?"),
        Turn(Role.ASSISTANT, answer),
        Turn(Role.USER, "Which parts?"),
    )


@pytest.mark.parametrize("num_correct", [0, 2])
def test_other_than_one_correct_choice_is_an_error(num_correct: int) -> None:
    with pytest.raises(ValueError, match=f"q1 has {num_correct} correct parts choices"):
        question_steps(make_question(QuestionType.IDENTIFICATION, num_correct))


def test_metric_names_are_the_published_ones() -> None:
    names = metric_names(QuestionType.PART_TO_WHOLE)
    published = [
        f"{measure}_{matching}"
        for matching in ("paired", "hungarian", "greedy", "union")
        for measure in ("giou_micro", "giou_macro", "ciou")
    ]
    published += ["parts_accuracy", "parts_accuracy_answer_mean", "parts_accuracy_conversation_mean"]
    published += ["parts_precision", "parts_recall", "parts_f1", "objects_accuracy"]
    published += ["generated_giou_micro_hungarian", "generated_parts_f1", "authors_giou_micro_paired"]
    assert set(published) <= set(names)
    assert len(set(names)) == len(names)
    assert "objects_accuracy" not in metric_names(QuestionType.IDENTIFICATION)
