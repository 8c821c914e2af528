"""Lossless exchange of published records with the project's own form."""

import json
import shutil
from pathlib import Path

import pytest

from partonomy.cli.data import import_questions
from partonomy.datasets.record_exchange import export_records, import_records, sidecar_path
from partonomy.datasets.store import ANNOTATIONS_FILE, DATASET_FILE, QUESTIONS_FILE, load_dataset, load_questions
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from tests.partonomy.datasets.published_records import PART_WHOLE, RECORD, change, write_records
from tests.partonomy.tiny_world import make_vehicles


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
