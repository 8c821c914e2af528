"""The published record: reading, and bad records and files, which are named."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from partonomy.datasets.published_records import read_records
from partonomy.datasets.record_exchange import export_records, import_records
from partonomy.datasets.store import load_questions
from partonomy.masks import rle_area
from partonomy.structures import CharSpan, QuestionType
from tests.partonomy.datasets.published_records import PART_WHOLE, RECORD, WHEEL, change, write_records
from tests.partonomy.tiny_world import HEIGHT, WIDTH, draw_part


def test_a_record_is_read_key_by_key(tmp_path: Path) -> None:
    path = write_records(tmp_path, RECORD, PART_WHOLE)
    loaded = load_questions(path)
    first, second = loaded.questions
    assert loaded.name == "core_qa_pairs"
    assert first.question_type is QuestionType.IDENTIFICATION_WITH_LABEL
    assert first.image_path == tmp_path / "images" / "a.png"
    assert (first.image_id, first.instance_id, first.height, first.width) == (1, -1, HEIGHT, WIDTH)
    assert first.object_label == "cars--wheel loader"
    correct = first.correct_choice
    # Reading order, and neither the "wheel" of "wheel loader" nor that of "front wheel".
    assert correct.parts == ("front wheel", "wheel")
    assert [correct.text[span.start : span.end] for span in correct.part_spans] == ["front wheel", "wheel"]
    assert correct.part_spans[1] == CharSpan(correct.text.rindex("wheel"), len(correct.text) - 1)
    assert [part.label for part in first.masks] == ["front wheel", "wheel"]
    assert [rle_area(part.mask) for part in first.masks] == [rle_area(draw_part(1)) + rle_area(draw_part(4)), 12]
    assert second.image_id == 1
    assert second.object_question is not None
    assert second.object_question.correct_choice.label == "cars--wheel loader"


BAD_RECORDS: list[tuple[object, str, QuestionType | None]] = [
    (change(image_path="images/none.png"), r"none.png: image file not found", QuestionType.IDENTIFICATION_WITH_LABEL),
    (
        change(segmentations={"wheel": [{"size": [5, 5], "counts": [20, 5]}]}),
        "the image is 16 x 20",
        QuestionType.IDENTIFICATION_WITH_LABEL,
    ),
    (
        change(segmentations={**RECORD["segmentations"], "wheel": [{"size": [HEIGHT, WIDTH], "polygon": []}]}),
        "mask 0 of 'wheel': the polygon is empty",
        QuestionType.IDENTIFICATION_WITH_LABEL,
    ),
    (
        change(segmentations={**RECORD["segmentations"], "wheel": []}),
        "'wheel' has no mask",
        QuestionType.IDENTIFICATION_WITH_LABEL,
    ),
    (
        change(segmentations={"wheel": [WHEEL]}),
        "'front wheel' has no mask in 'segmentations'",
        QuestionType.IDENTIFICATION_WITH_LABEL,
    ),
    (change(question_type="riddle"), "'riddle' is not a valid QuestionType", None),
    (
        change(answer_choices=["It has a front wheel.", RECORD["answer_choices"][1]]),
        r"choice 0: the phrase 'wheel' has no occurrence of its own .* every name in 'answer_parts' must occur in its",
        QuestionType.IDENTIFICATION_WITH_LABEL,
    ),
    (
        change(answer_types=["correct", "correct"]),
        "2 choices are marked correct",
        QuestionType.IDENTIFICATION_WITH_LABEL,
    ),
    (change(answer_types=["correct"]), "one entry per choice", QuestionType.IDENTIFICATION_WITH_LABEL),
    (change(answer_types=["yes", "no"]), "'correct' or 'incorrect'", QuestionType.IDENTIFICATION_WITH_LABEL),
    (change(question=""), "'question' must be a non-empty string", QuestionType.IDENTIFICATION_WITH_LABEL),
    (change(question="\ud800"), "'question' is not valid Unicode text", QuestionType.IDENTIFICATION_WITH_LABEL),
    (change(answer_parts=["wheel", ["bucket"]]), "entry 0 of 'answer_parts' must be a list", None),
    (change(answer_choices=[["wheel"], "bucket"]), "choice 0 of 'answer_choices' must be a non-empty string", None),
    (change(image_path="../core_qa_pairs.json"), "'image_path' .* leaves the image folder", None),
    (change(image_path="/etc/passwd"), "'image_path' '/etc/passwd' leaves the image folder", None),
    (change(image_path="images/../../a.png"), "leaves the image folder", None),
    (change(image_path=7), "'image_path' must be a non-empty string, got 7", None),
    (
        change(segmentations={"wheel": [{"size": [10**9, 10**9], "counts": [10**18]}]}),
        "the image size is invalid",
        None,
    ),
    (change(question_type=["positive"]), "'question_type' must be a non-empty string", None),
    ({key: value for key, value in RECORD.items() if key != "answer_parts"}, "key 'answer_parts' is missing", None),
    ("no record", "expected a JSON object", None),
    (PART_WHOLE | {"object_answer_types": ["correct", "correct"]}, "2 object choices", QuestionType.PART_TO_WHOLE),
]


@pytest.mark.parametrize(("record", "reason", "question_type"), BAD_RECORDS)
def test_a_bad_record_is_named_or_collected(
    tmp_path: Path, record: object, reason: str, question_type: QuestionType | None
) -> None:
    path = write_records(tmp_path, RECORD, record, PART_WHOLE)
    with pytest.raises(ValueError, match=reason) as caught:
        load_questions(path)
    assert "core_qa_pairs.json, record 1: " in str(caught.value)
    loaded = load_questions(path, invalid="collect")
    assert [question.question_id for question in loaded.questions] == ["record-000000", "record-000002"]
    (bad,) = loaded.invalid
    assert (bad.record_index, bad.question_id) == (1, "record-000001")
    if question_type is not None:
        assert bad.question_type is question_type


def test_broken_files_always_raise(tmp_path: Path) -> None:
    path = write_records(tmp_path, RECORD)
    path.write_text('{"questions": []}')
    with pytest.raises(ValueError, match="a record file is a JSON list"):
        load_questions(path, invalid="collect")
    path.write_text("[{")
    with pytest.raises(ValueError, match="not a JSON file"):
        load_questions(path, invalid="collect")


def in_common(
    correct: str, question_type: str = "positive_with_label", parts: tuple[str, ...] = ("wheel", "bucket")
) -> Any:
    """A record about common parts, as the authors write it: the text may use the other object's word for a part."""
    start = "The wheel loader in the image has the following visible parts in common with a truck: "
    return change(
        question_type=question_type,
        answer_choices=[f"{start}{correct}.", f"{start}rim."],
        answer_parts=[list(parts), ["rim"]],
    )


def test_a_part_under_the_other_objects_name(tmp_path: Path) -> None:
    path = write_records(tmp_path, in_common("tyre, and tipper"))
    (question,) = load_questions(path).questions
    correct = question.correct_choice
    assert correct.parts == tuple(part.label for part in question.masks) == ("wheel", "bucket")
    assert [correct.text[span.start : span.end] for span in correct.part_spans] == ["tyre", "tipper"]
    import_records(path, tmp_path / "set")
    (imported,) = load_questions(tmp_path / "set").questions
    assert imported.choices == question.choices
    export_records(tmp_path / "set", tmp_path / "again_qa_pairs.json")
    assert load_questions(tmp_path / "again_qa_pairs.json").questions[0].choices == question.choices


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (in_common("tyre, and tipper", "negative_with_label"), "the phrase 'bucket' has no occurrence"),
        (in_common("tyre, tipper, and rim"), "has 3 entries, the answer 2"),
        (in_common("bucket, and tyre"), "the part 'bucket' has another position"),
    ],
)
def test_other_names_only_where_the_authors_write_them(tmp_path: Path, record: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"record 0: choice 0: .*{reason}"):
        load_questions(write_records(tmp_path, record))


def test_masks_of_one_image_have_one_size(tmp_path: Path) -> None:
    """A turned photograph fits its annotation both ways, but not both at once."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}
    other = change(segmentations={label: [turned] for label in RECORD["segmentations"]})
    path = write_records(tmp_path, RECORD, other)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png", exif=exif)
    with pytest.raises(
        ValueError, match=r"record 1: mask 0 of .* is 20 x 16, the masks of an earlier record .* 16 x 20"
    ):
        load_questions(path)


def test_the_image_says_which_of_two_sizes_is_wrong(tmp_path: Path) -> None:
    """A first record with masks of another size does not take the image's later records with it."""
    small = {label: [{"size": [5, 5], "counts": [20, 5]}] for label in RECORD["segmentations"]}
    path = write_records(tmp_path, change(segmentations=small), RECORD, RECORD)
    records, bad = read_records(path, "collect", needs_images=False)[:2]
    assert [record.question.question_id[-1] for record in records][1:] == ["1", "2"]
    assert not bad
    Image.new("RGB", (7, 7)).save(tmp_path / "images" / "a.png")
    bad = read_records(path, "collect", needs_images=False)[1]
    assert [row.question_id for row in bad] == ["record-000001", "record-000002"]


def test_links_to_images_elsewhere_are_followed(tmp_path: Path) -> None:
    path = write_records(tmp_path / "set", RECORD)
    (tmp_path / "set" / "images").rename(tmp_path / "disk")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "disk")
    assert load_questions(path).questions[0].image_path == tmp_path / "disk" / "a.png"


def test_a_key_that_occurs_twice_is_no_silent_loss(tmp_path: Path) -> None:
    path = write_records(tmp_path, RECORD)
    path.write_text(path.read_text().replace('"wheel": [', '"wheel": [], "wheel": [', 1))
    with pytest.raises(ValueError, match=r"core_qa_pairs\.json: not a JSON file \(the key 'wheel' occurs twice"):
        load_questions(path, invalid="collect")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[" + b"9" * 5000 + b"]", b"\xff", "[]".encode("utf-16")])
def test_files_that_no_parser_takes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "qa.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"qa\.json: not a JSON file"):
        load_questions(tmp_path / "qa.json", invalid="collect")


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = write_records(tmp_path, RECORD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_questions(path).questions) == 1
