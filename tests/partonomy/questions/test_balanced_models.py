"""The models that `balanced` draws wrong answers from are fitted to the right answers."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from partonomy.datasets.concept_graph import build_concept_graph
from partonomy.questions.answer_model import AnswerKind
from partonomy.questions.balanced_answers import BalancedAnswers
from partonomy.questions.balanced_models import fit_answer_models
from partonomy.questions.draws import Draws
from partonomy.questions.fits import find_askable_graph
from partonomy.questions.hints import PartWords
from partonomy.questions.right_answers import AskedParts, RightAnswers, find_owned_parts
from tests.partonomy.tiny_world import make_dataset, make_image, make_instance

pytestmark = pytest.mark.shipped_fits

PARTS = "abcdefgh"
EXACT = [frozenset({part}) for part in range(len(PARTS))]
PAIRS = [frozenset(pair) for pair in combinations(range(len(PARTS)), 2)]
ANSWERS = PAIRS + [frozenset({0, 1})] * 8
"""Each of the 28 pairs of parts once, one of them eight times more."""


def test_wrong_answers_have_the_sizes_and_parts_of_right_ones(tmp_path: Path) -> None:
    """Drawn from the right answers' own frequencies, unfitted, 4% of the wrong answers would not be pairs."""
    images = [
        make_image(number + 1, make_instance(number, "box", tuple(PARTS[part] for part in sorted(answer))))
        for number, answer in enumerate(ANSWERS)
    ]
    graph = build_concept_graph(make_dataset(tmp_path, images))
    right = RightAnswers([AskedParts("box", answer) for answer in ANSWERS], graph, find_owned_parts(graph, EXACT))
    models = fit_answer_models(right, EXACT, PartWords.of(graph.parts), seed=0)
    ((kind, shares),) = right.shares_by_label.items()
    walk = replace(models[AnswerKind(kind.form, "box")], few={})
    generator, sizes, listed = Draws(9), Counter[int](), Counter[int]()
    for asked, share in shares.items():
        for _ in range(round(share * 900)):
            listable = right.listable(kind.form, "box", asked.parts)
            for wrong in BalancedAnswers(EXACT).draw(asked.parts, 4, walk, generator, listable) or ():
                sizes[len(wrong)] += 1
                listed.update(wrong)
    assert sizes.total() > 3000
    assert sizes[2] > 0.98 * sizes.total()
    for part in range(len(PARTS)):
        expected = sum(share for asked, share in shares.items() if part in asked.parts)
        assert listed[part] / sizes.total() == pytest.approx(expected, abs=0.05), PARTS[part]


def test_data_without_parts_have_nothing_to_ask(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [make_image(1, make_instance(1, "box", ())), make_image(2)])
    with pytest.raises(ValueError, match=r"no annotated part in 2 images, nothing can be asked$"):
        find_askable_graph(dataset)
