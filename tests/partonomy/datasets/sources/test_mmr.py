"""MMR's published JSON, read and written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partonomy.datasets.sources.mmr import Granularity, MmrImage, MmrTarget, mmr_file, read_mmr, write_mmr
from partonomy.masks import decode_mask, rle_to_json
from tests.partonomy.datasets.mmr_file import HEIGHT, WIDTH, annotation, box, mmr_record, rle, write_records


def test_a_published_record_is_read(tmp_path: Path) -> None:
    write_records(tmp_path, mmr_record())
    (image,) = read_mmr(mmr_file(tmp_path, "val"))
    assert (image.image_id, image.file_name) == ("9", "train2017/000000000009.jpg")
    assert (image.height, image.width) == (HEIGHT, WIDTH)
    first, second = image.questions
    assert [first.question_id, second.question_id] == ["9:0", "9:1"]
    assert first.question == "What cuts bread, and where would you hold it?"
    assert first.text_answer == "The knife {seg} cuts bread; hold it by the knife's handle {seg}."
    assert [target.category_name for target in first.targets] == ["knife", "knife:handle"]
    assert [target.granularity for target in first.targets] == [Granularity.OBJECT, Granularity.PART]
    assert np.array_equal(decode_mask(first.targets[1].mask), box(2, 2, 4, 4))
    assert (first.num_marks, second.num_marks) == (2, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trash_can", Granularity.OBJECT),
        ("mouse_(computer_equipment)", Granularity.OBJECT),
        ("trash_can:wheel", Granularity.PART),
        ("bottle_1's inner_body", Granularity.PART),
        ("laptop computer’s screen", Granularity.PART),
        ("handle of the knife", Granularity.PART),
        ("airplanes--attack--part:nose", Granularity.PART),
    ],
)
def test_names_say_what_a_target_is(tmp_path: Path, name: str, expected: Granularity) -> None:
    target = annotation(name, rle(0, 0, 2, 2))
    path = write_records(tmp_path, mmr_record(answers=[[target], [target]]))
    assert read_mmr(path)[0].questions[0].targets[0].granularity is expected


def test_what_the_file_says_goes_before_the_name(tmp_path: Path) -> None:
    target = annotation("wheel", rle(0, 0, 2, 2), granularity="part")
    path = write_records(tmp_path, mmr_record(answers=[[target], []]))
    first, second = read_mmr(path)[0].questions
    assert first.targets[0].granularity is Granularity.PART
    assert second.targets == ()


def test_several_codes_of_a_target_are_united(tmp_path: Path) -> None:
    both = [rle_to_json(rle(0, 0, 4, 4)), rle_to_json(rle(2, 2, 4, 4))]
    path = write_records(tmp_path, mmr_record(answers=[[annotation("knife", rle(0, 0, 1, 1), segmentation=both)], []]))
    (target,) = read_mmr(path)[0].questions[0].targets
    assert np.array_equal(decode_mask(target.mask), box(0, 0, 4, 4) | box(2, 2, 4, 4))
    assert target.num_codes == 2
    (other,) = (
        read_mmr(write_records(tmp_path, mmr_record(answers=[[annotation("knife", rle(0, 0, 1, 1))], []])))[0]
        .questions[0]
        .targets
    )
    assert other.num_codes == 1


def test_a_second_record_of_an_image_has_other_question_ids(tmp_path: Path) -> None:
    images = read_mmr(write_records(tmp_path, mmr_record(), mmr_record()))
    ids = [question.question_id for image in images for question in image.questions]
    assert ids == ["9:0", "9:1", "9:2", "9:3"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    published = read_mmr(write_records(tmp_path, mmr_record(), mmr_record(image_id="a/1", text_answers=["", "{seg}"])))
    # a name that says nothing keeps what is known of it
    loose = MmrTarget("wheel", rle(3, 3, 2, 2), Granularity.PART)
    named = dataclasses.replace(published[1].questions[0], targets=(loose,))
    images = (published[0], dataclasses.replace(published[1], questions=(named, *published[1].questions[1:])))
    write_mmr(iter(images), tmp_path / "new" / "MMR_train.json")
    assert read_mmr(tmp_path / "new" / "MMR_train.json") == images
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "MMR_train.json"]


def test_the_written_form_is_the_published_one(tmp_path: Path) -> None:
    """What M2SA's loader takes from a record, as it takes it."""
    images = read_mmr(write_records(tmp_path, mmr_record()))
    write_mmr(images, tmp_path / "out.json")
    (record,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert set(record) == set(mmr_record())
    assert record["image_id"] == 9
    assert [len(answer) for answer in record["answers"]] == [2, 1]
    for answer, words in zip(record["answers"], record["text_answers"], strict=True):
        assert words.count("{seg}") == len(answer)
        for target in answer:
            assert target["segmentation"]["size"] == [HEIGHT, WIDTH]
            assert isinstance(target["segmentation"]["counts"], str)
    assert [target["bbox"] for target in record["annotations"]] == [[2, 2, 10, 4], [2, 2, 4, 4], [2, 2, 4, 4]]
    assert [target["category_id"] for target in record["annotations"]] == [1, 2, 2]


def test_no_record_is_written_as_an_empty_list(tmp_path: Path) -> None:
    nothing: tuple[MmrImage, ...] = ()
    write_mmr(nothing, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == []
    with pytest.raises(ValueError, match="no image record"):
        read_mmr(tmp_path / "out.json")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": None}, r"\(image None\): image_id must be a non-empty string"),
        ({"height": "12"}, "height and width must be integers"),
        ({"file_name": "../secret.jpg"}, "leaves the image folder"),
        ({"questions": ["one"]}, "have 1, 2, 2 entries"),
        ({"questions": ["  ", "two"]}, "question 0: the question is empty"),
        ({"answers": [annotation("knife", rle(0, 0, 1, 1)), []]}, "question 0: its entry of 'answers' must be a list"),
        ({"answers": [[], [{"category_name": "knife"}]]}, "question 1: target 0: the key 'segmentation' is missing"),
        ({"answers": [[], [annotation("()_", rle(0, 0, 1, 1))]], "x": 0}, None),
        ({"answers": [[], [annotation("knife:", rle(0, 0, 1, 1))]]}, "question 1: target 0: the name '' is empty"),
        (
            {"answers": [[annotation("knife", rle(0, 0, 1, 1), granularity="thing")], []]},
            "question 0: target 0: 'thing' is not a valid Granularity",
        ),
        (
            {"answers": [[annotation("knife", rle(0, 0, 1, 1), segmentation={"size": [4, 4], "counts": "04"})], []]},
            "target 0: its segmentation: the mask is 4 x 4",
        ),
        ({"text_answers": [None, "x"]}, "question 0: the text answer must be a non-empty string"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, changes: dict[str, Any], reason: str | None) -> None:
    path = write_records(tmp_path, mmr_record(image_id=1), mmr_record(**changes))
    if reason is None:  # odd, but a name
        assert read_mmr(path)
        return
    with pytest.raises(ValueError, match=reason) as caught:
        read_mmr(path)
    assert str(caught.value).startswith(f"{path}, record 1 (image ")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"record 0 \(image 5\): "):
        read_mmr(write_records(tmp_path, 5))
    path = tmp_path / "object.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"object.json: not valid JSON, the list: expected \[, found \{"):
        read_mmr(path)
    with pytest.raises(FileNotFoundError, match=r"MMR_train\.json: annotation file not found"):
        read_mmr(mmr_file(tmp_path, "train"))
