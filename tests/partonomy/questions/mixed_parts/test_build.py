"""Folders of pairs: splits, quotas, resuming, and the lines of the files."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.datasets.mixed_parts import PairSample, PairSamples, PairTask, read_sample, read_sources, split_file
from partonomy.datasets.store import load_dataset
from partonomy.masks import decode_mask, union_masks
from partonomy.questions.mixed_parts import build
from partonomy.questions.mixed_parts.build import divide, plan_blocks
from tests.partonomy.questions.mixed_parts.pair_world import draw_dataset, store_dataset

SETTINGS = [
    "--num_train",
    "80",
    "--num_val",
    "18",
    "--num_test",
    "18",
    "--shares",
    "0.5,0.25,0.25",
    "--min_pixels",
    "1",
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("datasets")
    return [
        store_dataset(draw_dataset(name, 40, root, seed), root / name) for seed, name in enumerate(("first", "second"))
    ]


def run(datasets: list[Path], output: Path, *flags: str) -> int:
    return main(["build-mixedparts", *map(str, datasets), "--output", str(output), *SETTINGS, *flags])


@pytest.fixture(scope="module")
def pairs(datasets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "mixed"
    assert run(datasets, folder) == 0
    return folder


def read(folder: Path, split: str) -> list[PairSample]:
    return list(PairSamples(split_file(folder, split)))


def test_sources_and_tasks_have_their_shares(pairs: Path) -> None:
    expected = {"train": (20, 10, 10), "val": (3, 3, 3), "test": (3, 3, 3)}
    for split, counts in expected.items():
        found = Counter((one.source, one.task) for one in read(pairs, split))
        for source in ("first", "second"):
            assert tuple(found[source, task] for task in PairTask) == counts


def test_no_image_is_in_two_splits_and_no_pair_twice(pairs: Path) -> None:
    splits_of = defaultdict(set)
    for split in ("train", "val", "test"):
        samples = read(pairs, split)
        seen = Counter((one.task, one.source, frozenset(one.images)) for one in samples)
        assert set(seen.values()) == {1}
        assert len({one.sample_id for one in samples}) == len(samples)
        for one in samples:
            assert one.images[0] != one.images[1]
            for image in one.images:
                splits_of[one.source, image].add(split)
    assert {len(splits) for splits in splits_of.values()} == {1}


def test_the_masks_of_a_sample_are_those_of_its_images(pairs: Path, datasets: list[Path]) -> None:
    images = {
        (dataset.name, image.file_name): image for dataset in map(load_dataset, datasets) for image in dataset.images
    }
    for one in read(pairs, "test"):
        for target in one.objects:
            found = images[one.source, one.images[target.image]].objects
            united = union_masks([thing.mask for thing in found if thing.label == target.label and thing.mask])
            assert (decode_mask(target.mask) == decode_mask(united)).all()
        for target in one.parts:
            found = images[one.source, one.images[target.image]].objects
            masks = [
                part.mask
                for thing in found
                if thing.label == target.owner
                for part in thing.parts
                if part.label == target.label
            ]
            assert (decode_mask(target.mask) == decode_mask(union_masks(masks))).all()
        assert [(target.image, target.label) for target in one.parts] == sorted(
            (target.image, target.label) for target in one.parts
        )


def test_the_sources_are_described(pairs: Path, datasets: list[Path]) -> None:
    sources = read_sources(pairs)
    assert list(sources) == ["first", "second"]
    assert sources["first"].image_root == (datasets[0] / "images").resolve()
    assert sources["first"].taxonomy["chair"] == ("arm", "back", "leg", "seat")


def test_a_build_is_the_same_again_and_not_repeated(
    pairs: Path, datasets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    assert run(datasets, again) == 0
    assert contents(again) == contents(pairs)
    capsys.readouterr()
    assert run(datasets, again) == 0
    assert "already built with these settings" in capsys.readouterr().out
    assert run(datasets, again, "--seed", "1") == 1
    assert "built with other settings" in capsys.readouterr().err
    assert run(datasets, again, "--seed", "1", "--overwrite") == 0
    assert contents(again) != contents(pairs)


def test_an_interrupted_build_continues(
    pairs: Path, datasets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, written, line = tmp_path / "pairs", [], build.sample_line

    def stop(sample_id: str, *rest: object) -> bytes:
        written.append(sample_id)
        if len(written) == 55:
            raise KeyboardInterrupt
        return line(sample_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "sample_line", stop)
    assert run(datasets, folder) == 130
    finished = {path.name for path in (folder / "blocks").glob("*.jsonl")}
    assert len(finished) == 3  # 40 samples of the first source; 15 of the second were lost with their block
    assert run(datasets, folder) == 0
    assert len(written) == 55 + (116 - 40)
    assert contents(folder) == contents(pairs)
    assert not (folder / "blocks").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".jsonl", ".json", ".tsv")
    }


def test_blocks_of_other_settings_are_not_continued(datasets: list[Path], pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    (folder / "blocks").mkdir(parents=True)
    (folder / "blocks" / "account.json").write_text('{"sha256": "other"}')
    stale = plan_blocks("train", 80, ["first", "second"])[0]
    (folder / "blocks" / f"{stale.stem}.json").write_text("{}")
    assert run(datasets, folder) == 0
    assert contents(folder) == contents(pairs)


def test_too_few_pairs_are_reported(datasets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(datasets, tmp_path / "pairs", "--num_train", "100000") == 0
    out = capsys.readouterr().out
    block = json.loads((tmp_path / "pairs" / "build.json").read_text())["blocks"][0]
    assert f"train first common_objects: {block['num_samples']} of 25000 wanted; no more found" in out
    assert 20 < block["num_samples"] < 25000


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--shares", "0.5,0.5"), "give three numbers"),
        (("--shares", "0.5,0.5,0.5"), "sum to 1"),
        (("--min_pixels", "0"), "--min_pixels must be at least 1"),
        (("--max_targets", "1"), "--max_targets must be at least 2"),
        (("--num_train", "-1"), "must not be negative"),
        (("--min_pixels", "100000"), "no pair of images has anything in common"),
        (("--review", "nowhere.tsv"), "the file of --review does not exist"),
    ],
)
def test_settings_that_cannot_be_used(
    datasets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], reason: str
) -> None:
    assert run(datasets, tmp_path / "pairs", *flags) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "pairs" / "build.json").exists()


def test_data_sets_that_cannot_be_used(
    datasets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([datasets[0], datasets[0]], tmp_path / "pairs") == 1
    assert "another data set is also called 'first'" in capsys.readouterr().err
    assert run([tmp_path], tmp_path / "pairs") == 1
    assert "is not a data set folder" in capsys.readouterr().err


def test_numbers_are_divided_without_loss() -> None:
    assert divide(11, [2, 1, 1]) == [6, 3, 2]
    assert divide(1, [1, 1, 1]) == [1, 0, 0]
    assert sum(block.wanted for block in plan_blocks("test", 1000, ["a", "b", "c"])) == 1000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": "colours"}, "task"),
        ({"images": ["a.png", "a.png"]}, "a pair needs two"),
        ({"images": ["../a.png", "b.png"]}, "images"),
        ({"objects": []}, "an object with 'image' 0"),
        ({"parts": []}, "must have parts"),
        ({"task": "common_objects"}, "must have no parts"),
        ({"parts.0.owner": "tree"}, "belongs to 'tree'"),
        ({"parts.0.image": 2}, "(image, height, width)"),
        ({"parts.0.rle": {"size": [3, 3], "counts": "9"}}, "must have one size"),
        ({"parts.0.rle.counts": "zz"}, "the mask of part 0"),
        ({"objects.1.image": 0}, "an object with 'image' 0"),
    ],
)
def test_a_damaged_line_is_refused(pairs: Path, change: dict[str, object], reason: str) -> None:
    line = next(
        line
        for line in split_file(pairs, "test").read_bytes().splitlines()
        if json.loads(line)["task"] == "common_parts"
    )
    assert read_sample(line, "here").parts
    content = json.loads(line)
    for path, value in change.items():
        *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
        place = content
        for step in steps:
            place = place[step]
        place[last] = value
    with pytest.raises(ValueError, match="here: not a sample of MixedParts") as error:
        read_sample(json.dumps(content).encode(), "here")
    assert reason in str(error.value)


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path, datasets: list[Path]) -> None:
    with pytest.raises(FileNotFoundError, match="build-mixedparts"):
        read_sources(tmp_path)
    with pytest.raises(ValueError, match="expected format 'mixed-parts'"):
        read_sources(datasets[0])
    with pytest.raises(FileNotFoundError, match="build-mixedparts"):
        PairSamples(tmp_path / "test.jsonl")
    with pytest.raises(ValueError, match="no split 'dev'"):
        split_file(tmp_path, "dev")


def test_a_folder_of_pairs_is_described(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(pairs), "--output", str(tmp_path)]) == 0
    assert "train" in capsys.readouterr().out
    text = (tmp_path / "describe.md").read_text(encoding="utf-8")
    rows = {tuple(row.split("|")[1:4]): row.split("|")[4:9] for row in text.replace(" ", "").splitlines() if "|" in row}
    for block in json.loads((pairs / "build.json").read_text())["blocks"]:
        samples, targets, mean, median, largest = rows[block["split"], block["source"], block["task"]]
        numbers = {int(number): count for number, count in block["targets"].items()}
        assert int(samples) == block["num_samples"] == sum(numbers.values())
        assert int(targets) == sum(number * count for number, count in numbers.items())
        assert float(mean) == pytest.approx(int(targets) / int(samples), abs=0.006)
        ordered = sorted(number for number, count in numbers.items() for _ in range(count))
        assert (int(median), int(largest)) == (ordered[(len(ordered) - 1) // 2], ordered[-1])
    assert main(["describe", str(pairs), "--output", str(tmp_path), "--shard", "1/2"]) == 1
