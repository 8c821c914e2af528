from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.store import load_questions
from partonomy.masks import decode_mask
from partonomy.models.bounds import BUILTIN_MODELS, EmptyModel, OracleModel, RandomModel
from partonomy.models.contract import Gold, Hint, InformedModel, Role, Turn
from partonomy.structures import ChoiceScore, Question

TURNS = (Turn(Role.USER, "Which parts?"),)


@pytest.fixture
def questions(question_file: Path) -> tuple[Question, ...]:
    """The questions of the file."""
    return tuple(load_questions(question_file).questions)


def hint_of(question: Question, number: int = 0) -> Hint:
    """What a bound is told of a question."""
    right = question.correct_choice
    guesses = tuple((choice.text, choice.part_spans) for choice in question.choices)
    gold = Gold(right.text, right.part_spans, tuple(part.mask for part in question.masks), guesses)
    return Hint(question.question_id, number, gold)


def guess(model: RandomModel, question: Question) -> tuple[list[ChoiceScore], np.ndarray]:
    """Scores and masks of one question."""
    image = np.zeros((question.height, question.width, 3), dtype=np.uint8)
    choice = question.correct_choice
    model.prepare(hint_of(question))
    scores = model.score_choices(image, TURNS, [entry.text for entry in question.choices])
    model.prepare(hint_of(question, 1))
    return scores, model.segment(image, TURNS, choice.text, choice.part_spans)


def test_only_oracle_and_random_read_the_question() -> None:
    prepared = {name for name, build in BUILTIN_MODELS.items() if isinstance(build(0), InformedModel)}
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
    model.prepare(hint_of(question))
    image = np.zeros((question.height, question.width, 3), dtype=np.uint8)
    masks = model.segment(image, TURNS, question.correct_choice.text, question.correct_choice.part_spans)
    np.testing.assert_array_equal(masks, np.stack([decode_mask(part.mask) for part in question.masks]))


def test_oracle_without_question_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="prepare"):
        OracleModel().generate(np.zeros((2, 2, 3), dtype=np.uint8), TURNS)


def test_empty_finds_all_choices_equal() -> None:
    scores = EmptyModel().score_choices(np.zeros((2, 2, 3), dtype=np.uint8), TURNS, ["a", "b", "c"])
    assert len(set(scores)) == 1


def test_random_answers_are_drawn_from_the_guesses(questions: tuple[Question, ...]) -> None:
    question = questions[0]
    image = np.zeros((question.height, question.width, 3), dtype=np.uint8)
    said = set()
    for seed in range(60):
        model = RandomModel(seed)
        model.prepare(hint_of(question))
        generation = model.generate(image, TURNS)
        spans_of = {choice.text: choice.part_spans for choice in question.choices}
        assert generation.spans == spans_of[generation.text]
        assert generation.masks.shape == (len(generation.spans), question.height, question.width)
        said.add(generation.text)
    assert said == {choice.text for choice in question.choices}


def test_free_answers_cannot_be_guessed() -> None:
    model = RandomModel(0)
    model.prepare(Hint("1", 0, Gold("a cat")))
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    for ask in (model.reply, model.generate):
        with pytest.raises(NotImplementedError, match="answers are free"):
            ask(image, TURNS)


def test_oracle_has_no_words_where_only_masks_are_right() -> None:
    model = OracleModel()
    model.prepare(Hint("1", 0, Gold(None)))
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    with pytest.raises(NotImplementedError, match="the right answer is not given in words"):
        model.reply(image, TURNS)
    assert model.segment(image, TURNS, "", ()).shape == (0, 2, 2)
