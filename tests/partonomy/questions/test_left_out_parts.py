"""A part that is annotated but has no usable mask is visible: no right answer denies it, no wrong answer is true."""

import json
from pathlib import Path
from typing import Any

import pytest

from partonomy.__main__ import main
from partonomy.datasets.curation.prune import prune_dataset
from partonomy.datasets.sources.coco import read_coco
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.questions.image_questions import SkipReason
from partonomy.structures import UNNAMED_PART
from tests.partonomy.datasets.coco_file import CocoFile

PARTS = ("body", "handle", "lid", "spout", "base")
NUM_IMAGES = 12
BROKEN = [[1, 2, 3, 4]]
QUICK = ("--embedding_model", "char-ngram-tfidf", "--question_types", "identification,positive,negative")


@pytest.fixture
def coco(tmp_path: Path) -> CocoFile:
    """Kettles and pots with all five parts in every image; what the tests break is the handle of every third image."""
    folder = tmp_path / "source"
    folder.mkdir()
    file = CocoFile(folder)
    for image_id in range(NUM_IMAGES):
        file.add_image(image_id)
        label = ("kettle", "pot")[image_id % 2]
        owner = file.add(label, (0, 0, 30, 20), image_id)
        for place, part in enumerate(PARTS[: 5 if label == "kettle" else 4]):
            file.add(f"{label}:{part}", (5 * place, 2, 4, 4), image_id, obj_ann_id=owner)
    return file


def handles(coco: CocoFile) -> list[dict[str, Any]]:
    names = {record["id"]: record["name"] for record in coco.categories}
    return [
        one for one in coco.annotations if names[one["category_id"]].endswith(":handle") and one["image_id"] % 3 == 0
    ]


def build(coco: CocoFile, output: Path, *flags: str) -> None:
    config = coco.config()
    places = ["--annotations", str(config.annotations), "--images", str(config.images)]
    assert main(["build", "--source", "coco", *places, *QUICK, *flags, "--output", str(output)]) == 0


def check_questions(folder: Path, unaskable: set[int]) -> None:
    """Every right identification names the true parts; nobody asks about the images in `unaskable`."""
    questions = load_questions(folder).questions
    assert questions
    assert not unaskable & {question.image_id for question in questions}
    for question in questions:
        true = set(PARTS[: 5 if question.image_id % 2 == 0 else 4])
        listed = [set(choice.parts) for choice in question.choices if not choice.is_correct]
        if question.question_type.value == "identification":
            assert set(question.correct_choice.parts) == true
            assert true not in listed


@pytest.mark.parametrize("mutation", ["balanced", "paper", "authors"])
def test_the_mask_of_a_crowd_part_is_used(coco: CocoFile, tmp_path: Path, mutation: str) -> None:
    for record in handles(coco):
        record["iscrowd"] = 1
    build(coco, tmp_path / "set", "--mutation", mutation)
    check_questions(tmp_path / "set", set())
    assert {question.image_id for question in load_questions(tmp_path / "set").questions} == set(range(NUM_IMAGES))


@pytest.mark.parametrize(
    "damage", [{"segmentation": BROKEN}, {"segmentation": []}, {"category_id": 999}, {"obj_ann_id": 999}]
)
@pytest.mark.parametrize("mutation", ["balanced", "paper"])
def test_an_object_with_a_broken_part_is_not_asked_about(
    coco: CocoFile, tmp_path: Path, damage: dict[str, Any], mutation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for record in handles(coco):
        record.update(damage)
    unaskable = set(range(0, NUM_IMAGES, 3))
    build(coco, tmp_path / "set", "--invalid", "collect", "--mutation", mutation)
    check_questions(tmp_path / "set", unaskable)
    assert f"identification, 4 images: {SkipReason.LEFT_OUT}" in capsys.readouterr().out
    # The folder remembers it: by the road of a data set, too.
    again = ["--source", "dataset", "--images", str(tmp_path / "set"), "--mutation", mutation]
    assert main(["build", *again, *QUICK, "--output", str(tmp_path / "again")]) == 0
    check_questions(tmp_path / "again", unaskable)


def test_merge_and_split_remember_left_out_parts(coco: CocoFile, tmp_path: Path) -> None:
    for record in handles(coco):
        record["segmentation"] = BROKEN
    build(coco, tmp_path / "set", "--invalid", "collect", "--name", "one")
    build(coco, tmp_path / "other", "--invalid", "collect", "--name", "two")
    renames = tmp_path / "names.json"
    renames.write_text(json.dumps({"handle": "grip"}))
    both = [str(tmp_path / "set"), str(tmp_path / "other")]
    flags = ["--output", str(tmp_path / "merged"), "--name_map", str(renames)]
    assert main(["merge", *both, *flags]) == 0
    left_out = {
        (image.image_id - 1) % NUM_IMAGES: one.left_out_parts
        for image in load_dataset(tmp_path / "merged").images
        for one in image.objects
        if one.left_out_parts
    }
    assert left_out == dict.fromkeys(range(0, NUM_IMAGES, 3), ("grip",))


def test_an_object_keeps_its_questions_if_another_one_is_broken(coco: CocoFile) -> None:
    second = coco.add("pot", (0, 10, 30, 10), 0)
    coco.add("pot:lid", (1, 12, 4, 4), 0, obj_ann_id=second)
    coco.add("pot:body", (8, 12, 4, 4), 0, obj_ann_id=second, segmentation=BROKEN)
    kettle, pot = read_coco(coco.config(invalid="collect")).dataset.images[0].objects
    assert (kettle.left_out_parts, pot.left_out_parts) == ((), ("body",))


def test_an_object_that_was_left_out_makes_the_others_ambiguous(coco: CocoFile) -> None:
    coco.add("pot", (0, 10, 30, 10), 0, segmentation=BROKEN)
    coco.add("kettle", (0, 10, 30, 10), 2, segmentation=BROKEN)
    images = read_coco(coco.config(invalid="collect")).dataset.images
    assert [image.has_other_objects for image in images[:4]] == [True, False, True, False]
    assert [image.objects[0].box is not None for image in images[:4]] == [False, False, True, False]


def test_parts_that_were_pruned_are_still_visible(coco: CocoFile) -> None:
    names = {record["id"]: record["name"] for record in coco.categories}
    kept = {one["id"] for one in coco.annotations if names[one["category_id"]] == "kettle:handle"}
    drop = sorted(kept)[1:]  # one handle of a kettle is left, those of pots stay
    coco.annotations = [one for one in coco.annotations if one["id"] not in drop]
    dataset = read_coco(coco.config()).dataset
    by_pair = prune_dataset(dataset, 2, "object_part").dataset.images[0].objects[0]
    assert by_pair.left_out_parts == ("handle",), "pots still have handles"
    by_label = prune_dataset(dataset, 7, "part").dataset.images[0].objects[0]
    assert by_label.left_out_parts == (UNNAMED_PART,), "no choice names a label that is gone"
