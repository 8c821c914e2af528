"""Division of targets among questions, instances of part data, and answers that hold marks."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.store import load_dataset
from partonomy.structures import RLE, CharSpan
from plum.data.sources.part_images import PartImages
from plum.data.sources.part_semantic import PartSemanticSource, list_annotations
from plum.data.sources.targets import AskedTargets
from plum.data.sources.wordings import LISA_WORDINGS, mark_answer
from plum.models.systems.seg_token import SegTokens
from plum.models.systems.tagged_phrases import TaggedPhrases
from plum.structures import Exchange
from tests.plum.data.part_world import VOCABULARY, write_world

MASK = RLE(1, 1, "01")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PartImages:
    folder: Path = tmp_path_factory.mktemp("world")
    write_world(folder)
    return PartImages(load_dataset(folder), VOCABULARY)


@pytest.mark.parametrize("per_question", [1, 2, 3])
@pytest.mark.parametrize("total", range(12))
def test_targets_are_divided_as_m2sa_does(total: int, per_question: int) -> None:
    shapes = set()
    for seed in range(60):
        questions = AskedTargets(per_question=per_question).divide(total, 3, np.random.default_rng(seed))
        assert len(questions) == min(3, total)
        assert all(1 <= len(question) <= per_question for question in questions)
        drawn = [index for question in questions for index in question]
        assert len(drawn) == len(set(drawn)) == min(total, 3 * per_question)
        assert set(drawn) <= set(range(total))
        shapes.add(tuple(sorted(map(len, questions))))
    if (total, per_question) == (5, 3):
        assert shapes == {(1, 1, 3), (1, 2, 2)}, "the two that are left go to one question or to two"


def test_every_annotated_instance_is_asked_by_one_of_its_names(images: PartImages) -> None:
    source = PartSemanticSource(images, 3)
    names: Counter[str] = Counter()
    for index, record in enumerate(source.records):
        truth = {name: [] for known, _ in list_annotations(record) for name in known}  # type: dict[str, list[RLE]]
        for known, mask in list_annotations(record):
            for name in known:
                truth[name].append(mask)
        for seed in range(30):
            sample = source.sample(index, np.random.default_rng(seed))
            masks = [mask for (exchange,) in sample.conversations for mask in exchange.masks]
            assert len(masks) == len(sample.conversations) == min(3, len(list_annotations(record)))
            for (exchange,) in sample.conversations:
                (span,) = exchange.spans
                name = exchange.answer[span.start : span.end]
                assert exchange.answer == f"It is the {name}."
                assert f"the {name}" in exchange.question
                assert exchange.masks[0] in truth[name], "the mask of one instance"
                names[name] += 1
    assert {"biplane", "biplane wheel", "wheel of the biplane", "car door", "door of the car"} <= set(names)
    assert "car" not in names, "the cars of that world have no mask"
    ratio = names["biplane wheel"] / names["wheel of the biplane"]
    assert 0.5 < ratio < 2


def test_two_instances_of_a_name_are_asked_apart(images: PartImages) -> None:
    source = PartSemanticSource(images, 3)
    cars = source.sample(1, np.random.default_rng(0))
    record = source.records[1]
    wheels = [part.mask for item in record.objects for part in item.parts if part.label == "wheel"]
    assert len(set(wheels)) == 2
    found = set()
    for seed in range(60):
        for (exchange,) in source.sample(1, np.random.default_rng(seed)).conversations:
            found |= {mask for mask in exchange.masks if "wheel" in exchange.answer}
    assert found == set(wheels)
    assert cars.part_map is not None


def test_objects_without_parts_are_asked_too(images: PartImages) -> None:
    lists, authors = PartSemanticSource(images, 1, AskedTargets("lists")), PartSemanticSource(images, 1)
    assert len(lists) == len(images)
    whole_only = [record for record in authors.records if not any(item.parts for item in record.objects)]
    expected = [
        record
        for record in images.dataset.images
        if any(item.mask is not None for item in record.objects) and not any(item.parts for item in record.objects)
    ]
    assert whole_only == expected
    assert len(authors) == len(lists) + len(expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_marked_answers_have_a_mark_for_each_target(count: int) -> None:
    assert LISA_WORDINGS.marked is not None
    names = ["red car", "door", "bus"][:count]
    texts = set()
    for seed in range(300):
        answer = LISA_WORDINGS.marked.draw(names, np.random.default_rng(seed))
        assert answer.is_marked
        assert [answer.text[span.start : span.end] for span in answer.spans] == ["{seg}"] * count
        assert not re.search(r"\{(?!seg\})", answer.text)
        assert answer.text.endswith(".")
        texts.add(answer.text)
    if count == 1:
        assert texts == set(LISA_WORDINGS.marked.single)
    else:
        joint = {text for text in texts if re.search(r"\{seg\}(?:, \{seg\})? and \{seg\}\.$", text)}
        assert joint, "one sentence"
        assert any(re.search(r"(?i)red car is \{seg\}.*door is \{seg\}", text) for text in texts), "a clause each"


def test_marks_are_written_where_they_stand() -> None:
    answer = mark_answer("The masks of a and b are {seg} and {seg}.")
    exchange = Exchange("Q?", answer.text, answer.spans, (MASK, MASK), is_marked=True)
    written = SegTokens("many").write(exchange)
    assert written.exchange.answer == "The masks of a and b are [SEG] and [SEG]."
    assert written.exchange.spans == (CharSpan(25, 30), CharSpan(35, 40))
    assert written.exchange.masks == (MASK, MASK)
    assert not written.exchange.is_marked
    assert written.target_of_phrase == (0, 1)
    single = mark_answer("{seg}.")
    alone = SegTokens("single").write(Exchange("Q?", single.text, single.spans, (MASK,), is_marked=True))
    assert (alone.exchange.answer, alone.exchange.spans) == ("[SEG].", (CharSpan(0, 5),))
    with pytest.raises(ValueError, match="has places for 2 marks, but seg_token.targets single writes one"):
        SegTokens("single").write(exchange)
    with pytest.raises(ValueError, match="places for marks, which tagged phrases do not write"):
        TaggedPhrases().write(exchange)
