import json
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.datasets.published_records import read_records as read_published
from validate_partonomy import main as validate


def run(model: str, questions: Path, output: Path) -> Path:
    validate(["--model", model, "--questions", str(questions), "--output", str(output)])
    return output


def export(run_folder: Path, output: Path, *flags: str) -> int:
    return main(["export-predictions", str(run_folder), "--output", str(output), *flags])


def test_oracle_predictions_are_the_published_truth(question_file: Path, tmp_path: Path) -> None:
    folder = run("oracle", question_file, tmp_path / "run")
    target = tmp_path / "elsewhere" / "predictions.json"
    assert export(folder, target) == 0
    published, predictions = json.loads(question_file.read_text()), json.loads(target.read_text())
    assert len(predictions) == len(published) == 40
    for given, entry in zip(published, predictions, strict=True):
        correct = given["answer_types"].index("correct")
        assert {key: entry[key] for key in given if key != "image_path"} == {
            key: value for key, value in given.items() if key != "image_path"
        }
        assert entry["predicted_answer"] == given["answer_choices"][correct]
        assert entry["predicted_segmentations"] == {
            label: given["segmentations"][label] for label in given["answer_parts"][correct]
        }
        assert (entry["status"], entry["reason"]) == ("scored", "")
        is_generated = given["question_type"] == "identification_with_label"
        assert entry["generated_text"] == (entry["predicted_answer"] if is_generated else None)
        assert entry["generated_segmentations"] == (entry["predicted_segmentations"] if is_generated else None)
        assert (entry["predicted_object_answer"] is None) == (given["object_question"] is None)
    with pytest.raises(ValueError, match="record 0: 'image_path' '../image0.png' leaves the image folder"):
        read_published(target, "raise")
    beside = question_file.with_name("predictions.json")
    assert export(folder, beside) == 0
    records, bad = read_published(beside, "raise")  # it is itself a published record file that finds its images
    assert (len(records), bad) == (40, ())


def test_predictions_of_a_folder_name_what_they_leave_out(
    question_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "--questions", str(question_file), "--output", str(tmp_path / "set")]) == 0
    path = tmp_path / "set" / "questions.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text(first.replace('"is_correct":true', '"is_correct":false') + "".join(others))
    build = json.loads((tmp_path / "set" / "build.json").read_text())
    del build["files"]  # as by an earlier version, without the hashes that would refuse the folder
    (tmp_path / "set" / "build.json").write_text(json.dumps(build))
    folder = run("empty", tmp_path / "set", tmp_path / "run")
    assert export(folder, tmp_path / "predictions.json") == 0
    printed = capsys.readouterr().out
    assert "predictions for 39 questions" in printed
    assert "1 records have no prediction" in printed
    assert {len(entry["segmentations"]) for entry in json.loads((tmp_path / "predictions.json").read_text())} == {4}


def test_predictions_need_the_questions_of_the_run(
    question_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("oracle", question_file, tmp_path / "run")
    assert export(folder, tmp_path / "predictions.txt") == 1
    assert export(folder, question_file) == 1
    assert "already exists" in capsys.readouterr().err
    question_file.write_text(question_file.read_text() + "\n")
    assert export(folder, tmp_path / "predictions.json") == 1
    assert f"{question_file} has changed since the run" in capsys.readouterr().err
    assert not (tmp_path / "predictions.json").exists()
