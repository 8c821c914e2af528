"""Questions and answers about pairs: wording, order, and the way from a sample to a marked answer and back."""

from pathlib import Path

import pytest
import yaml

from partonomy.datasets.grounded_text import clean_label
from partonomy.datasets.mixed_parts import PairObject, PairPart, PairSample, PairTask
from partonomy.questions.mixed_parts.texts import DEFAULT_TEMPLATES, PairTexts, draws_of, load_pair_templates
from partonomy.structures import RLE
from tests.partonomy.questions.mixed_parts.pair_world import rectangle

SIZES = ((40, 60), (50, 30))


def mask(image: int, place: int) -> RLE:
    return rectangle(place, 1, 3, 4, SIZES[image])


def sample_of(task: PairTask, objects: list[tuple[str, int]], parts: list[tuple[str, str, int]]) -> PairSample:
    made_objects = tuple(PairObject(label, image, mask(image, place)) for place, (label, image) in enumerate(objects))
    made_parts = tuple(
        PairPart(label, owner, image, mask(image, 10 + place)) for place, (label, owner, image) in enumerate(parts)
    )
    return PairSample("test/0", task, "own", ("a.png", "b.png"), made_objects, made_parts)


OBJECTS = sample_of(
    PairTask.COMMON_OBJECTS, [("cat", 0), ("dog", 0), ("tree", 0), ("cat", 1), ("dog", 1), ("tree", 1)], []
)
COMMON = sample_of(
    PairTask.COMMON_PARTS,
    [("chair", 0), ("stool", 1)],
    [("leg", "chair", 0), ("seat", "chair", 0), ("leg", "stool", 1), ("seat", "stool", 1)],
)
UNIQUE = sample_of(PairTask.UNIQUE_PARTS, [("chair", 0), ("chair", 1)], [("arm", "chair", 0), ("wheel", "chair", 1)])
SAMPLES = (OBJECTS, COMMON, UNIQUE)


def render(sample: PairSample, seed: int = 0, *, is_shuffled: bool = False) -> PairTexts:
    return load_pair_templates().texts(sample, draws_of(seed, sample.sample_id), is_shuffled=is_shuffled)


def targets_of(sample: PairSample) -> list[tuple[str, int, object]]:
    targets = [(one.label, one.image, one.mask) for one in sample.objects]
    return [*targets, *((one.label, one.image, one.mask) for one in sample.parts)]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("is_shuffled", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_an_answer_gives_back_the_targets(sample: PairSample, is_shuffled: bool, seed: int) -> None:
    texts = render(sample, seed, is_shuffled=is_shuffled)
    phrases = [texts.answer.text[span.start : span.end] for span in texts.answer.spans]
    found = list(zip(map(clean_label, phrases), texts.answer.images, texts.masks, strict=True))
    assert sorted(found, key=str) == sorted(targets_of(sample), key=str)
    assert "{" not in texts.question + texts.answer.text


def test_the_forms_of_answers() -> None:
    common, unique = render(COMMON).answer, render(UNIQUE).answer
    assert "the chair and the stool. " in common.text
    assert common.text.endswith("the leg and the seat.")
    assert common.images == (0, 1, 0, 1, 0, 1)
    assert "the chair. " in unique.text
    assert unique.text.endswith("the arm and the wheel.")
    assert unique.images == (0, 1, 0, 1)
    assert " the cat, the dog and the tree." in render(OBJECTS).answer.text
    assert render(OBJECTS).answer.text.count(".") == 1


def test_the_seed_decides_the_words_and_the_order() -> None:
    assert render(COMMON, 3, is_shuffled=True) == render(COMMON, 3, is_shuffled=True)
    questions = {render(COMMON, seed).question for seed in range(60)}
    assert len(questions) > 12
    assert 0.2 < sum("mask" in question for question in questions) / len(questions) < 0.9
    orders = {render(OBJECTS, seed, is_shuffled=True).answer.text.split("the ", 1)[1] for seed in range(60)}
    assert len({order.split(",")[0] for order in orders}) >= 3
    fixed = {render(OBJECTS, seed).answer.text.rpartition(" the cat")[2] for seed in range(60)}
    assert fixed == {", the dog and the tree."}


def test_no_question_names_an_object_or_a_part() -> None:
    templates = load_pair_templates()
    assert all(len(texts) >= 5 for texts in templates.questions.values())
    for texts in (*templates.questions.values(), templates.mask_requests):
        assert not any("{" in text for text in texts)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"questions": {}}, "common_objects"),
        ({"mask_requests": []}, "mask_requests: must be a list of texts"),
        ({"objects": {"one": ["{list}"]}}, "several"),
        ({"objects": {"one": ["none"], "several": ["{list}"]}}, "must contain {list} exactly once"),
        ({"separators": {"between": ", "}}, "last"),
    ],
)
def test_broken_templates_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    content = yaml.safe_load(DEFAULT_TEMPLATES.read_text(encoding="utf-8")) | change
    path = tmp_path / "templates.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ValueError, match="templates.yaml") as error:
        load_pair_templates(path)
    assert reason in str(error.value)
