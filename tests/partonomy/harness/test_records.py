"""Record files: read strictly, joined line by line, held a few at a time; damage is an error before any number."""

import dataclasses
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.task import Record
from partonomy.harness.records import (
    LINES_PER_BATCH,
    RecordCodec,
    RecordWriter,
    StoredRecords,
    join_records,
    record_to_line,
)
from partonomy.harness.run_folder import RunConfig, codec_of, read_config
from partonomy.harness.summary import read_summary, summarize
from partonomy.models.registry import ModelSettings
from partonomy.structures import QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import make_config, run
from tests.plum.cli.benchmark_folders import write_segmentation_root
from tests.unsigned import unsigned

Data = dict[str, Any]
Damage = Callable[[Data], object]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of Partonomy and one of RefCOCO."""
    folder = tmp_path_factory.mktemp("finished")
    questions = write_questions(
        folder, (QuestionType.IDENTIFICATION_WITH_LABEL, QuestionType.WHOLE_TO_PART), num_images=4
    )
    run(make_config(questions, folder / "partonomy"))
    write_segmentation_root(folder / "data")
    config = RunConfig(
        benchmark="refcoco",
        split="val",
        root=str(folder / "data"),
        options={},
        protocol="forced",
        protocol_version="segmentation-1.0",
        content_hash="",
        model=ModelSettings("oracle"),
        output=str(folder / "refcoco"),
    )
    run(config)
    return {name: folder / name for name in ("partonomy", "refcoco")}


@pytest.fixture(params=["partonomy", "refcoco"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture
def codec(folder: Path) -> RecordCodec[Any]:
    return codec_of(read_config(folder).empty_task())


@pytest.fixture
def records(folder: Path, codec: RecordCodec[Any]) -> tuple[Record, ...]:
    return codec.read(folder / "records.jsonl")


def first_line(folder: Path) -> str:
    return (folder / "records.jsonl").read_text().splitlines()[0]


QUESTIONS: RecordCodec[QuestionRecord] = RecordCodec(QuestionRecord)
ANSWERS: RecordCodec[AnswerRecord] = RecordCodec(AnswerRecord)


def test_records_survive_their_lines(folder: Path, codec: RecordCodec[Any], records: tuple[Record, ...]) -> None:
    lines = (folder / "records.jsonl").read_text().splitlines()
    assert [record_to_line(codec.from_line(line)) for line in lines] == lines
    assert [codec.from_line(record_to_line(record)) for record in records] == list(records)


COMMON: list[tuple[Damage, str]] = [
    (lambda data: data.pop("image_id"), "missing required field `image_id`"),
    (lambda data: data.update(status="lost"), r"Invalid enum value \'lost\' - at `\$\.status`"),
    (lambda data: data.update(seconds=float("nan")), "JSON is malformed"),
    (lambda data: data.update(seconds=10**400), r"out of range - at `\$\.seconds`"),
    (lambda data: data.update(item_id=7), r"Expected `str`, got `int` - at `\$\.item_id`"),
]
OF_QUESTIONS: list[tuple[Damage, str]] = [
    (lambda data: data.update(image_id="1"), "no image has the id"),
    (lambda data: data.update(image_id=2**63), "no image has the id"),
    (lambda data: data.update(group="riddle"), "there is no question type"),
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
]
OF_ANSWERS: list[tuple[Damage, str]] = [
    (lambda data: data.update(score=1.5), "the score must lie between 0 and 1, got 1.5"),
    (lambda data: data.update(status="failed", score=0.5), "a failed item must score 0, got 0.5"),
    (lambda data: data["mask"].update(intersection=10**6), "cannot belong to two masks"),
    (lambda data: data["mask"]["predicted"].update(counts="P"), "predicted mask 0: 'counts' is not a"),
    (lambda data: data.update(truths="x"), r"Expected `array`, got `str` - at `\$\.truths`"),
]


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        *(("partonomy", *case) for case in (*COMMON, *OF_QUESTIONS)),
        *(("refcoco", *case) for case in (*COMMON, *OF_ANSWERS)),
    ],
)
def test_damage_is_named(folders: dict[str, Path], name: str, damage: Damage, reason: str) -> None:
    data = unsigned(first_line(folders[name]))
    damage(data)
    codec: RecordCodec[Any] = QUESTIONS if name == "partonomy" else ANSWERS
    with pytest.raises(ValueError, match=reason) as caught:
        codec.from_line(json.dumps(data))
    assert "not a record of an item" in str(caught.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "[" * 100_000, "{"])
@pytest.mark.parametrize("codec_of_type", [QUESTIONS, ANSWERS])
def test_lines_that_are_no_record(text: str, codec_of_type: RecordCodec[Any]) -> None:
    with pytest.raises(ValueError, match="not a record of an item"):
        codec_of_type.from_line(text)


def test_texts_may_speak_of_infinity(folder: Path, codec: RecordCodec[Any]) -> None:
    data = unsigned(first_line(folder))
    data["reason"] = "the loss is NaN or Infinity"
    assert codec.from_line(json.dumps(data)).reason == data["reason"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, group: data.pop("provenance"),
        lambda data, group: data.update(seconds_total="1 s"),
        lambda data, group: data.update(benchmark=3),
        lambda data, group: data.update(seconds_total="1"),
        lambda data, group: data.update(notes="a note"),
        lambda data, group: data["provenance"].update(config={}),
        lambda data, group: data["provenance"].update(dataset={"name": 1}),
        lambda data, group: data["provenance"].update(answer_marks={"note": 1}),
        lambda data, group: data["groups"][group].update(reasons={"broken": "1"}),
        lambda data, group: data["groups"][group].update(num_tied=True),
        lambda data, group: next(iter(data["groups"][group]["metrics"].values())).update(n=5.7),
        lambda data, group: next(iter(data["groups"][group]["metrics"].values())).update(value=True),
        lambda data, group: data["groups"][group].update(num_failed=7),
        lambda data, group: data["groups"][group].pop("metrics"),
        lambda data, group: next(iter(data["groups"][group]["metrics"].values())).update(ci95=[0]),
        lambda data, group: next(iter(data["groups"][group]["metrics"].values())).update(value="1"),
        lambda data, group: data["groups"].update({group: []}),
    ],
)
def test_a_damaged_summary_names_its_file(folder: Path, tmp_path: Path, damage: Callable[[Data, str], object]) -> None:
    data = json.loads((folder / "summary.json").read_text())
    assert read_summary(folder / "summary.json").groups
    damage(data, next(iter(data["groups"])))
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"summary\.json: not the summary of a run"):
        read_summary(path)


def test_a_summary_of_a_later_version_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(json.loads((folder / "summary.json").read_text()) | {"schema": 3}))
    with pytest.raises(ValueError, match=r"written by a later version of this code \(schema 3\); update the code"):
        read_summary(path)


def mask_of(data: Data) -> Data:
    """The last mask of a record."""
    found: Data = data["segmentation"]["masks"][-1] if "segmentation" in data else data["mask"]["predicted"]
    return found


def test_a_file_is_read_in_batches_as_line_by_line(folder: Path, tmp_path: Path, codec: RecordCodec[Any]) -> None:
    """More lines than a batch has; codes with a run of length 0 inside are right, if unusual."""
    line = first_line(folder)
    data = unsigned(line)
    mask_of(data)["counts"] = encode_zero_run(mask_of(data))
    lines = [*[line] * 600, json.dumps(data)]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines) + "\n" + line[:50])  # the last line was not written to its end
    records = codec.read(path)
    assert len(lines) > 2 * LINES_PER_BATCH
    assert records == tuple(codec.from_line(line) for line in lines)


def encode_zero_run(mask: Data) -> str:
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
        lambda data: mask_of(data).update(counts="P"),
        lambda data: data.update(image_id=2.5),
    ],
)
def test_a_damaged_line_is_named(
    folder: Path, tmp_path: Path, codec: RecordCodec[Any], number: int, damage: Damage
) -> None:
    line = first_line(folder)
    data = unsigned(line)
    damage(data)
    lines = [line] * (LINES_PER_BATCH + 9)
    lines[number - 1] = json.dumps(data)
    lines[-1] = "later damage is not what is told"
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"records\.jsonl, line {number}: .*delete that line and resume"):
        codec.read(tmp_path / "records.jsonl")


def test_a_changed_value_is_noticed(folder: Path, tmp_path: Path, codec: RecordCodec[Any]) -> None:
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"image_id": ', '"image_id":  ')  # as valid as before
    (tmp_path / "records.jsonl").write_text("".join(lines))
    with pytest.raises(
        ValueError, match=r"records\.jsonl, line 2: .*its checksum differs.*; delete that line and resume"
    ):
        codec.read(tmp_path / "records.jsonl")
    with pytest.raises(ValueError, match="its checksum differs"):
        codec.from_line(lines[1])


def write(path: Path, records: tuple[Record, ...]) -> Path:
    path.write_text("".join(record_to_line(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_stored_records_are_those_of_the_file(
    folder: Path, codec: RecordCodec[Any], records: tuple[Record, ...]
) -> None:
    stored = StoredRecords(folder / "records.jsonl", codec)
    assert tuple(stored) == records
    assert (len(stored), stored[1], stored[-1], stored[1:3]) == (len(records), records[1], records[-1], records[1:3])
    with pytest.raises(IndexError, match="none at position"):
        stored[len(records)]


def test_their_summary_is_that_of_records_in_memory(
    folder: Path, codec: RecordCodec[Any], records: tuple[Record, ...]
) -> None:
    config = read_config(folder)
    task = config.load_task()
    stored = StoredRecords(folder / "records.jsonl", codec)
    summary = summarize(task, stored, {}, config.seed)
    assert summary == summarize(task, records, {}, config.seed)
    assert summary.groups == read_summary(folder / "summary.json").groups


def test_files_are_joined_in_the_order_of_the_items(
    tmp_path: Path, codec: RecordCodec[Any], records: tuple[Record, ...]
) -> None:
    ids = [record.item_id for record in records]
    output = write(tmp_path / "records.jsonl", records[:2])
    again = dataclasses.replace(records[1], seconds=7.0)
    shard = write(tmp_path / "shard.jsonl", (*reversed(records[2:]), again))
    with shard.open("a", encoding="utf-8") as file:
        file.write('{"half')  # by a process that was killed
    assert join_records([output, shard], ids, output, codec) == ()
    assert codec.read(output) == (records[0], again, *records[2:])
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_nothing_is_written_while_records_are_missing_or_foreign(
    tmp_path: Path, codec: RecordCodec[Any], records: tuple[Record, ...]
) -> None:
    output = write(tmp_path / "records.jsonl", records[1:])
    before = output.read_bytes()
    ids = [record.item_id for record in records]
    assert join_records([output], ids, output, codec) == (records[0].item_id,)
    with pytest.raises(ValueError, match="items that the run does not ask"):
        join_records([output], ids[:1], output, codec)
    assert output.read_bytes() == before


def test_a_writer_cuts_a_line_that_was_not_written_to_its_end(
    tmp_path: Path, codec: RecordCodec[Any], records: tuple[Record, ...]
) -> None:
    path = write(tmp_path / "records.jsonl", records[:1])
    with path.open("a") as file:
        file.write('{"half')
    with RecordWriter(path) as writer:
        writer.write(records[1])
        assert codec.read(path) == records[:2]  # flushed at once


def test_memory_hardly_grows_with_the_records(
    tmp_path: Path, codec: RecordCodec[Any], records: tuple[Record, ...]
) -> None:
    def peak(num_records: int) -> int:
        many = tuple(dataclasses.replace(records[n % len(records)], item_id=f"{n:06d}") for n in range(num_records))
        path = write(tmp_path / "many.jsonl", many)
        ids = [record.item_id for record in many]
        del many
        tracemalloc.start()
        assert join_records([path], ids, tmp_path / "joined.jsonl", codec) == ()
        for record in StoredRecords(tmp_path / "joined.jsonl", codec):
            assert record.item_id
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    # 256 records are read at once; 1,000 more would take some 10 kB (Partonomy) or 2 kB each.
    allowed = 1000 if isinstance(records[0], QuestionRecord) else 700
    assert peak(1600) - peak(600) < 1000 * allowed
