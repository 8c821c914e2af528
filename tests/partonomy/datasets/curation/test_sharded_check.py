"""`check` and `describe` in shards: the findings, charts and exit status of one process."""

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.datasets.curation.check import CheckInput, check_files, check_part, join_checks, read_checked_file
from partonomy.datasets.sources import coco as coco_module
from partonomy.sharding import Shard, all_shards
from tests.partonomy.cli.test_curate import make_folder
from tests.partonomy.datasets.checked_file import CONFIG, HEIGHT, WIDTH, Content, sound
from tests.partonomy.datasets.checked_file import square as polygon
from tests.partonomy.datasets.curation.test_check_problems import CASES


@pytest.fixture
def broken(photos: Path) -> Path:
    """Many problems at once, in copies of the sound file's two images."""
    generator = random.Random(1)
    content: Content = sound()
    content["images"] += [
        {"id": 3, "file_name": "copy of 1.png", "height": HEIGHT, "width": WIDTH},
        {"id": 4, "file_name": "copy of 2.png"},  # its size is read from the file
        {"id": 5, "file_name": "missing.png", "height": HEIGHT, "width": WIDTH},
        {"id": 2, "file_name": "again.png", "height": HEIGHT, "width": WIDTH},
        {"id": 6, "file_name": "../outside.png", "height": HEIGHT, "width": WIDTH},
        {"id": 7, "file_name": "copy of 1 too.png", "height": 5, "width": 5},
        {"id": "x", "file_name": "no id.png"},
    ]
    for name, source in (("copy of 1", "1"), ("copy of 2", "2"), ("copy of 1 too", "1")):
        shutil.copyfile(photos / f"{source}.png", photos / f"{name}.png")
    content["categories"] += [
        {"id": 30, "name": "car:Wheels", "supercategory": "PART"},
        {"id": 0, "name": "twice"},
        {"id": 31, "name": "bus:door", "supercategory": "PART"},
        {"id": 32},
    ]
    records = content["annotations"]
    for number in range(40, 100):
        record = copy.deepcopy(generator.choice(records[:6]))
        record["id"] = number - number % 7 // 6  # some twice
        record["image_id"] = generator.choice([1, 2, 3, 4, 5, 6, 7, 8, "1", None])
        record["category_id"] = generator.choice([0, 1, 1, 2, 30, 31, 9])
        record["segmentation"] = generator.choice(
            [polygon(generator.randrange(60), 5, 9), polygon(5, 5, 2), [], None, [[1, 2]], polygon(15, 15, 10)]
        )
        record["obj_ann_id"] = generator.choice([10, 20, None, 77, "x"])
        record["iscrowd"] = generator.choice([0, 0, 1, 2])
        records.append(record)
    path = photos.parent / "instances.json"
    path.write_text(json.dumps({"annotations": records, **{key: content[key] for key in ("images", "categories")}}))
    return path


def check_flags(path: Path) -> list[str]:
    return ["check", "--annotations", str(path), "--images", str(path.parent / "photos")]


@pytest.mark.parametrize("count", [1, 2, 3, 11])
def test_a_file_with_many_problems(
    broken: Path, tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, joined = tmp_path / "whole.json", tmp_path / "joined.json"
    assert main([*check_flags(broken), "--output", str(whole)]) == 2
    printed = capsys.readouterr().out
    titles = {finding["problem"] for finding in json.loads(whole.read_text())["findings"]}
    assert len(titles) >= 16
    for number in range(count, 0, -1):
        assert main([*check_flags(broken), "--output", str(joined), "--shard", f"{number}/{count}"]) == 0
    capsys.readouterr()
    assert main([*check_flags(broken), "--output", str(joined), "--merge"]) == 2
    assert joined.read_bytes() == whole.read_bytes()
    assert capsys.readouterr().out.replace(str(joined), str(whole)) == printed
    assert not (tmp_path / "joined.json.shards").exists()


@pytest.mark.parametrize("edit", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_every_problem_is_found_by_shards(photos: Path, edit: Callable[[Content, Path], None]) -> None:
    content = sound()
    edit(content, photos)
    path = photos.parent / "instances.json"
    path.write_text(json.dumps(content))
    files = CheckInput(path, photos)
    parts = [check_part(files, CONFIG, shard) for shard in all_shards(3)]
    assert join_checks(path, parts, CONFIG) == check_files(path, photos, CONFIG)


def test_a_shard_reads_only_its_own_masks_and_images(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = broken.parent / "photos"
    visited: list[int] = []
    file = read_checked_file(broken, photos, lambda one: visited.append(one.image.image_id), None, Shard(1, 3))
    assert sorted(visited) == [2, 5, 7]
    assert [one.image_id for one in file.images] == [2, 5, 7]
    read: list[Path] = []
    original = coco_module.load_image

    def load(path: Path, height: int, width: int) -> object:
        read.append(path)
        return original(path, height, width)

    monkeypatch.setattr(coco_module, "load_image", load)
    check_part(CheckInput(broken, photos), CONFIG, Shard(0, 3))
    assert {path.name for path in read} == {"1.png", "copy of 2.png"}


def test_other_shards_and_settings_are_refused(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "found.json")]
    assert main([*check_flags(broken), "--shard", "1/2"]) == 1
    assert "each with the same --output FILE" in capsys.readouterr().err
    assert main([*check_flags(broken), *output, "--shard", "1/2"]) == 0
    assert main([*check_flags(broken), *output, "--merge"]) == 1
    assert "shards are missing (check): 2/2" in capsys.readouterr().err
    assert main([*check_flags(broken), *output, "--shard", "2/2", "--min_pixels", "3"]) == 0
    assert main([*check_flags(broken), *output, "--merge"]) == 1
    message = capsys.readouterr().err
    assert "check-2-of-2.json: made with other settings (limits.min_pixels: 3 there, 16 now)" in message
    assert main([*check_flags(broken), *output, "--shard", "2/2"]) == 0
    assert main([*check_flags(broken), *output, "--shard", "2/2"]) == 0
    assert "shard 2/2 was finished before" in capsys.readouterr().out
    path = tmp_path / "found.json.shards" / "check-1-of-2.json"
    content = json.loads(path.read_text())
    del content["found"]["findings"]
    path.write_text(json.dumps(content))
    assert main([*check_flags(broken), *output, "--merge"]) == 1
    assert (
        "check-1-of-2.json: not the result of a check (found.findings: Field required); delete it"
        in capsys.readouterr().err
    )


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 2, 8])
def test_describe(tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "a", "first", 7)  # the last of eight shards is not empty, the first is
    command = ["describe", str(folder), "--output"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    assert main([*command, str(tmp_path / "joined"), "--merge"]) == 1
    assert "holds no shard (describe)" in capsys.readouterr().err
    for number in range(count, 0, -1):
        assert main([*command, str(tmp_path / "joined"), "--shard", f"{number}/{count}"]) == 0
    assert not list((tmp_path / "joined").glob("*.png"))
    assert main([*command, str(tmp_path / "joined"), "--merge"]) == 0
    whole = read_all(tmp_path / "whole")
    assert len(whole) == 8
    assert read_all(tmp_path / "joined") == whole


def test_describe_refuses_shards_of_another_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "a", "first", 4)
    command = ["describe", str(folder), "--output", str(tmp_path / "out")]
    assert main([*command, "--shard", "1/1"]) == 0
    path = folder / "annotations.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert main([*command, "--merge"]) == 1
    assert "made with other settings (annotations_sha256: " in capsys.readouterr().err


@pytest.mark.parametrize("step", [["--shard", "1/2"], ["--merge"]])
def test_an_input_that_is_missing_is_named(tmp_path: Path, step: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "out.json")]
    for command in (
        ["describe", str(tmp_path)],
        ["check", "--annotations", str(tmp_path / "annotations.json"), "--images", str(tmp_path)],
    ):
        assert main([*command, *output, *step]) == 1
        assert f"{tmp_path / 'annotations.json'}: not found; give every shard" in capsys.readouterr().err
