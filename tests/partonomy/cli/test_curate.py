"""`prune`, `merge`, `split` as a user types them: folders, origins, what is printed, what is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets.curation import derived
from partonomy.datasets.store import DatasetOrigin, load_dataset, load_questions, save_dataset
from partonomy.locks import lock_folder
from tests.partonomy.tiny_world import make_vehicles

BUILD = ["--embedding_model", "char-ngram-tfidf", "--question_types", "identification"]


def make_folder(folder: Path, name: str, num_images: int = 12) -> Path:
    """A data set folder whose photographs differ from each other and from those of other names."""
    dataset = make_vehicles(folder / "images", num_images)
    for image in dataset.images:
        Image.new("RGB", (20, 16), (image.image_id, len(name), 7)).save(folder / "images" / image.file_name)
    save_dataset(dataset.__class__(name, dataset.image_root, dataset.images), folder, DatasetOrigin("test"))
    return folder


def curation(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "curation.json").read_text())
    return content


def test_merge_prune_split_and_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_folder(tmp_path / "a", "first"), make_folder(tmp_path / "b", "other", 6)
    merged, pruned, train, val = (tmp_path / name for name in ("merged", "pruned", "train", "val"))
    assert main(["merge", str(first), str(second), "--output", str(merged)]) == 0
    printed = capsys.readouterr().out
    assert "first: 12 images" in printed
    assert "other: 6 images" in printed
    assert "merged: 18 images" in printed
    assert load_dataset(merged).name == "merged"
    assert [one["num_images"] for one in curation(merged)["inputs"]] == [12, 6]

    assert main(["prune", str(merged), "--output", str(pruned), "--min_annotations", "3"]) == 0
    printed = capsys.readouterr().out
    dropped = [(one["part_label"], one["num_counted"]) for one in curation(pruned)["dropped_parts"]]
    counts = {part.label for image in load_dataset(pruned).images for one in image.objects for part in one.parts}
    assert dropped
    assert all(count < 3 and part not in counts for part, count in dropped)
    for part, count in dropped:
        assert f":{part} ({count})" in printed

    outputs = ["--output_train", str(train), "--output_val", str(val)]
    assert main(["split", str(pruned), *outputs, "--seed", "2"]) == 0
    sides = [{image.image_id for image in load_dataset(side).images} for side in (train, val)]
    assert sides[0] | sides[1] == {image.image_id for image in load_dataset(pruned).images}
    assert not sides[0] & sides[1]
    # The origin passes through all three commands: images 13 to 18 are the second source's 1 to 6.
    origins = {
        row["id"]: (row["source"], row["source_id"]) for side in (train, val) for row in curation(side)["images"]
    }
    assert origins[5] == ("first", 5)
    assert origins[14] == ("other", 2)

    questions = tmp_path / "questions"
    assert main(["build", "--source", "dataset", "--images", str(val), "--output", str(questions), *BUILD]) == 0
    assert {question.image_id for question in load_questions(questions).questions} == sides[1]


def test_the_same_split_twice(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", "first")
    for run in ("1", "2"):
        outputs = ["--output_train", str(tmp_path / f"t{run}"), "--output_val", str(tmp_path / f"v{run}")]
        assert main(["split", str(folder), *outputs, "--num_workers", run]) == 0
    for side in ("t", "v"):
        texts = [(tmp_path / f"{side}{run}" / "annotations.json").read_bytes() for run in ("1", "2")]
        assert texts[0] == texts[1]


def test_what_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "a", "first")
    command = ["prune", str(folder), "--min_annotations", "1", "--output"]
    assert main([*command, str(folder), "--overwrite"]) == 1
    assert "is an input" in capsys.readouterr().err
    target = tmp_path / "out"
    assert main([*command, str(target)]) == 0
    assert main([*command, str(target)]) == 1
    assert "is not empty; pass --overwrite" in capsys.readouterr().err
    (target / "questions.jsonl").write_text("of another data set\n")
    assert main([*command, str(target), "--overwrite"]) == 0
    assert not (target / "questions.jsonl").exists()
    same = ["--output_train", str(tmp_path / "x"), "--output_val", str(tmp_path / "x")]
    assert main(["split", str(folder), *same]) == 1
    assert "are the same folder" in capsys.readouterr().err


def test_a_failed_merge_leaves_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_folder(tmp_path / "a", "first"), make_folder(tmp_path / "b", "other")
    content = json.loads((second / "annotations.json").read_text().replace('"category":"aircraft"', '"category":"toy"'))
    (second / "annotations.json").write_text(json.dumps(content))
    merged = tmp_path / "merged"
    assert main(["merge", str(first), "--output", str(merged)]) == 0
    before = (merged / "annotations.json").read_bytes()
    command = ["merge", str(first), str(second), "--output", str(merged), "--overwrite"]
    assert main(command) == 1
    assert "'airplane': 'aircraft', 'toy'" in capsys.readouterr().err
    assert (merged / "annotations.json").read_bytes() == before
    assert main([*command, "--category_conflicts", "first"]) == 0
    assert {one.category for image in load_dataset(merged).images for one in image.objects} == {"aircraft"}


@pytest.mark.parametrize(
    ("command", "locked"),
    [
        (["prune", "{a}", "--min_annotations", "1", "--output", "{out}"], "out"),
        (["merge", "{a}", "{b}", "--output", "{out}"], "out"),
        (["split", "{a}", "--output_train", "{out}", "--output_val", "{val}"], "out"),
        (["split", "{a}", "--output_train", "{out}", "--output_val", "{val}"], "val"),
    ],
)
def test_a_second_process_is_refused(
    command: list[str], locked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "a", "first")
    make_folder(tmp_path / "b", "other")
    words = [word.format(**{name: tmp_path / name for name in ("a", "b", "out", "val")}) for word in command]
    with lock_folder(tmp_path / locked):
        assert main(words) == 1
        assert main([*words, "--overwrite"]) == 1
        (line, _) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / locked}: another process is writing here")
        assert not (tmp_path / locked / "annotations.json").exists()
    assert main(words) == 0
    assert not (tmp_path / locked / ".lock").exists()


def test_what_the_first_process_wrote_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is checked after the lock is held: it was empty when the second process started."""
    folder, output = make_folder(tmp_path / "a", "first"), tmp_path / "out"

    @contextmanager
    def late(path: Path) -> Iterator[None]:
        with lock_folder(path):
            (path / "annotations.json").write_text("by the first process")
            yield

    monkeypatch.setattr(derived, "lock_folder", late)
    assert main(["prune", str(folder), "--min_annotations", "1", "--output", str(output)]) == 1
    assert (output / "annotations.json").read_text() == "by the first process"


def test_a_killed_process_leaves_no_obstacle(tmp_path: Path) -> None:
    folder, output = make_folder(tmp_path / "a", "first"), tmp_path / "out"
    output.mkdir()
    (output / ".lock").touch()
    (output / f".annotations.json.{'0' * 32}.tmp").write_text("half")
    assert main(["prune", str(folder), "--min_annotations", "1", "--output", str(output)]) == 0
    assert not list(output.glob(".*"))


def test_questions_in_the_making_are_removed_with_their_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = make_folder(tmp_path / "a", "first"), tmp_path / "out"
    (output / "shards").mkdir(parents=True)
    (output / "shards" / "prepared.json").write_text("{}")
    command = ["prune", str(folder), "--min_annotations", "1", "--output", str(output), "--overwrite"]
    with lock_folder(output / "shards", "questions-1-of-2.lock"):
        assert main(command) == 1
    assert "another process is writing here" in capsys.readouterr().err
    assert main(command) == 0
    assert not (output / "shards").exists()
