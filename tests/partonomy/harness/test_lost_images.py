"""Questions of Partonomy whose image cannot be shown: every true part counts as missed, whatever the fault of the file.

Images 1 to 4 ask for 1, 2, 3 and 4 parts. The part of number n has 4 x (4 + n) pixels, n from 0, and the parts are
named in the order wheel, wing, tail fin, door: 16, 20, 24 and 28 pixels. The image of the 4 parts is lost.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.datasets.photographs import (
    StageImages,
    TrainingImageList,
    count_trained_on,
    image_key,
    num_photographs,
    write_training_images,
)
from partonomy.datasets.record_exchange import import_records
from partonomy.datasets.sharded_import import import_shard, merge_import
from partonomy.datasets.store import load_questions
from partonomy.harness.merge_runs import merge_runs
from partonomy.harness.provenance import OVERLAP_KEY
from partonomy.harness.summary import Summary
from partonomy.reporting.compare import compare_runs
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.predictions import write_predictions
from partonomy.sharding import Shard
from tests.partonomy.running import make_config, question_records, run

GROUP = "identification"
OPTIONS = PartonomyOptions(question_types=GROUP, generate="all")
LOST = 3  # index of the image


def remove(path: Path) -> None:
    """No file."""
    path.unlink()


def truncate(path: Path) -> None:
    """Half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """No bytes."""
    path.write_bytes(b"")


def replace_by_folder(path: Path) -> None:
    """A folder in place of the file."""
    path.unlink()
    path.mkdir()


def resize(path: Path) -> None:
    """An image of another size than its masks."""
    Image.new("RGB", (7, 5)).save(path)


FAULTS = (remove, truncate, empty, replace_by_folder, resize)


def in_file(question_file: Path) -> Path:
    """The published record file itself."""
    return question_file


def in_folder(question_file: Path) -> Path:
    """A folder of the project's own form with the same questions."""
    folder = question_file.parent / "imported"
    import_records(question_file, folder, invalid="raise")
    return folder


def run_without(
    question_file: Path, output: Path, make: Callable[[Path], Path], fault: Callable[[Path], None]
) -> Summary:
    """The summary of an oracle that cannot see the last image."""
    questions = make(question_file)
    (path,) = {one.image_path for one in load_questions(questions).questions if one.image_path.stem == f"image{LOST}"}
    fault(path)
    summary = run(make_config(questions, output, options=OPTIONS))
    assert summary is not None
    return summary


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("make", [in_file, in_folder])
def test_every_part_of_a_lost_image_counts(
    question_file: Path, tmp_path: Path, make: Callable[[Path], Path], fault: Callable[[Path], None]
) -> None:
    summary = run_without(question_file, tmp_path / "run", make, fault)
    entry = summary.groups[GROUP]
    assert (entry.num_expected, entry.num_failed) == (4, 1)
    found = {name: (estimate.value, estimate.count) for name, estimate in entry.metrics.items()}
    for prefix in ("", "generated_"):
        # 1 + 2 + 3 of 10 parts; 3 of 4 images.
        assert found[f"{prefix}giou_micro_paired"] == (pytest.approx(6 / 10), 10)
        assert found[f"{prefix}giou_macro_paired"] == (pytest.approx(3 / 4), 4)
        # Found: 16, 16 + 20, 16 + 20 + 24 pixels. Lost: 16 + 20 + 24 + 28 = 88.
        assert found[f"{prefix}ciou_paired"] == (pytest.approx(112 / (112 + 88)), 10)
        assert found[f"{prefix}giou_micro_union"] == (pytest.approx(3 / 4), 4)
        assert found[f"{prefix}ciou_union"] == (pytest.approx(112 / 200), 4)
    # 6 names are right; the lost 4 count as 4 wrong names and 4 that are missing: 2 * 6 / (10 + 10).
    assert found["parts_f1"][0] == found["generated_parts_f1"][0] == pytest.approx(6 / 10)
    assert found["parts_accuracy"] == found["generated_parts_accuracy"] == (pytest.approx(3 / 4), 4)
    assert summary.provenance[OVERLAP_KEY]["num_images"] == 4
    lost = question_records(tmp_path / "run")[LOST]
    assert [part.area for part in lost.true_parts] == [28, 24, 16, 20]  # door, tail fin, wheel, wing
    assert lost.reason
    assert lost.quality == 0.0


def import_in_shards(question_file: Path, folder: Path) -> None:
    """Import in two shards, which name the lost records in JSON."""
    for index in range(2):
        import_shard(question_file, folder, "collect", Shard(index, 2))
    merge_import(question_file, folder, "collect")


@pytest.mark.parametrize("fault", [remove, empty, replace_by_folder, resize])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_an_import_keeps_the_parts_that_it_leaves_out(
    question_file: Path, tmp_path: Path, fault: Callable[[Path], None], is_sharded: bool
) -> None:
    both = PartonomyOptions(question_types=f"{GROUP},positive", generate="all")
    fault(question_file.parent / f"image{LOST}.png")
    folder = tmp_path / "imported"
    if is_sharded:
        import_in_shards(question_file, folder)
    else:
        import_records(question_file, folder, invalid="collect")
    summaries = [
        run(make_config(questions, tmp_path / f"run_{questions.stem}", options=both))
        for questions in (question_file, folder)
    ]
    from_file, from_folder = (summary for summary in summaries if summary is not None)
    for name, entry in from_file.groups.items():
        imported = from_folder.groups[name]
        assert (imported.num_expected, imported.num_failed) == (entry.num_expected, entry.num_failed) == (4, 1)
        for metric, estimate in entry.metrics.items():
            assert imported.metrics[metric].value == pytest.approx(estimate.value), metric
            assert imported.metrics[metric].count == estimate.count
    assert from_file.groups[GROUP].metrics["giou_micro_paired"].value == pytest.approx(6 / 10)
    assert from_folder.provenance[OVERLAP_KEY]["num_images"] == 4
    lost = [record for record in question_records(tmp_path / "run_imported") if not record.is_scored]
    assert len({record.image_id for record in lost}) == 1


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        ({"image_path": "a.png", "parts": [["wheel", -1]], "union_area": 1}, "a mask's area is a number of pixels"),
        ({"image_path": "a.png", "parts": [["wheel", 1]], "union_area": "1"}, "a mask's area is a number of pixels"),
        ({"image_path": "a.png", "parts": [[1, 1]], "union_area": 1}, "a label of 'truth'"),
        ({"parts": [], "union_area": 1}, "the key 'image_path' is missing"),
        ([], "of the wrong type"),
    ],
)
def test_a_damaged_list_of_lost_parts_is_named(question_file: Path, tmp_path: Path, truth: object, reason: str) -> None:
    remove(question_file.parent / f"image{LOST}.png")
    import_records(question_file, tmp_path / "imported", invalid="collect")
    path = tmp_path / "imported" / "build.json"
    content = json.loads(path.read_text())
    content["invalid_records"][0]["truth"] = truth
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"entry 0 of 'invalid_records': .*{reason}"):
        load_questions(tmp_path / "imported")


@pytest.mark.parametrize("make", [in_file, in_folder])
def test_a_lost_and_a_truncated_image_give_the_same_intervals(
    question_file: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    found = []
    for fault in (truncate, remove):
        folder = shutil.copytree(question_file.parent, tmp_path / f"copy_{fault.__name__}")
        copied = folder / question_file.name
        found.append(run_without(copied, folder / "run", make, fault).groups[GROUP].metrics)
    assert found[0] == found[1]


def test_an_image_that_one_shard_lacks(question_file: Path, tmp_path: Path) -> None:
    whole = run_without(question_file, tmp_path / "whole", in_folder, remove)
    questions, folders = question_file.parent / "imported", []
    for index in (1, 2):
        config = dataclasses.replace(
            make_config(questions, tmp_path / f"shard{index}", options=OPTIONS), shard=f"{index}/2"
        )
        run(config)
        folders.append(Path(config.output))
    merged = merge_runs(folders, tmp_path / "merged", None, allow_missing=False).summary
    assert merged.groups[GROUP].metrics == whole.groups[GROUP].metrics


def test_runs_with_and_without_the_image_compare(question_file: Path, tmp_path: Path) -> None:
    run(make_config(question_file, tmp_path / "with", options=OPTIONS))
    run_without(question_file, tmp_path / "without", in_file, remove)
    compared = compare_runs(load_run(tmp_path / "with"), load_run(tmp_path / "without"), ("giou_micro_paired",))
    (difference,) = compared.differences
    assert difference.difference.value == pytest.approx(-4 / 10)
    assert [flip.item_id for flip in compared.flips] == [question_records(tmp_path / "with")[LOST].item_id]


def test_predictions_of_a_run_without_an_image_are_exported(question_file: Path, tmp_path: Path) -> None:
    run_without(question_file, tmp_path / "run", in_file, remove)
    write_predictions(load_run(tmp_path / "run"), tmp_path / "predictions.json")
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert [entry["status"] for entry in entries] == ["scored"] * 3 + ["failed"]
    assert set(entries[LOST]["segmentations"]) == {"wheel", "wing", "tail fin", "door"}


def test_a_missing_image_counts_among_those_trained_on(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "photo.jpg" for folder in ("a", "b")] + [tmp_path / "other.jpg"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]) * 10)
    coco = tmp_path / "000000000009.jpg"
    stage = StageImages("stage0", 2)
    keys = frozenset({image_key(paths[0]), image_key(coco)})
    write_training_images(tmp_path, TrainingImageList((stage,), keys))
    assert (count_trained_on(tmp_path, [*paths, coco]), num_photographs([*paths, coco])) == (2, 4)
    paths[0].unlink()
    # Nothing but the name of the first one is left to compare; the second has bytes, and other ones.
    assert (count_trained_on(tmp_path, [*paths, coco]), num_photographs([*paths, coco])) == (2, 4)
    paths[1].write_bytes(b"")
    # Two lost files of one name are two photographs, and each may be the one that the model saw.
    assert (count_trained_on(tmp_path, [*paths, coco]), num_photographs([*paths, coco])) == (3, 4)
