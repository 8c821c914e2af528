"""The project's own form: round trips, ids, lazily parsed questions, bad files."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from partonomy.datasets.store import (
    ANNOTATIONS_FILE,
    BUILD_FILE,
    DATASET_FILE,
    QUESTIONS_FILE,
    DatasetOrigin,
    load_dataset,
    load_questions,
    number_annotations,
    save_dataset,
    write_questions,
)
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from partonomy.structures import QuestionSet, QuestionType
from tests.partonomy.tiny_world import draw_part, make_dataset, make_image, make_instance, make_vehicles

ORIGIN = DatasetOrigin("test", seed=5, settings={"split": "val"})
CONFIG = QuestionBuildConfig(embedding_model="char-ngram-tfidf")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "set"
    build_questions(make_vehicles(folder / "images"), CONFIG, folder)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A built data set to damage, without the hashes that would refuse every damage (tests/.../test_seal.py)."""
    folder = Path(shutil.copytree(built, tmp_path / "set"))
    content = json.loads((folder / BUILD_FILE).read_text())
    del content["files"]
    (folder / BUILD_FILE).write_text(json.dumps(content))
    return folder


def edit_line(folder: Path, number: int, **changes: object) -> None:
    """Change top-level keys of one question; a value of None removes the key."""
    lines = (folder / QUESTIONS_FILE).read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[number]) | changes
    lines[number] = json.dumps({key: value for key, value in record.items() if value is not None})
    (folder / QUESTIONS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_annotations_round_trip(tmp_path: Path) -> None:
    second = replace(make_instance(2, "jet", ("wing",), "fast", box=(1, 2, 3, 4)), mask=draw_part(6))
    dataset = make_dataset(
        tmp_path / "out" / "images",
        [make_image(7, make_instance(1, "biplane", ("tail fin", "wing")), second), make_image(9)],
    )
    saved = save_dataset(dataset, tmp_path / "out", ORIGIN)
    assert load_dataset(tmp_path / "out") == saved
    # Instance, two parts, instance, one part: numbered from 1 in file order.
    assert [one.instance_id for one in saved.images[0].objects] == [1, 4]
    assert [part.annotation_ids for one in saved.images[0].objects for part in one.parts] == [(2,), (3,), (5,)]
    assert number_annotations(saved) is saved
    description = json.loads((tmp_path / "out" / DATASET_FILE).read_text())
    assert (description["image_root"], description["seed"], description["source"]) == ("images", 5, "test")


def test_annotations_written_record_by_record_are_one_json_value(folder: Path) -> None:
    text = (folder / ANNOTATIONS_FILE).read_text(encoding="utf-8")
    content = json.loads(text)
    assert list(content) == ["images", "categories", "annotations"]
    assert len(content["images"]) == 24
    assert text == json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def test_images_elsewhere_are_found_again(tmp_path: Path) -> None:
    dataset = make_vehicles(tmp_path / "photos", 3)
    save_dataset(dataset, tmp_path / "out", ORIGIN)
    assert load_dataset(tmp_path / "out").image_root == (tmp_path / "photos").resolve()


def test_questions_round_trip_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    loaded = load_questions(folder)
    assert len(loaded.questions) > 100
    save_dataset(load_dataset(folder), tmp_path / "copy", ORIGIN)
    assert write_questions(loaded.questions, tmp_path / "copy") == len(loaded.questions)
    assert (tmp_path / "copy" / QUESTIONS_FILE).read_bytes() == (folder / QUESTIONS_FILE).read_bytes()
    assert (tmp_path / "copy" / ANNOTATIONS_FILE).read_bytes() == (folder / ANNOTATIONS_FILE).read_bytes()


def test_stored_questions_are_a_sequence(folder: Path) -> None:
    questions = load_questions(folder).questions
    everything = list(questions)
    assert questions[3] == everything[3]
    assert list(questions[5:8]) == everything[5:8]
    assert questions[-1] == everything[-1]
    with pytest.raises(IndexError):
        questions[len(questions)]


def test_content_hash_follows_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = load_questions(folder).content_hash
    folder.rename(tmp_path / "moved")
    assert load_questions(tmp_path / "moved").content_hash == before
    edit_line(tmp_path / "moved", 0, question="Which parts?")
    assert load_questions(tmp_path / "moved").content_hash != before


def assert_one_invalid(folder: Path, reason: str, question_type: QuestionType | None) -> QuestionSet:
    """Strict loading names file and record 1; tolerant loading lists it and keeps the others."""
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        load_questions(folder)
    assert "questions.jsonl, record 1 (line 2)" in str(caught.value)
    loaded = load_questions(folder, invalid="collect")
    num_lines = len((folder / QUESTIONS_FILE).read_text().splitlines())
    assert len(loaded.questions) == num_lines - len(loaded.invalid)
    assert loaded.invalid[0].record_index == 1
    assert loaded.invalid[0].question_type is question_type
    assert reason in loaded.invalid[0].reason
    return loaded


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask_ids": [1]}, "annotation 1 is not a part of instance"),
        ({"mask_ids": []}, "the correct answer's parts are"),
        ({"image_id": 999}, "image 999 is not in the annotations"),
        ({"instance_id": 999}, "instance 999 is not an annotated object"),
        ({"question": None}, "missing required field `question`"),
        ({"choices": []}, "0 choices are marked correct"),
        ({"question_id": "1:identification"}, "occurs twice"),
        ({"choices": 5}, "Expected `array`, got `int` - at `$.choices`"),
        ({"question": ["Which?"]}, "Expected `str`, got `array` - at `$.question`"),
        ({"question_id": 7}, "Expected `str`, got `int` - at `$.question_id`"),
        ({"question_id": ""}, "Expected `str` of length >= 1 - at `$.question_id`"),
        ({"mask_ids": [True]}, "Expected `int`, got `bool` - at `$.mask_ids[0]`"),
        ({"box": [0, 0, 5]}, "Expected `array` of length 4 - at `$.box`"),
        ({"box": [0, 0, 5, float("nan")]}, "JSON is malformed"),
        ({"box": [0, 0, 5, 1.5]}, "Expected `int`, got `float` - at `$.box[3]`"),
        ({"box": [-1, 0, 5, 5]}, "Expected `int` >= 0 - at `$.box[0]`"),
        ({"object_question": {"question": "What?", "choices": []}}, "has no object question"),
    ],
)
def test_a_bad_question_is_named_or_collected(folder: Path, changes: dict[str, object], reason: str) -> None:
    edit_line(folder, 1, **changes)
    loaded = assert_one_invalid(folder, reason, QuestionType.IDENTIFICATION_WITH_LABEL)
    assert len(loaded.invalid) == 1


@pytest.mark.parametrize("line", [b"\xff{}", b"[]", b"[" * 100_000, b"", b"NaN"])
def test_a_line_that_is_no_question(folder: Path, line: bytes) -> None:
    path = folder / QUESTIONS_FILE
    first, _, *others = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line, *others]) + b"\n")
    with pytest.raises(ValueError, match=r"questions\.jsonl, record 1 \(line 2\): "):
        load_questions(folder)
    loaded = load_questions(folder, invalid="collect")
    assert [row.record_index for row in loaded.invalid] == [1]
    assert len(loaded.questions) == 1 + len(others)


@pytest.mark.parametrize(
    ("key", "number", "changes", "reason"),
    [
        ("images", 1, {"id": 1}, "image 1: the id 1 occurs twice"),
        (
            "images",
            0,
            {"height": 10**9, "width": 10**9},
            "image 1: the image size is invalid: 1000000000 x 1000000000",
        ),
        ("images", 0, {"file_name": "../1.png"}, "image 1: 'file_name' '../1.png' leaves the image folder"),
        ("categories", 0, {"supercategory": "THING"}, "'supercategory' must be OBJECT or PART"),
        ("annotations", 1, {"id": 1}, "annotation 1: the id 1 occurs twice"),
        ("annotations", 1, {"image_id": 2}, r"not annotated in their image, obj_ann_id 1$"),
        ("annotations", 1, {"category_id": 99}, "annotation 2: category 99 does not exist"),
        ("annotations", 0, {"marked_box": "abcd"}, "annotation 1: 'marked_box' must be"),
    ],
)
def test_annotations_are_checked(folder: Path, key: str, number: int, changes: dict[str, object], reason: str) -> None:
    content = json.loads((folder / ANNOTATIONS_FILE).read_text())
    content[key][number] |= changes
    (folder / ANNOTATIONS_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=reason) as caught:
        load_dataset(folder)
    assert str(caught.value).startswith(str(folder / ANNOTATIONS_FILE))


def test_an_unknown_type_has_no_type_in_the_list(folder: Path) -> None:
    edit_line(folder, 1, question_type="riddle")
    assert_one_invalid(folder, "Invalid enum value 'riddle' - at `$.question_type`", None)


def test_a_span_that_is_not_its_phrase(folder: Path) -> None:
    record = json.loads((folder / QUESTIONS_FILE).read_text().splitlines()[1])
    record["choices"][2]["spans"][0] = [0, 3]
    edit_line(folder, 1, choices=record["choices"])
    assert_one_invalid(folder, "is not found at characters 0 to 3", QuestionType.IDENTIFICATION_WITH_LABEL)


def test_a_missing_image_fails_all_its_questions(folder: Path) -> None:
    (folder / "images" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"record 0 .*1\.png does not exist"):
        load_questions(folder)
    loaded = load_questions(folder, invalid="collect")
    assert len(loaded.invalid) >= 4
    assert all(row.question_id.startswith("1:") for row in loaded.invalid)


def test_broken_structure_always_raises(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        load_questions(tmp_path / "nowhere")
    (folder / ANNOTATIONS_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"annotations\.json: not valid JSON"):
        load_questions(folder, invalid="collect")
    (folder / DATASET_FILE).write_text('{"format": "something"}')
    with pytest.raises(ValueError, match="expected format"):
        load_dataset(folder)


def test_a_mask_of_another_size_names_the_annotation(folder: Path) -> None:
    content = json.loads((folder / ANNOTATIONS_FILE).read_text())
    content["annotations"][1]["segmentation"]["size"] = [20, 16]
    (folder / ANNOTATIONS_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotation 2: segmentation: the mask is 20 x 16"):
        load_dataset(folder)


def test_a_part_without_its_object(folder: Path) -> None:
    content = json.loads((folder / ANNOTATIONS_FILE).read_text())
    content["annotations"] = content["annotations"][1:]
    (folder / ANNOTATIONS_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="objects that are not annotated"):
        load_dataset(folder)
