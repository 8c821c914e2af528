"""Records in their file: the same as in memory, joined line by line, held a few at a time."""

import dataclasses
import tracemalloc
from pathlib import Path

import pytest
from partonomy.harness.results import summarize
from partonomy.harness.stored_records import StoredRecords, join_records

from partonomy.benchmarks.partonomy.records import Record, read_records, record_to_line
from partonomy.structures import QuestionType
from tests.partonomy.conftest import write_questions
from validate_partonomy import main as validate

TYPES = (QuestionType.IDENTIFICATION_WITH_LABEL, QuestionType.WHOLE_TO_PART)


@pytest.fixture(scope="module")
def record_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    questions = write_questions(folder, TYPES, num_images=4)
    validate(["--model", "random", "--questions", str(questions), "--output", str(folder / "run")])
    return folder / "run" / "records.jsonl"


@pytest.fixture(scope="module")
def records(record_file: Path) -> tuple[Record, ...]:
    return read_records(record_file)


def write(path: Path, records: tuple[Record, ...]) -> Path:
    path.write_text("".join(record_to_line(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_stored_records_are_those_of_the_file(record_file: Path, records: tuple[Record, ...]) -> None:
    stored = StoredRecords(record_file)
    assert tuple(stored) == records
    assert (len(stored), stored[2], stored[-1], stored[1:3]) == (len(records), records[2], records[-1], records[1:3])
    with pytest.raises(IndexError, match="none at place"):
        stored[len(records)]


def test_their_summary_is_that_of_records_in_memory(record_file: Path, records: tuple[Record, ...]) -> None:
    assert summarize(StoredRecords(record_file), TYPES, (), {}, 0) == summarize(records, TYPES, (), {}, 0)


def test_files_are_joined_in_the_order_of_the_questions(tmp_path: Path, records: tuple[Record, ...]) -> None:
    ids = [record.question_id for record in records]
    output = write(tmp_path / "records.jsonl", records[:2])
    again = dataclasses.replace(records[1], seconds=7.0)
    shard = write(tmp_path / "shard.jsonl", (*reversed(records[2:]), again))
    with shard.open("a", encoding="utf-8") as file:
        file.write('{"half')  # by a process that was killed
    assert join_records([output, shard], ids, output) == ()
    assert read_records(output) == (records[0], again, *records[2:])
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_nothing_is_written_while_records_are_missing_or_foreign(tmp_path: Path, records: tuple[Record, ...]) -> None:
    output = write(tmp_path / "records.jsonl", records[1:])
    before = output.read_bytes()
    ids = [record.question_id for record in records]
    assert join_records([output], ids, output) == (records[0].question_id,)
    with pytest.raises(ValueError, match="questions that are not asked here"):
        join_records([output], ids[:2], output)
    assert output.read_bytes() == before


def test_memory_hardly_grows_with_the_records(tmp_path: Path, records: tuple[Record, ...]) -> None:
    def peak(num_records: int) -> int:
        many = tuple(dataclasses.replace(records[n % len(records)], question_id=f"{n:06d}") for n in range(num_records))
        path = write(tmp_path / "many.jsonl", many)
        ids = [record.question_id for record in many]
        del many
        tracemalloc.start()
        assert join_records([path], ids, tmp_path / "joined.jsonl") == ()
        for record in StoredRecords(tmp_path / "joined.jsonl"):
            assert record.question_id
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    # 256 records are read at once; 1,000 more would take some 10 kB each.
    assert peak(1600) - peak(600) < 1000 * 1000
