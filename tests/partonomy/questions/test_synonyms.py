"""No answer lists a true part in other words: the mutator on random vocabularies, and whole data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partonomy.datasets.store import load_questions
from partonomy.names import lemmatize
from partonomy.questions.answer_mutator import AnswerMutator, MutationContext, MutationMode
from partonomy.questions.draws import Draws
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from partonomy.questions.part_sampler import PartSampler
from partonomy.structures import QuestionType
from tests.partonomy.tiny_world import make_dataset, make_image, make_instance

NUM_PARTS = 12
PARTS = st.integers(0, NUM_PARTS - 1)
CONFIG = QuestionBuildConfig(embedding_model="char-ngram-tfidf", part_comparison="lemma")
# Several words for the same part, in the same object and between objects that are compared.
OBJECTS = {
    "car": ("door", "headlight", "mirror", "roof", "wheel"),
    "van": ("doors", "headlight", "roof rack", "side door", "wheels"),
    "bus": ("door", "doors", "headlights", "mirrors", "wheel"),
    "truck": ("cab", "door", "headlight", "trailer", "wheel", "wheels"),
    "tram": ("doors", "headlights", "pantograph", "roof", "wheels"),
    "wagon": ("handle", "mirror", "platform", "wheel"),
}


@settings(max_examples=300, deadline=None)
@given(
    pairs=st.lists(st.tuples(PARTS, PARTS), max_size=8),
    correct=st.frozensets(PARTS, min_size=1, max_size=5),
    category=st.frozensets(PARTS, max_size=NUM_PARTS),
    query=st.frozensets(PARTS, max_size=NUM_PARTS),
    mode=st.sampled_from([MutationMode.PAPER, MutationMode.AUTHORS]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_wrong_answer_names_a_true_part_in_other_words(  # noqa: PLR0917  hypothesis names what it draws
    pairs: list[tuple[int, int]],
    correct: frozenset[int],
    category: frozenset[int],
    query: frozenset[int],
    mode: MutationMode,
    seed: int,
) -> None:
    synonyms = [{part} for part in range(NUM_PARTS)]
    for first, second in pairs:  # not transitive on purpose: a callback may say a = b and b = c but not a = c
        synonyms[first].add(second)
        synonyms[second].add(first)
    weights = np.random.default_rng(seed).normal(size=(NUM_PARTS, NUM_PARTS))
    mutator = AnswerMutator(mode, PartSampler(weights, weights[0]), [frozenset(group) for group in synonyms])
    context = MutationContext(correct, tuple(sorted(category)), tuple(sorted(query)))
    answers = mutator.draw_wrong_answers(context, Draws(seed))
    if answers is None:
        return
    assert len({correct, *answers}) == 5
    for answer in answers:
        for part in answer - correct:
            assert not synonyms[part] & correct
        # Wrong: it lists a part that is none of the true ones, or lacks a true one in every word for it.
        assert answer - correct or any(not synonyms[part] & answer for part in correct)


def build_world(folder: Path, config: QuestionBuildConfig) -> Path:
    images = []
    for number in range(36):
        label = sorted(OBJECTS)[number % len(OBJECTS)]
        parts = list(OBJECTS[label])
        if number >= len(OBJECTS):
            parts.pop(number // len(OBJECTS) % len(parts))
        images.append(make_image(number + 1, make_instance(number, label, parts)))
    build_questions(make_dataset(folder / "images", images), config, folder)
    return folder


@pytest.mark.parametrize("mode", list(MutationMode))
def test_intersections_and_differences_compare_meanings(tmp_path: Path, mode: MutationMode) -> None:
    types = tuple(kind for kind in QuestionType if kind.value.endswith("_with_label"))
    config = QuestionBuildConfig(
        embedding_model="char-ngram-tfidf", part_comparison="lemma", mutation=mode, question_types=types
    )
    questions = load_questions(build_world(tmp_path, config)).questions
    visible = {
        question.image_id: set(question.correct_choice.parts)
        for question in questions
        if question.question_type is QuestionType.IDENTIFICATION_WITH_LABEL
    }
    num_renamed = 0
    for question in questions:
        true_parts = set(question.correct_choice.parts)
        true_words = {lemmatize(part) for part in true_parts}
        for choice in question.choices:
            # Only the true parts themselves may stand for what they mean.
            assert {part for part in choice.parts if lemmatize(part) in true_words} <= true_parts
        form = question.question_type.value.removesuffix("_with_label")
        if form not in ("positive", "negative") or question.image_id not in visible:
            continue
        concept = next(label for label in OBJECTS if f" a {label}" in question.text)
        concept_words = {lemmatize(part) for part in OBJECTS[concept]}
        shared = {part for part in visible[question.image_id] if lemmatize(part) in concept_words}
        assert true_parts == (shared if form == "positive" else visible[question.image_id] - shared)
        num_renamed += len(shared - set(OBJECTS[concept]))
    assert num_renamed > 0  # compared as text, these parts would have been called different


def test_a_file_of_synonyms_decides_what_is_common(tmp_path: Path) -> None:
    # By the file a pantograph is what a tram calls its mirror, which no lemma knows.
    path = tmp_path / "synonyms.json"
    path.write_text(json.dumps([["pantograph", "mirror"], ["mirror", "mirrors"]]))
    config = QuestionBuildConfig(
        embedding_model="char-ngram-tfidf",
        part_comparison=f"file:{path}",
        mutation=MutationMode.PAPER,
        question_types=(QuestionType.POSITIVE_WITH_LABEL,),
    )
    questions = load_questions(build_world(tmp_path / "set", config)).questions
    with_wagon = [one for one in questions if one.object_label == "tram" and " a wagon" in one.text]
    assert with_wagon
    assert all(one.correct_choice.parts == ("pantograph",) for one in with_wagon)
    content = json.loads((tmp_path / "set" / "build.json").read_text())
    assert content["config"]["part_comparison"] == f"file:{path}"
    assert len(content["config"]["part_comparison_sha256"]) == 64
