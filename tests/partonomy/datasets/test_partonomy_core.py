"""The published record: reading, writing, bad records, and lossless exchange with the project's own form."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from partonomy.cli.data import import_questions
from partonomy.datasets.record_exchange import export_records, import_records, sidecar_path
from partonomy.datasets.store import ANNOTATIONS_FILE, DATASET_FILE, QUESTIONS_FILE, load_dataset, load_questions
from partonomy.masks import rle_area, rle_to_json
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from partonomy.questions.question_types import QuestionType
from partonomy.structures import CharSpan
from tests.partonomy.tiny_world import HEIGHT, WIDTH, draw_part, make_vehicles

WHEEL = {"size": [HEIGHT, WIDTH], "polygon": [2, 2, 6, 2, 6, 5, 2, 5]}  # 4 x 3 = 12 pixels
RECORD: dict[str, Any] = {
    "image_path": "images/a.png",
    "image_label": "cars--wheel loader",
    "question": "What visible parts does the wheel loader in the image have?",
    "question_type": "identification_with_label",
    "answer_choices": [
        "The wheel loader in the image has the following visible parts: front wheel, and wheel.",
        "The wheel loader in the image has the following visible parts: bucket.",
    ],
    "answer_types": ["correct", "incorrect"],
    "answer_parts": [["wheel", "front wheel"], ["bucket"]],
    "segmentations": {
        "wheel": [{"segmentation": WHEEL}],
        "front wheel": [rle_to_json(draw_part(1)), rle_to_json(draw_part(4))],
        "bucket": [rle_to_json(draw_part(7))],
    },
    "object_question": None,
    "object_answer_choices": None,
    "object_answer_types": None,
    "object_answer_classes": None,
}
PART_WHOLE: dict[str, Any] = RECORD | {
    "question_type": "part_to_whole",
    "object_question": "What is the object in the image?",
    "object_answer_choices": ["It is a crane.", "It is a wheel loader."],
    "object_answer_types": ["incorrect", "correct"],
    "object_answer_classes": ["cars--crane", "cars--wheel loader"],
}


def write_records(folder: Path, *records: object) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "a.png")
    path = folder / "core_qa_pairs.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


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


def change(**changes: object) -> dict[str, Any]:
    return copy.deepcopy(RECORD) | changes


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
        r"choice 0: the phrase 'wheel' has no occurrence of its own .* every name in 'answer_parts' must stand in its",
        QuestionType.IDENTIFICATION_WITH_LABEL,
    ),
    (
        change(answer_types=["correct", "correct"]),
        "2 choices are marked correct",
        QuestionType.IDENTIFICATION_WITH_LABEL,
    ),
    (change(answer_types=["correct"]), "one entry per choice", QuestionType.IDENTIFICATION_WITH_LABEL),
    (change(answer_types=["yes", "no"]), "'correct' or 'incorrect'", QuestionType.IDENTIFICATION_WITH_LABEL),
    (change(question=""), "'question' must be a text", QuestionType.IDENTIFICATION_WITH_LABEL),
    (change(question="\ud800"), "'question' is no valid Unicode text", QuestionType.IDENTIFICATION_WITH_LABEL),
    (change(answer_parts=["wheel", ["bucket"]]), "entry 0 of 'answer_parts' must be a list", None),
    (change(answer_choices=[["wheel"], "bucket"]), "choice 0 of 'answer_choices' must be a text", None),
    (change(image_path="../core_qa_pairs.json"), "'image_path' .* leaves the image folder", None),
    (change(image_path="/etc/passwd"), "'image_path' '/etc/passwd' leaves the image folder", None),
    (change(image_path="images/../../a.png"), "leaves the image folder", None),
    (change(image_path=7), "'image_path' must be a text, got 7", None),
    (change(segmentations={"wheel": [{"size": [10**9, 10**9], "counts": [10**18]}]}), "no image is", None),
    (change(question_type=["positive"]), "'question_type' must be a text", None),
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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "set"
    config = QuestionBuildConfig(embedding_model="char-ngram-tfidf")
    build_questions(make_vehicles(folder / "images", 12), config, folder)
    return folder


def test_own_form_to_records_and_back_loses_nothing(built: Path, tmp_path: Path) -> None:
    record_file = tmp_path / "published" / "val_qa_pairs.json"
    summary = export_records(built, record_file)
    records = json.loads(record_file.read_text())
    assert len(records) == summary.num_questions == len(load_questions(built).questions)
    assert all(set(record) == set(RECORD) for record in records)
    import_records(record_file, tmp_path / "again")
    for name in (ANNOTATIONS_FILE, QUESTIONS_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (built / name).read_bytes()
    first, second = (json.loads((folder / DATASET_FILE).read_text()) for folder in (built, tmp_path / "again"))
    first.pop("image_root")  # inside the first folder, absolute in the second
    second.pop("image_root")
    assert first == second
    assert list(load_questions(tmp_path / "again").questions) == list(load_questions(built).questions)
    assert load_questions(tmp_path / "again").skipped == load_questions(built).skipped


def test_records_alone_keep_every_question_and_mask(built: Path, tmp_path: Path) -> None:
    record_file = tmp_path / "val_qa_pairs.json"
    shutil.copytree(built, tmp_path / "set")  # a record file alone may only name images below its folder
    export_records(tmp_path / "set", record_file)
    sidecar_path(record_file).unlink()
    import_records(record_file, tmp_path / "again")
    export_records(tmp_path / "again", tmp_path / "second_qa_pairs.json")
    assert (tmp_path / "second_qa_pairs.json").read_bytes() == record_file.read_bytes()
    dataset = load_dataset(tmp_path / "again")
    assert sum(len(image.objects) for image in dataset.images) == 12
    direct = load_questions(record_file).questions
    for imported, read in zip(load_questions(tmp_path / "again").questions, direct, strict=True):
        assert imported.question_id == read.question_id
        assert imported.image_path.resolve() == read.image_path
        assert imported.choices == read.choices
        assert [part.mask for part in imported.masks] == [part.mask for part in read.masks]


def test_a_bad_record_does_not_shift_the_ids_of_the_others(built: Path, tmp_path: Path) -> None:
    record_file = tmp_path / "val_qa_pairs.json"
    shutil.copytree(built, tmp_path / "set")
    export_records(tmp_path / "set", record_file)
    (tmp_path / "set" / "images" / "1.png").unlink()
    summary = import_records(record_file, tmp_path / "again", invalid="collect")
    expected = [row for row in load_questions(built).questions if row.image_id != 1]
    assert len(summary.invalid) == len(load_questions(built).questions) - len(expected) > 0
    restored = load_questions(tmp_path / "again").questions
    assert [(row.question_id, row.masks) for row in restored] == [(row.question_id, row.masks) for row in expected]


def test_stale_annotations_beside_a_record_file_are_refused(built: Path, tmp_path: Path) -> None:
    record_file = tmp_path / "val_qa_pairs.json"
    export_records(built, record_file)
    records = json.loads(record_file.read_text())
    record_file.write_text(json.dumps(records[:3]))
    with pytest.raises(ValueError, match="belongs to another version"):
        import_records(record_file, tmp_path / "again")
    shutil.copytree(built, tmp_path / "set")
    inside = [record | {"image_path": f"set/images/{Path(record['image_path']).name}"} for record in records[:3]]
    record_file.write_text(json.dumps(inside))
    with pytest.raises(ValueError, match="belongs to another version"):
        import_records(record_file, tmp_path / "again")


def test_import_lists_the_records_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_records(tmp_path / "in", RECORD, change(question_type="riddle"), PART_WHOLE)
    with pytest.raises(ValueError, match="record 1"):
        import_questions(str(path), str(tmp_path / "out"))
    import_questions(str(path), str(tmp_path / "out"), invalid="collect")
    assert "record 1: 'riddle' is not a valid QuestionType" in capsys.readouterr().out
    build = json.loads((tmp_path / "out" / "build.json").read_text())
    assert [row["record_index"] for row in build["invalid_records"]] == [1]
    dataset = load_dataset(tmp_path / "out")
    (instance,) = dataset.images[0].objects  # both records are about one instance
    assert (instance.label, instance.category) == ("cars--wheel loader", "cars")
    import_questions(str(path), str(tmp_path / "out"), invalid="collect")
    assert "nothing to do" in capsys.readouterr().out
    # What was left out still counts as failed after an export and another import.
    export_records(tmp_path / "out", tmp_path / "exported.json")
    import_records(tmp_path / "exported.json", tmp_path / "again")
    first, again = (load_questions(tmp_path / name, invalid="collect").invalid for name in ("out", "again"))
    assert first == again
    assert [row.reason for row in again] == ["left out by the import: 'riddle' is not a valid QuestionType"]


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
        (in_common("bucket, and tyre"), "the part 'bucket' stands at another place"),
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
    with pytest.raises(ValueError, match=r"record 1: the masks are 20 x 16, those of an earlier record 16 x 20"):
        load_questions(path)


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
