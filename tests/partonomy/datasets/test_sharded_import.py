"""`python -m partonomy import` in shards: the files of one process."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets import record_exchange, sharded_import
from partonomy.datasets.published_records import read_record_shard
from partonomy.datasets.record_exchange import sidecar_path
from partonomy.datasets.store import DatasetOrigin, save_dataset
from partonomy.sharding import all_shards
from tests.partonomy.datasets.published_records import PART_WHOLE, RECORD, change, write_records
from tests.partonomy.tiny_world import HEIGHT, WIDTH, make_vehicles

NUM_IMAGES = 9
TWO_CORRECT = {"answer_types": ["correct", "correct"]}


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Records of nine images in random order, some bad: before or after their image got its number."""
    generator = random.Random(0)
    made: list[dict[str, Any]] = []
    for number in range(60):
        image = f"images/{generator.randrange(NUM_IMAGES)}.png"
        one = change(image_path=image, image_label=f"cars--{generator.choice(['crane', 'wheel loader'])}")
        if number % 3 == 0:
            one = PART_WHOLE | {"image_path": image, "segmentations": RECORD["segmentations"]}
        if number in (2, 20):
            one["image_path"] = 7
        if number in (0, 1, 33):
            one |= TWO_CORRECT  # the image has its number already
        if number == 40:
            one["question_type"] = "unknown"
        made.append(one)
    made[0]["image_path"] = "images/only_bad.png"
    path = write_records(tmp_path / "core", *made)
    for name in (*map(str, range(NUM_IMAGES)), "only_bad"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "core" / "images" / f"{name}.png")
    return path


def import_whole(path: Path, output: Path) -> dict[str, bytes]:
    assert main(["import", "--questions", str(path), "--output", str(output), "--invalid", "collect"]) == 0
    return read_all(output)


def import_in_shards(path: Path, output: Path, count: int) -> dict[str, bytes]:
    command = ["import", "--questions", str(path), "--output", str(output), "--invalid", "collect"]
    for number in range(count, 0, -1):
        assert main([*command, "--shard", f"{number}/{count}"]) == 0
    assert main([*command, "--merge"]) == 0
    return read_all(output)


def test_published_records(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = import_whole(records, tmp_path / "whole")
    printed = capsys.readouterr().out
    assert len(json.loads(whole["build.json"])["invalid_records"]) == 6
    # The image of nothing but bad records has a number and is not in the data set.
    ids = [image["id"] for image in json.loads(whole["annotations.json"])["images"]]
    assert sorted(ids) == list(range(2, NUM_IMAGES + 2))
    assert ids != sorted(ids)
    for count in (1, 2, 3, 12):
        assert import_in_shards(records, tmp_path / str(count), count) == whole
        merged = capsys.readouterr().out.partition(f"shard 1/{count} finished\n")[2]
        assert merged.replace(str(tmp_path / str(count)), str(tmp_path / "whole")) == printed


def test_some_shards_are_empty_and_images_stay_whole(records: Path) -> None:
    shards = [read_record_shard(records, "collect", shard) for shard in all_shards(12)]
    images = [{record.image_path for record in shard.records} for shard in shards]
    assert set() in images
    assert sum(map(len, images)) == len(set.union(*images)) == NUM_IMAGES
    assert sum(len(shard.records) for shard in shards) == 54


def test_records_with_their_annotations_beside_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    save_dataset(make_vehicles(tmp_path / "images"), source, DatasetOrigin("test"))
    flags = ["--images", str(source), "--embedding_model", "char-ngram-tfidf"]
    assert main(["build", "--source", "dataset", *flags, "--output", str(tmp_path / "built")]) == 0
    path = tmp_path / "qa_pairs.json"
    assert main(["export", "--questions", str(tmp_path / "built"), "--output", str(path)]) == 0
    assert sidecar_path(path).is_file()
    whole = import_whole(path, tmp_path / "whole")
    assert whole["questions.jsonl"] == (tmp_path / "built" / "questions.jsonl").read_bytes()
    for count in (1, 3):
        assert import_in_shards(path, tmp_path / str(count), count) == whole


def test_a_shard_raises_at_its_own_bad_record_only(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(records.read_text())
    good = [one for number, one in enumerate(content) if number not in (0, 1, 2, 20, 33, 40)]
    good[5]["answer_types"] = ["correct", "correct"]
    records.write_text(json.dumps(good))
    status = [
        main(["import", "--questions", str(records), "--output", str(tmp_path / "out"), "--shard", f"{number}/3"])
        for number in (1, 2, 3)
    ]
    assert sorted(status) == [0, 0, 1]
    assert "core_qa_pairs.json, record 5: 2 choices are marked correct" in capsys.readouterr().err


def test_an_object_with_a_key_twice_is_refused_as_by_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_records(tmp_path, change())
    text = path.read_text()
    path.write_text(text.replace('"image_label"', '"image_label": "other", "image_label"'))
    for flags in ([], ["--shard", "1/1"]):
        assert main(["import", "--questions", str(path), "--output", str(tmp_path / "out"), *flags]) == 1
        assert "the key 'image_label' occurs twice" in capsys.readouterr().err


def test_shards_of_another_file_or_rule_are_refused(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", "--questions", str(records), "--output", str(tmp_path / "out")]
    collect = [*command, "--invalid", "collect"]
    assert main([*collect, "--merge"]) == 1
    assert "holds no shard (import)" in capsys.readouterr().err
    for number in (1, 3):
        assert main([*collect, "--shard", f"{number}/3"]) == 0
    assert main([*collect, "--merge"]) == 1
    assert "shards are missing (import): 2/3" in capsys.readouterr().err
    assert main([*collect, "--shard", "2/3"]) == 0
    assert main([*command, "--merge"]) == 1
    assert "import-1-of-3.json: made with other settings (invalid: collect there, raise now)" in capsys.readouterr().err
    assert main(collect) == 1
    assert "holds an unfinished sharded build or import" in capsys.readouterr().err
    path = tmp_path / "out" / "shards" / "import-3-of-3.questions.jsonl"
    path.write_bytes(path.read_bytes() + b"\n")
    assert main([*collect, "--merge"]) == 1
    assert "not what the shard wrote" in capsys.readouterr().err
    records.write_text(records.read_text() + "\n")
    assert main([*collect, "--merge"]) == 1
    assert "(records_sha256: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "build.json").exists()


def test_a_shard_that_is_finished_is_not_read_again(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", "--questions", str(records), "--output", str(tmp_path / "out"), "--invalid", "collect"]
    original = sharded_import.read_record_shard
    monkeypatch.setattr(sharded_import, "read_record_shard", _stop)
    assert main([*command, "--shard", "1/2"]) == 130
    monkeypatch.setattr(sharded_import, "read_record_shard", original)
    assert main([*command, "--shard", "1/2"]) == 0
    monkeypatch.setattr(sharded_import, "read_record_shard", _stop)
    assert main([*command, "--shard", "1/2"]) == 0
    assert "was finished before, nothing to do" in capsys.readouterr().out
    monkeypatch.setattr(sharded_import, "read_record_shard", original)
    assert main([*command, "--shard", "2/2"]) == 0
    # The merge reads no record.
    monkeypatch.setattr(sharded_import, "read_record_shard", _stop)
    monkeypatch.setattr(record_exchange, "read_records", _stop)
    assert main([*command, "--merge"]) == 0


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
