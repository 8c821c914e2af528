"""`python -m partonomy blind`: the tables, the formats, the JSON."""

import csv
import io
import json
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from partonomy.structures import QuestionType
from tests.partonomy.tiny_world import make_vehicles

KINDS = (QuestionType.IDENTIFICATION, QuestionType.PART_TO_WHOLE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "set"
    config = QuestionBuildConfig(mutation=MutationMode.PAPER, question_types=KINDS, embedding_model="char-ngram-tfidf")
    build_questions(make_vehicles(folder / "images", 24), config, folder)
    return folder


def test_tables_and_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "blind.json"
    assert main(["blind", str(folder), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert f"[{folder} (paper)]" in printed
    for line in (
        "identification ",
        "part_to_whole (object) ",
        "all types ",
        "central choice ",
        "position 5 ",
        "learned ",
    ):
        assert f"\n{line}" in printed, line
    assert "1 part" in printed
    (content,) = json.loads(output.read_text())
    result = next(
        row for row in content["results"] if (row["question_type"], row["subject"]) == ("identification", "parts")
    )
    assert result["chance"]["accuracy"]["value"] == pytest.approx(0.2)
    assert result["chance"]["accuracy"]["count"] == 24
    central = next(score for score in result["scores"] if score["rule"] == "central choice")
    assert central["accuracy"]["low"] <= central["accuracy"]["value"] <= central["accuracy"]["high"]
    assert sum(group["count"] for group in central["by_size"]) == 24


def test_several_sets_and_formats(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "qa_pairs.json"
    assert main(["export", "--questions", str(folder), "--output", str(records)]) == 0
    capsys.readouterr()
    assert main(["blind", str(folder), str(records), "--format", "csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out.split("\n\n")[0])))
    accuracies = [row[2:] for row in rows if row[1].startswith(str(folder))]
    assert len(accuracies) == 4, "two types, both together, and one object question"
    # The published form of the same questions has the same choices and image numbers, so the same numbers.
    assert [row[2:] for row in rows if row[1] == str(records)] == accuracies


def test_wrong_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blind", str(folder), "--format", "yaml"]) == 1
    assert "unknown table format 'yaml'" in capsys.readouterr().err
    assert main(["blind", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    assert main(["blind", str(empty)]) == 1
    assert "there are no questions to guess" in capsys.readouterr().err
