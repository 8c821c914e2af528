"""Records of runs are read strictly: every damage is an error before any number is made of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from partonomy.harness.results import read_summary

from partonomy.benchmarks.partonomy.records import LINES_PER_BATCH, read_records, record_from_line, record_to_line
from partonomy.structures import QuestionType
from tests.partonomy.conftest import write_questions
from validate_partonomy import main as validate


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    questions = write_questions(folder, (QuestionType.IDENTIFICATION_WITH_LABEL,), num_images=1)
    validate(["--model", "oracle", "--questions", str(questions), "--output", str(folder / "run")])
    return folder / "run"


@pytest.fixture(scope="module")
def line(run_folder: Path) -> str:
    return (run_folder / "records.jsonl").read_text().splitlines()[0]


def test_a_record_survives_its_line(line: str) -> None:
    assert record_to_line(record_from_line(line)) == line


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data.pop("image_id"), "missing required field `image_id`"),
        (lambda data: data.update(image_id="1"), r"Expected `int`, got `str` - at `\$\.image_id`"),
        (lambda data: data.update(image_id=2**63), "no image has the id"),
        (lambda data: data.update(status="lost"), r"Invalid enum value \'lost\' - at `\$\.status`"),
        (lambda data: data.update(seconds=float("nan")), "JSON is malformed"),
        (lambda data: data.update(seconds=10**400), r"out of range - at `\$\.seconds`"),
        (lambda data: data["true_parts"][0].update(area=-1), "masks cannot have"),
        (lambda data: data["parts_choice"].update(correct_index=5), "there are 5 choices"),
        (lambda data: data["parts_choice"]["labels"].pop(), "another number of labels"),
        (lambda data: data["parts_choice"]["selection"].update(sequence=-1), "there are 5 choices"),
        (lambda data: data["segmentation"]["masks"][0].update(counts="P"), "predicted mask 0: 'counts' is not a"),
        (lambda data: data["segmentation"]["masks"][0].update(height=10**9), "predicted mask 0: "),
        (
            lambda data: data["segmentation"]["paired"][0].update(union="7"),
            r"got `str` - at `\$\.segmentation\.paired\[0\]\.union`",
        ),
    ],
)
def test_damage_is_named(line: str, damage: Callable[[dict[str, Any]], object], reason: str) -> None:
    data = json.loads(line)
    damage(data)
    with pytest.raises(ValueError, match=reason) as caught:
        record_from_line(json.dumps(data))
    assert "not a record of an evaluation" in str(caught.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "[" * 100_000, "{"])
def test_lines_that_are_no_record(text: str) -> None:
    with pytest.raises(ValueError, match="not a record of an evaluation"):
        record_from_line(text)


def test_texts_may_speak_of_infinity(line: str) -> None:
    data = json.loads(line)
    data["reason"] = "the loss is NaN or Infinity"
    assert record_from_line(json.dumps(data)).reason == data["reason"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("provenance"),
        lambda data: data.update(seconds_total="1"),
        lambda data: data["question_types"]["identification_with_label"].update(num_failed=7),
        lambda data: data["question_types"]["identification_with_label"]["metrics"]["parts_accuracy"].update(ci95=[0]),
        lambda data: data["question_types"].update(identification_with_label=[]),
    ],
)
def test_a_damaged_summary_names_its_file(
    run_folder: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], object]
) -> None:
    data = json.loads((run_folder / "summary.json").read_text())
    assert read_summary(run_folder / "summary.json").question_types
    damage(data)
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"summary\.json: not the summary of a validation"):
        read_summary(path)


def test_a_file_is_read_in_batches_as_line_by_line(run_folder: Path, tmp_path: Path) -> None:
    """More lines than a batch has; codes with a run of length 0 inside are right, if unusual."""
    lines = (run_folder / "records.jsonl").read_text().splitlines()
    data = json.loads(lines[0])
    data["segmentation"]["masks"][0] |= {"counts": encode_zero_run(data["segmentation"]["masks"][0])}
    lines = [*lines * 600, json.dumps(data)]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines) + "\n" + lines[0][:50])  # the last line was not written to its end
    records = read_records(path)
    assert len(lines) > 2 * LINES_PER_BATCH
    assert records == tuple(record_from_line(line) for line in lines)


def encode_zero_run(mask: dict[str, Any]) -> str:
    """All background, with a run of no pixels of the mask within it."""
    first = mask["height"] * mask["width"] - 1
    groups = []
    while first > 15:
        groups.append(first & 31 | 32)
        first >>= 5
    return "".join(chr(48 + group) for group in (*groups, first, 0, 1))


@pytest.mark.parametrize("number", [1, 2, LINES_PER_BATCH, LINES_PER_BATCH + 7])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.update(seconds="1"),
        lambda data: data["segmentation"]["masks"][-1].update(counts="P"),
        lambda data: data.update(image_id=2**63),
    ],
)
def test_a_damaged_line_is_named(
    line: str, tmp_path: Path, number: int, damage: Callable[[dict[str, Any]], object]
) -> None:
    data = json.loads(line)
    damage(data)
    lines = [line] * (LINES_PER_BATCH + 9)
    lines[number - 1] = json.dumps(data)
    lines[-1] = "later damage is not what is told"
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"records\.jsonl, line {number}: .*delete that line and resume"):
        read_records(tmp_path / "records.jsonl")
