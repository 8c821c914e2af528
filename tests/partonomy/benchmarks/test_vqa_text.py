import pytest

from partonomy.benchmarks.vqa import CONTRACTIONS, compat_score, process_answer, soft_score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red Car.", "red car"),  # article, case, period
        ("An apple, a pear", "apple pear"),  # the comma goes before anything else
        ("1,000", "1000"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("3.5", "3.5"),  # a period before a digit stays
        ("v. 2.", "v 2"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),  # the table knows spellings with one apostrophe missing, not with two
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),  # the public table's own slip
        ("tom's bar", "tom 's bar"),
        ("rock-n-roll", "rock n roll"),  # no space beside a hyphen: it becomes one
        ("rock -n-roll", "rock nroll"),  # one hyphen stands beside a space: all of them go without a trace
        ("yes/no?", "yes no"),
        ("a\nb\tc", "b c"),
        ("   ", ""),
        ("." * 40, "." * 8),  # only the first 32 periods go
    ],
)
def test_normal_form_of_an_answer(text: str, expected: str) -> None:
    assert process_answer(text) == expected


def test_contractions_have_one_apostrophe_more_than_their_misspellings() -> None:
    for wrong, right in CONTRACTIONS.items():
        if wrong != "somebody'd":
            assert right.count("'") == wrong.count("'") + 1
            assert right.replace("'", "") == wrong.replace("'", "")
    assert {"yall'll", "y'allll", "ow's'at", "'ow'sat", "twas", "oclock"} <= CONTRACTIONS.keys()


@pytest.mark.parametrize(
    ("num_matches", "expected"),
    [
        (0, 0.0),
        (1, 0.3),  # left out itself: 0 others; nine times 1 other: 9 x 1/3 / 10
        (2, 0.6),  # 2 x 1/3 + 8 x 2/3 = 6, / 10
        (3, 0.9),  # 3 x 2/3 + 7 x 1 = 9, / 10
        (4, 1.0),
        (10, 1.0),
    ],
)
def test_soft_score_of_ten_answers(num_matches: int, expected: float) -> None:
    answers = ["Nokia"] * num_matches + [f"other {number}" for number in range(10 - num_matches)]
    assert soft_score("the nokia.", answers) == pytest.approx(expected)


def test_only_the_whole_reply_matches_officially() -> None:
    assert soft_score("It is a nokia", ["nokia"] * 10) == 0.0


def test_the_compatible_score_falls_back_to_containment() -> None:
    textvqa = ["nokia", *(f"other {number}" for number in range(9))]
    assert compat_score("nokia", textvqa) == pytest.approx(0.3)
    assert compat_score("it is a nokia phone", textvqa) == 1.0
    gqa = ["woman", "The woman is wearing a dress."]
    assert compat_score("woman", gqa) == pytest.approx(1 / 6)  # left out itself: 0; left out the other: 1/3; mean
    assert compat_score("I see a woman there", gqa) == 1.0
    assert compat_score("I do not know", ["no"]) == 1.0  # "no" stands in "not"
    assert compat_score("yes", ["no"]) == 0.0


def test_an_article_as_answer_is_in_every_reply_of_the_compatible_score() -> None:
    answers = ["the", *(f"other {number}" for number in range(9))]
    assert compat_score("quite another thing", answers) == 1.0
    assert soft_score("quite another thing", answers) == 0.0
