"""Published records keep what the own form has no place for: import, export and predictions lose no value."""

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partonomy.__main__ import main
from partonomy.datasets.kept_values import KEPT_FILE, is_same_json
from partonomy.datasets.record_exchange import export_records, import_records, sidecar_path
from partonomy.datasets.store import BUILD_FILE, load_questions
from partonomy.masks import rle_area, rle_to_json, union_masks
from tests.partonomy.datasets.published_records import PART_WHOLE, RECORD, WHEEL, change, write_records
from tests.partonomy.tiny_world import HEIGHT, WIDTH, draw_part
from validate_partonomy import main as validate

OBJECT_KEYS = ("object_question", "object_answer_choices", "object_answer_types", "object_answer_classes")
OPERATIONS = [[], [{"operation": "remove", "part": "wheel"}, {"operation": "add", "part": "bucket"}]]
NAMES = ("wheel", "front wheel", "bucket", "räder", "車輪", "cab (left)", "Wheel arch")


def same_records(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert set(one) == set(other)
        assert [key for key in one if not is_same_json(one[key], other[key])] == []


def read(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return content


def record_of(names: list[str], wrong: list[str], segmentations: Mapping[str, object], **more: object) -> Any:
    """A record whose texts list the names in their order; `answer_parts` may be given in another one."""
    start = "The wheel loader in the image has the following visible parts: "
    return change(
        answer_choices=[f"{start}{', '.join(names)}.", f"{start}{', '.join(wrong)}."],
        answer_parts=[names, wrong],
        segmentations=segmentations,
        **more,
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
codes = st.one_of(
    st.integers(0, 9).map(lambda number: rle_to_json(draw_part(number))),
    st.just({"size": [HEIGHT, WIDTH], "counts": [30, 5, HEIGHT * WIDTH - 35]}),
    st.just(WHEEL),
    st.just({"segmentation": {"segmentation": WHEEL}, "score": 0.5}),
)


@st.composite
def any_record(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))
    shown = draw(st.permutations(names))
    labels = draw(st.permutations(sorted(set(names) | set(draw(st.sets(st.sampled_from(NAMES)))))))
    masks = {label: draw(st.lists(codes, min_size=1, max_size=3)) for label in labels}
    record: dict[str, Any] = record_of(list(shown), draw(st.lists(st.sampled_from(NAMES), min_size=1)), masks)
    record["answer_parts"][0] = names
    if draw(st.booleans()):
        record |= {
            key: value for key, value in PART_WHOLE.items() if key.startswith("object") or key == "question_type"
        }
    else:
        for key in draw(st.sets(st.sampled_from(OBJECT_KEYS))):
            del record[key]
    if draw(st.booleans()):
        record["image_path"] = "./images//a.png"
    unknown = st.text(min_size=1, max_size=4).filter(lambda key: key not in RECORD)
    return record | draw(st.dictionaries(unknown | st.just("answer_operations"), json_values, max_size=3))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(any_record(), min_size=1, max_size=4))
def test_every_value_survives_import_and_export(records: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = write_records(folder / "in", *records)
        import_records(path, folder / "set")
        again = folder / "in" / "again_qa_pairs.json"
        export_records(folder / "set", again)
        same_records(read(path), read(again))
        # A second round trip, this time with the annotations beside the records.
        import_records(again, folder / "second")
        export_records(folder / "second", folder / "in" / "second_qa_pairs.json")
        same_records(read(path), read(folder / "in" / "second_qa_pairs.json"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(any_record())
def test_the_kth_phrase_belongs_to_the_kth_mask(record: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = write_records(Path(place), record)
        (question,) = load_questions(path).questions
        choice = question.correct_choice
        phrases = [choice.text[span.start : span.end] for span in choice.part_spans]
        assert phrases == choice.text[choice.text.index(":") + 2 : -1].split(", ")
        assert list(choice.parts) == [part.label for part in question.masks] == phrases


def test_several_codes_are_scored_as_their_union_and_exported_one_by_one(tmp_path: Path) -> None:
    first, second = draw_part(1), draw_part(4)
    masks = {"wheel": [rle_to_json(first), rle_to_json(second)], "bucket": [rle_to_json(draw_part(7))]}
    path = write_records(tmp_path / "in", record_of(["wheel", "wheel"], ["bucket"], masks))
    import_records(path, tmp_path / "set")
    (question,) = load_questions(tmp_path / "set").questions
    union = rle_area(union_masks([first, second]))
    assert [rle_area(part.mask) for part in question.masks] == [union, union]
    export_records(tmp_path / "set", tmp_path / "out.json")
    assert read(tmp_path / "out.json")[0]["segmentations"] == masks


def test_import_names_once_what_no_question_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = RECORD | {"answer_operations": OPERATIONS, "difficulty": 1.0}
    path = write_records(tmp_path / "in", odd, odd, RECORD | {"difficulty": None})
    assert main(["import", "--questions", str(path), "--output", str(tmp_path / "set")]) == 0
    expected = [
        "keys without a meaning here, by number of records: 'answer_operations' (2), 'difficulty' (3)",
        "records whose 'answer_parts' do not follow the order of the text: 3",
        "records with parts of several codes: 3 (3 parts; each part is scored as the union of its codes)",
    ]
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if "kept for an export" in line] == [
        f"  kept for an export: {line}" for line in expected
    ]
    kept = json.loads((tmp_path / "set" / BUILD_FILE).read_text())["kept_values"]
    assert kept["keys"] == {"answer_operations": 2, "difficulty": 3}
    # The same codes are stored once.
    lines = [json.loads(line) for line in (tmp_path / "set" / KEPT_FILE).read_text().splitlines()]
    assert sum("question_id" not in line for line in lines) == 1
    assert main(["export", "--questions", str(tmp_path / "set"), "--output", str(tmp_path / "again.json")]) == 0
    assert "'answer_operations' (2)" in capsys.readouterr().out
    task = ["export-lmms-eval", str(tmp_path / "set"), "--output", str(tmp_path / "task")]
    assert main(task) == 0
    assert f"not written, because the tasks do not use it: {expected[0]}" in capsys.readouterr().out


def test_plain_records_keep_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = record_of(["wheel"], ["bucket"], {"wheel": [rle_to_json(draw_part(1))]})
    path = write_records(tmp_path / "in", plain)
    assert main(["import", "--questions", str(path), "--output", str(tmp_path / "set")]) == 0
    assert "kept" not in capsys.readouterr().out
    assert not (tmp_path / "set" / KEPT_FILE).exists()
    assert "kept_values" not in (tmp_path / "set" / BUILD_FILE).read_text()


def test_a_new_import_into_the_folder_forgets_the_old_values(tmp_path: Path) -> None:
    import_records(write_records(tmp_path / "in", RECORD | {"difficulty": 3}), tmp_path / "set")
    plain = record_of(["wheel"], ["bucket"], {"wheel": [rle_to_json(draw_part(1))]})
    import_records(write_records(tmp_path / "in", plain), tmp_path / "set")
    export_records(tmp_path / "set", tmp_path / "in" / "out.json")
    same_records(read(tmp_path / "in" / "out.json"), [plain])


def test_values_of_another_import_are_refused(tmp_path: Path) -> None:
    path = write_records(tmp_path / "in", RECORD | {"difficulty": 3})
    import_records(path, tmp_path / "set")
    kept = tmp_path / "set" / KEPT_FILE
    kept.write_text(kept.read_text().replace("3", "4"))
    with pytest.raises(ValueError, match=r"published\.jsonl: not the file that the import wrote; import the record"):
        export_records(tmp_path / "set", tmp_path / "out.json")
    kept.unlink()
    with pytest.raises(FileNotFoundError, match=r"published\.jsonl: not found; import the record file again"):
        export_records(tmp_path / "set", tmp_path / "out.json")


def test_edited_masks_and_parts_are_not_undone_by_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_records(write_records(tmp_path / "in", RECORD | {"difficulty": 3}), tmp_path / "set")
    annotations = tmp_path / "set" / "annotations.json"
    old, new = draw_part(7).counts, draw_part(8).counts
    assert json.dumps(old) in annotations.read_text()
    annotations.write_text(annotations.read_text().replace(json.dumps(old), json.dumps(new)))
    assert main(["seal", str(tmp_path / "set")]) == 0
    assert main(["export", "--questions", str(tmp_path / "set"), "--output", str(tmp_path / "in" / "out.json")]) == 0
    assert "edited since the import: all masks and parts are written as they are now" in capsys.readouterr().out
    (record,) = read(tmp_path / "in" / "out.json")
    assert record["segmentations"]["bucket"] == [{"size": [HEIGHT, WIDTH], "counts": new}]
    assert record["answer_parts"][0] == ["front wheel", "wheel"]
    assert record["difficulty"] == 3


def test_shards_keep_the_same_values(tmp_path: Path) -> None:
    other = copy.deepcopy(RECORD) | {"image_path": "images/b.png", "answer_operations": OPERATIONS}
    made = [RECORD | {"difficulty": 1}, other, PART_WHOLE | {"note": "ü\ud800"}, other, change(level=True)]
    path = write_records(tmp_path / "in", *made)
    shutil.copy(tmp_path / "in" / "images" / "a.png", tmp_path / "in" / "images" / "b.png")
    import_records(path, tmp_path / "whole")
    command = ["import", "--questions", str(path), "--output", str(tmp_path / "parts")]
    for number in (3, 1, 2):
        assert main([*command, "--shard", f"{number}/3"]) == 0
    assert main([*command, "--merge"]) == 0
    for name in (KEPT_FILE, BUILD_FILE):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    export_records(tmp_path / "parts", tmp_path / "in" / "out.json")
    same_records(read(tmp_path / "in" / "out.json"), made)


@pytest.mark.parametrize("is_folder", [True, False])
def test_predictions_repeat_the_record_key_by_key(tmp_path: Path, is_folder: bool) -> None:
    odd = RECORD | {"answer_operations": OPERATIONS, "status": "reviewed", "published_status": 2}
    path = write_records(tmp_path / "in", odd)
    questions = path
    if is_folder:
        questions = tmp_path / "set"
        import_records(path, questions)
    validate(["--model", "oracle", "--questions", str(questions), "--output", str(tmp_path / "run")])
    target = tmp_path / "in" / "predictions.json"
    assert main(["export-predictions", str(tmp_path / "run"), "--output", str(target)]) == 0
    (entry,) = read(target)
    for key, value in odd.items():
        assert is_same_json(entry["published_published_status" if key == "status" else key], value)
    assert entry["status"] == "scored"


def test_build_says_what_it_does_not_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = RECORD | {"image_label": "cars--crane"}
    path = write_records(tmp_path / "in", RECORD | {"answer_operations": OPERATIONS}, second)
    output = ["--output", str(tmp_path / "set"), "--embedding_model", "char-ngram-tfidf"]
    main(["build", "--source", "partonomy_core", "--annotations", str(path), *output])
    printed = capsys.readouterr().out
    assert "in core_qa_pairs.json, not used by new questions: keys without a meaning here" in printed
    assert "records with parts of several codes: 2 (2 parts; each part is scored as the union of its codes)" in printed


def test_an_image_elsewhere_gets_a_new_path(tmp_path: Path) -> None:
    path = write_records(tmp_path / "in", change(image_path="./images/a.png"))
    import_records(path, tmp_path / "set")
    export_records(tmp_path / "set", tmp_path / "other" / "out.json")
    assert read(tmp_path / "other" / "out.json")[0]["image_path"] == "../in/images/a.png"
    sidecar_path(tmp_path / "other" / "out.json").unlink()
    export_records(tmp_path / "set", tmp_path / "in" / "out.json")
    assert read(tmp_path / "in" / "out.json")[0]["image_path"] == "./images/a.png"


def test_one_word_for_two_parts(tmp_path: Path) -> None:
    """The compared object may have a single word for two parts; the order of the list tells them apart."""
    start = "The wheel loader in the image has the following visible parts in common with a truck: "
    record = change(
        question_type="positive",
        answer_choices=[f"{start}wheel, and wheel.", f"{start}rim."],
        answer_parts=[["bucket", "wheel"], ["rim"]],
    )
    (question,) = load_questions(write_records(tmp_path, record)).questions
    choice = question.correct_choice
    assert choice.parts == ("bucket", "wheel")
    assert [span.start for span in choice.part_spans] == [len(start), len(start) + len("wheel, and ")]
