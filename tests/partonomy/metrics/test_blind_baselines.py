"""Blind baselines on choices small enough to count by hand, and the folds that keep a question from itself."""

import numpy as np
import pytest

from partonomy.metrics.blind import (
    CENTRAL,
    CLASS_PARTS,
    LEARNED,
    NUM_FOLDS,
    BlindQuestion,
    BlindResult,
    ClassVocabularies,
    Feature,
    choice_features,
    estimate_guesses,
    expected_hits,
    guess_blindly,
    image_folds,
    pool_guesses,
)
from partonomy.structures import Subject

# The right answer, "b", "bc" and so on are part sets; a text lists its parts.
STAR = ("ab", "a", "abc", "abd", "b")  # "ab" is one edit away from every other choice


def make_question(image_id: int, choices: tuple[str, ...], correct_index: int = 0) -> BlindQuestion:
    return BlindQuestion(
        image_id, tuple(" ".join(choice) for choice in choices), tuple(map(tuple, choices)), correct_index
    )


def score(questions: list[BlindQuestion], subject: Subject = Subject.PARTS) -> BlindResult:
    return estimate_guesses(guess_blindly("positive", subject, questions), np.random.default_rng(0), 100)


def accuracy(result: BlindResult, rule: str) -> float | None:
    found = result.find(rule)
    return None if found is None else found.accuracy.value


def test_features_by_hand() -> None:
    features = choice_features([make_question(1, STAR)])
    # Texts "a b", "a", "a b c", "a b d", "b".
    assert features[Feature.CHARACTERS].tolist() == [[3, 1, 5, 5, 1]]
    assert features[Feature.WORDS].tolist() == features[Feature.ITEMS].tolist() == [[2, 1, 3, 3, 1]]
    # Sizes sum to 10, their mean is 2: distances 0 1 1 1 1, times 5 choices.
    assert features[Feature.MIDDLE].tolist() == [[0, -5, -5, -5, -5]]
    # ab: 1 + 1 + 1 + 1. a: 1 (ab) + 2 (abc) + 2 (abd) + 2 (b). abc: 1 + 2 + 2 (abd) + 2 (b), and so on.
    assert features[Feature.CENTRALITY].tolist() == [[-4, -7, -7, -7, -7]]
    # In the five choices a stands 4 times, b 4, c and d once: ab 8/2, a 4, abc 9/3, abd 9/3, b 4.
    assert features[Feature.CHOICE_FREQUENCY].tolist() == [[4, 4, 3, 3, 4]]
    # Sorted texts: "a", "a b", "a b c", "a b d", "b".
    assert features[Feature.ALPHABET].tolist() == [[1, 0, 2, 3, 4]]
    # The only right answer is the question's own: other folds have none.
    assert features[Feature.TRUTH_FREQUENCY].tolist() == [[0, 0, 0, 0, 0]]


def test_right_answers_of_the_own_fold_are_not_counted() -> None:
    questions = [make_question(image, STAR) for image in range(10)] + [make_question(3, STAR)]
    folds = image_folds([question.image_id for question in questions])
    assert folds[3] == folds[10], "an image is in one fold"
    assert sorted(set(folds.tolist())) == list(range(NUM_FOLDS))
    frequency = choice_features(questions)[Feature.TRUTH_FREQUENCY]
    # "a" is right in 11 questions, less those of the own fold: 2 images each, 3 questions where image 3 is.
    for number, fold in enumerate(folds):
        assert frequency[number, 1] == 11 - (folds == fold).sum()


def test_ties_count_by_share() -> None:
    scores = np.array([[2.0, 2.0, 1.0], [1.0, 2.0, np.nan], [0.0, 0.0, 0.0]])
    # Two best, the right one among them: 1/2. Best is the other: 0. Three best: 1/3.
    np.testing.assert_allclose(expected_hits(scores, np.array([0, 0, 2])), [0.5, 0.0, 1 / 3])


def test_rules_by_hand() -> None:
    result = score([make_question(1, STAR), make_question(2, STAR, correct_index=1)])
    # Central: right in the first question, wrong in the second.
    assert accuracy(result, CENTRAL) == 0.5
    # Shortest text: "a" and "b" tie; 0 and 1/2.
    assert accuracy(result, "shortest text") == 0.25
    # Most parts: "abc" and "abd", neither right.
    assert accuracy(result, "most parts") == 0.0
    assert accuracy(result, "position 1") == accuracy(result, "position 2") == 0.5
    assert accuracy(result, "position 3") == 0.0
    # First by alphabet is "a": wrong, right.
    assert accuracy(result, "first by alphabet") == 0.5
    assert result.chance.accuracy.value == pytest.approx(0.2)
    assert result.num_questions == 2
    assert accuracy(result, LEARNED) is None, "two images teach nothing"
    # Right answers of 2 parts (the first question) and 1 part (the second); none of 3 or more.
    central = result.find(CENTRAL)
    assert central is not None
    assert [(group.value, group.count) for group in central.by_size] == [(0.0, 1), (1.0, 1), (None, 0), (None, 0)]


def test_questions_with_fewer_choices() -> None:
    result = score([make_question(1, ("ab", "a")), make_question(2, STAR)])
    assert result.chance.accuracy.value == pytest.approx((1 / 2 + 1 / 5) / 2)
    # The first question has no third place: guessed uniformly.
    assert accuracy(result, "position 3") == pytest.approx((1 / 2 + 0) / 2)


def test_the_regression_finds_what_no_single_rule_says() -> None:
    # The right answer has neither the fewest nor the most parts, and stands anywhere; the others are extremes.
    generator = np.random.default_rng(0)
    questions = []
    for image in range(200):
        order = generator.permutation(5)
        choices = ("abc", "a", "b", "abcde", "bcdef")
        shuffled = tuple(choices[number] for number in order)
        questions.append(make_question(image, shuffled, list(order).index(0)))
    result = score(questions)
    assert accuracy(result, LEARNED) == 1.0
    assert accuracy(result, "fewest parts") == accuracy(result, "most parts") == 0.0


def test_the_regression_learns_nothing_from_chance() -> None:
    generator = np.random.default_rng(0)
    questions = [
        make_question(image, tuple("".join(generator.permutation(list("abcdef"))[:3]) for _ in range(5)), image % 5)
        for image in generator.permutation(600).tolist()
    ]
    learned = score(questions).find(LEARNED)
    assert learned is not None
    assert learned.accuracy.low is not None
    assert learned.accuracy.low < 0.2 < (learned.accuracy.high or 0)


def test_pooled_types_are_the_mean_of_their_questions() -> None:
    first = guess_blindly("positive", Subject.PARTS, [make_question(1, STAR)])
    second = guess_blindly("negative", Subject.PARTS, [make_question(1, STAR, 1), make_question(2, STAR, 1)])
    pooled = estimate_guesses(pool_guesses("all", [first, second]), np.random.default_rng(0), 100)
    assert accuracy(pooled, CENTRAL) == pytest.approx(1 / 3)
    assert pooled.num_questions == 3


def test_object_questions_have_no_sizes() -> None:
    result = score([make_question(1, ("ab", "cd", "ef"))], Subject.OBJECT)
    assert result.chance.by_size == ()
    assert accuracy(result, "commonest words in choices") == pytest.approx(1 / 3)


def test_without_questions() -> None:
    with pytest.raises(ValueError, match="no questions of the type positive"):
        guess_blindly("positive", Subject.PARTS, [])


def test_parts_known_of_the_class_come_from_other_images() -> None:
    """Mugs have a rim and a base. In each question one wrong answer lists only such parts; three list a foreign one."""
    choices = (("rim", "base"), ("rim",), ("rim", "wing"), ("wing",), ("base", "tail"))
    questions = [BlindQuestion(image, tuple(map(", ".join, choices)), choices, 0, "mug") for image in range(30)]
    assert accuracy(score(questions), CLASS_PARTS) == 0.5
    once = BlindQuestion(99, tuple(map(", ".join, choices)), choices, 0, "spoon")
    assert accuracy(score([once]), CLASS_PARTS) == 0.2, "nothing is known of a class in a single image"
    two_types = ClassVocabularies.of([*questions, once])
    assert two_types.shares(questions[0]) == [1, 1, 0.5, 0, 0.5]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_constant_place_is_said_and_is_no_rule(place: int) -> None:
    generator = np.random.default_rng(0)
    questions = []
    for image in range(40):
        wrong = ["".join(sorted(generator.permutation(list("abcdef"))[:3])) for _ in range(4)]
        choices = [*wrong[:place], "".join(generator.permutation(list("abcdef"))[:2]), *wrong[place:]]
        questions.append(make_question(image, tuple(choices), place))
    result = score(questions)
    words = {0: "in first position", 2: "in the same position", 4: "in last position"}[place]
    assert result.constant == (words,)
    assert not [one.rule for one in result.scores if one.rule.startswith("position")]
    assert result.best_fixed.rule == "fewest parts" or result.best_fixed.accuracy.value == 1.0
    assert score(questions[:4]).constant == (), "four questions may be chance"


def test_choices_sorted_by_alphabet_with_the_right_one_first() -> None:
    questions = [make_question(image, ("ab", "b", "bc", "c", "cd")) for image in range(20)]
    result = score(questions)
    assert result.constant == ("in first position", "in first place by alphabet")
    assert {"first by alphabet", "position 1"}.isdisjoint(one.rule for one in result.scores)
