from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.store import load_questions
from partonomy.masks import decode_mask
from partonomy.models.bounds import BUILTIN_MODELS, EmptyModel, OracleModel, RandomModel
from partonomy.models.contract import PreparedModel, Role, Turn
from partonomy.structures import ChoiceScore, Question

TURNS = (Turn(Role.USER, "Which parts?"),)


@pytest.fixture
def questions(question_file: Path) -> tuple[Question, ...]:
    """The questions of the file."""
    return tuple(load_questions(question_file).questions)


def guess(model: RandomModel, question: Question) -> tuple[list[ChoiceScore], np.ndarray]:
    """Scores and masks of one question."""
    image = np.zeros((question.height, question.width, 3), dtype=np.uint8)
    model.prepare(question)
    choice = question.correct_choice
    scores = model.score_choices(image, TURNS, [entry.text for entry in question.choices])
    return scores, model.segment(image, TURNS, choice.text, choice.part_spans)


def test_only_oracle_and_random_read_the_question() -> None:
    prepared = {name for name, build in BUILTIN_MODELS.items() if isinstance(build(0), PreparedModel)}
    assert prepared == {"oracle", "random"}


def test_random_depends_on_seed_and_question_alone(questions: tuple[Question, ...]) -> None:
    forwards = [guess(RandomModel(5), question) for question in questions[:6]]
    shared = RandomModel(5)
    backwards = [guess(shared, question) for question in reversed(questions[:6])][::-1]
    for (scores, masks), (other_scores, other_masks) in zip(forwards, backwards, strict=True):
        assert scores == other_scores
        np.testing.assert_array_equal(masks, other_masks)
    assert guess(RandomModel(6), questions[0])[0] != forwards[0][0]


def test_random_choice_is_uniform(questions: tuple[Question, ...]) -> None:
    picks = np.zeros(5)
    for seed in range(500):
        scores, _ = guess(RandomModel(seed), questions[0])
        picks[int(np.argmax([score.answer_log_prob for score in scores]))] += 1
    assert picks.min() > 70  # expected 100 each, standard deviation 9
    assert picks.max() < 130


def test_oracle_gives_the_true_masks(questions: tuple[Question, ...]) -> None:
    question = questions[3]
    model = OracleModel()
    model.prepare(question)
    image = np.zeros((question.height, question.width, 3), dtype=np.uint8)
    masks = model.segment(image, TURNS, question.correct_choice.text, question.correct_choice.part_spans)
    np.testing.assert_array_equal(masks, np.stack([decode_mask(part.mask) for part in question.masks]))


def test_oracle_without_question_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="prepare"):
        OracleModel().generate(np.zeros((2, 2, 3), dtype=np.uint8), TURNS)


def test_empty_finds_all_choices_equal() -> None:
    scores = EmptyModel().score_choices(np.zeros((2, 2, 3), dtype=np.uint8), TURNS, ["a", "b", "c"])
    assert len(set(scores)) == 1
