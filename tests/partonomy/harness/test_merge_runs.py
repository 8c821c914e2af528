"""Shards merge to the records and numbers of one process, to the last bit, and only where they belong together."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.benchmarks.segmentation import SegmentationMode
from partonomy.harness.merge_runs import merge_runs
from partonomy.harness.ranks import Rank
from partonomy.harness.run import configure_run
from partonomy.harness.run_folder import RunConfig
from partonomy.harness.summary import read_summary
from partonomy.models.registry import ModelSettings
from tests.partonomy.harness.conftest import NUM_IMAGES, World, numbers
from tests.partonomy.running import DyingModel, make_config, run, run_model, stored_records, untimed
from tests.plum.cli.benchmark_folders import write_segmentation_root
from tests.unsigned import unsigned_lines


def sharded(config: RunConfig, shard: str) -> RunConfig:
    """The same run on one shard, in a folder of its own."""
    return dataclasses.replace(config, shard=shard, output=f"{config.output}-{shard.replace('/', '-of-')}")


def run_shards(config: RunConfig, count: int) -> list[Path]:
    """Run all shards; none gets a summary."""
    configs = [sharded(config, f"{number}/{count}") for number in range(1, count + 1)]
    assert [run(shard) for shard in configs] == [None] * count
    folders = [Path(shard.output) for shard in configs]
    assert not any((folder / "summary.json").exists() for folder in folders)
    return folders


@pytest.mark.parametrize(("count", "images"), [(3, [2, 1, 1]), (6, [1, 1, 1, 1, 0, 0])])
def test_shards_merge_to_the_very_numbers_of_one_process(
    world: World, tmp_path: Path, count: int, images: list[int]
) -> None:
    single = run(world.config(tmp_path / "one"))
    folders = run_shards(world.config(tmp_path / "part"), count)
    sizes = [number * world.per_image for number in images]  # whole images, dealt out in turn
    assert [len(stored_records(folder)) for folder in folders] == sizes
    merged = merge_runs(list(reversed(folders)), tmp_path / "whole", None, allow_missing=False)
    assert merged.num_missing == 0
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "one")
    assert numbers(merged.summary) == numbers(single)  # bit for bit, intervals too
    written = read_summary(tmp_path / "whole" / "summary.json")
    assert numbers(written) == numbers(single)
    parts = written.provenance["merged_from"]
    assert [entry["shard"] for entry in parts] == [f"{number}/{count}" for number in range(count, 0, -1)]
    assert [entry["num_records"] for entry in parts] == list(reversed(sizes))
    assert written.provenance["model"] == "random"
    assert single is not None
    assert written.provenance["code_commit"] == single.provenance["code_commit"]
    # The merged folder is a finished run like any other.
    assert numbers(run(world.config(tmp_path / "whole"), resume=True)) == numbers(single)


def test_segmentation_runs_merge_too(tmp_path: Path) -> None:
    write_segmentation_root(tmp_path / "data")
    draft = RunConfig(
        benchmark="reasonseg",
        split="",
        root=str(tmp_path / "data"),
        options={"mode": SegmentationMode.GENERATED.value, "wording": "plum"},
        protocol="",
        protocol_version="",
        content_hash="",
        model=ModelSettings("random", device="cpu"),
        output=str(tmp_path / "whole"),
    )
    config = configure_run(draft, draft.load_task())
    single = run(config)
    merged = merge_runs(run_shards(config, 2), tmp_path / "merged", None, allow_missing=False)
    assert numbers(merged.summary) == numbers(single)
    assert untimed(tmp_path / "merged") == untimed(tmp_path / "whole")


def test_unfinished_runs_and_ranks_merge_too(world: World, tmp_path: Path) -> None:
    single = run(world.config(tmp_path / "one", "oracle"))
    config = world.config(tmp_path / "two", "oracle")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(world.per_image + 2))
    ranked = dataclasses.replace(config, output=str(tmp_path / "ranked"))
    assert run(ranked, rank=Rank(1, 2)) is None
    missing = rf"{world.per_image} of {world.num_items} items have no record, e\.g\. \['"
    with pytest.raises(ValueError, match=missing):
        merge_runs([tmp_path / "two", tmp_path / "ranked"], tmp_path / "whole", None, allow_missing=False)
    assert not (tmp_path / "whole").exists()
    assert run(sharded(config, "1/2")) is None
    folders = [tmp_path / "two", tmp_path / "ranked", tmp_path / "two-1-of-2"]
    answered = [
        {
            json.loads(line)["item_id"]
            for file in folder.glob("records*.jsonl")
            for line in file.read_text().splitlines()
        }
        for folder in folders
    ]
    merged = merge_runs(folders, tmp_path / "whole", None, allow_missing=False)  # some records are there twice
    assert numbers(merged.summary) == numbers(single)
    assert merged.num_repeated == len(answered[0] & answered[1] | answered[0] & answered[2] | answered[1] & answered[2])
    assert 0 < merged.num_repeated < world.num_items


def test_the_command_says_how_many_items_were_answered_twice(
    question_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, run_shards(make_config(question_file, tmp_path / "part"), 2))
    num_repeated = len((Path(first) / "records.jsonl").read_text().splitlines())
    shutil.copytree(first, tmp_path / "copy")
    assert main(["merge-runs", first, second, "--output", str(tmp_path / "plain")]) == 0
    assert "several runs" not in capsys.readouterr().out
    assert main(["merge-runs", first, str(tmp_path / "copy"), second, "--output", str(tmp_path / "whole")]) == 0
    assert f"\n{num_repeated} items have equal records in several runs and count once\n" in capsys.readouterr().out


def test_missing_items_count_as_failed_when_allowed(world: World, tmp_path: Path) -> None:
    folders = run_shards(world.config(tmp_path / "part", "oracle"), NUM_IMAGES)
    merged = merge_runs(folders[1:], tmp_path / "whole", None, allow_missing=True)
    assert merged.num_missing == merged.summary.num_failed == world.per_image
    reasons = {reason for group in merged.summary.groups.values() for reason in group.reasons}
    assert reasons == {"no merged run holds a record of this item"}
    if world.benchmark == "partonomy":
        entry = merged.summary.groups["identification"]
        assert (entry.num_expected, entry.num_scored, entry.num_failed) == (4, 3, 1)
        # Image 0 has one part of 1 + 2 + 3 + 4: 9 of 10 masks and 3 of 4 answers are right.
        assert entry.metrics["giou_micro_paired"].value == pytest.approx(9 / 10)
        assert entry.metrics["parts_accuracy"].value == pytest.approx(3 / 4)
    else:
        assert merged.summary.metrics["random_accuracy"].value == pytest.approx(3 / 4)


def test_runs_that_do_not_belong_together_are_refused(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "part")
    first, second = run_shards(config, 2)
    run(dataclasses.replace(sharded(config, "1/2"), output=str(tmp_path / "other"), seed=4))
    with pytest.raises(ValueError, match=r"different settings: seed \(was 3, now 4\)"):
        merge_runs([first, tmp_path / "other"], tmp_path / "whole", None, allow_missing=False)
    changed = unsigned_lines(first / "records.jsonl")[0]
    changed["prompt"] = "What else?"
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_bytes((first / "config.json").read_bytes())
    (tmp_path / "copy" / "records.jsonl").write_text(json.dumps(changed) + "\n")
    with pytest.raises(ValueError, match=rf"have different records of the item {changed['item_id']} \(prompt\)"):
        merge_runs([first, tmp_path / "copy", second], tmp_path / "whole", None, allow_missing=False)
    with pytest.raises(FileExistsError, match="not empty"):
        merge_runs([first, second], second, None, allow_missing=False)
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        merge_runs([first, tmp_path], tmp_path / "whole", None, allow_missing=False)
    changed["item_id"] = "of another benchmark"
    (tmp_path / "copy" / "records.jsonl").write_text(json.dumps(changed) + "\n")
    with pytest.raises(
        ValueError, match=r"1 records of items that the benchmark does not contain: \['of another benchmark'\]"
    ):
        merge_runs([first, second, tmp_path / "copy"], tmp_path / "whole", None, allow_missing=False)
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize("option", ["text_matching", "text_threshold"])
def test_runs_whose_tables_would_differ_are_refused(question_file: Path, tmp_path: Path, option: str) -> None:
    """Resuming may change what only tables read; merged records are counted once."""
    config = make_config(question_file, tmp_path / "part")
    (first, second) = run_shards(config, 2)
    value = {"text_matching": "char-ngram-tfidf", "text_threshold": 0.5}[option]
    content = json.loads((second / "config.json").read_text())
    content["options"][option] = value
    (second / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"different settings: options\.{option}"):
        merge_runs([first, second], tmp_path / "whole", None, allow_missing=False)


def test_runs_of_other_machines_are_merged_where_the_data_are_now(world: World, tmp_path: Path) -> None:
    folders = run_shards(world.config(tmp_path / "part", "oracle"), 2)
    here = tmp_path / "here"
    (tmp_path / "data").rename(here)
    root = here / world.root.relative_to(tmp_path / "data")
    with pytest.raises(
        FileNotFoundError, match=f"the data of the runs are not here; pass their location with {world.root_flag}"
    ):
        merge_runs(folders, tmp_path / "whole", None, allow_missing=False)
    merged = merge_runs(folders, tmp_path / "whole", root, allow_missing=False)
    assert merged.summary.num_failed == 0
    assert all(Path(record.image_path).is_relative_to(here) for record in stored_records(tmp_path / "whole"))
    path = root if root.is_file() else root / "coco" / "coco_pope_random.json"
    path.write_text(path.read_text().replace("visible", "VISIBLE").replace("random cup", "random mug"))
    with pytest.raises(
        ValueError,
        match="these are not the data of the runs, or they have changed; pass the original data with "
        f"{world.root_flag}",
    ):
        merge_runs(folders, tmp_path / "again", root, allow_missing=False)


def test_unreadable_records_belong_to_the_first_shard(question_file: Path, tmp_path: Path) -> None:
    records = json.loads(question_file.read_text())
    records[5]["segmentations"] = {}
    question_file.write_text(json.dumps(records))
    single = run(make_config(question_file, tmp_path / "one"))
    folders = run_shards(make_config(question_file, tmp_path / "part"), 2)
    merged = merge_runs(folders, tmp_path / "whole", None, allow_missing=False)
    assert numbers(merged.summary) == numbers(single)
    assert merged.summary.num_failed == 1


def test_an_unknown_configuration_is_refused(world: World, tmp_path: Path) -> None:
    run(world.config(tmp_path / "run"))
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    for damage, place in (
        ({"protocol": None}, "protocol: "),
        ({"options": {"riddle": 1}}, rf"config\.json: {world.benchmark} has no option riddle"),
        ({"options": {world.setting[0]: 3}}, rf"config\.json: options of {world.benchmark} \({world.setting[0]}: "),
        ({"benchmark": "riddles"}, r"config\.json: there is no benchmark 'riddles'"),
        ({"model": {"model": 3}}, "model.model: "),
        ({"limit": "5"}, "limit: "),
        ({"seed": "0"}, "seed: "),
        ({"num_trained_on": True}, "num_trained_on: "),
    ):
        path.write_text(json.dumps(content | damage))
        with pytest.raises(ValueError, match=place):
            merge_runs([tmp_path / "run"], tmp_path / "out", None, allow_missing=False)
    for text in ("[]", "{}", '{"settings": {}}', '{"settings": 3}', '{"settings": {"benchmark": "pope"}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"config\.json is not the configuration of a benchmark run"):
            merge_runs([tmp_path / "run"], tmp_path / "out", None, allow_missing=False)


def test_command_line(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["run", world.benchmark, "--model", "random", world.root_flag, str(world.root)]
    for number in (1, 2):
        assert main([*flags, "--shard", f"{number}/2", "--output", str(tmp_path / f"shard{number}")]) == 0
        assert f"Shard {number}/2: {tmp_path / f'shard{number}'}" in capsys.readouterr().out
    folders = [str(tmp_path / "shard1"), str(tmp_path / "shard2")]
    assert main(["merge-runs", *folders, "--output", str(tmp_path / "whole")]) == 0
    assert "summary.json" in capsys.readouterr().out
    assert main(["merge-runs", folders[0], "--output", str(tmp_path / "half"), "--allow_missing"]) == 0
    assert f"{world.num_items // 2} items have no record" in capsys.readouterr().out
    assert main(["merge-runs", folders[0], "--output", str(tmp_path / "less")]) == 1
    assert "--allow_missing" in capsys.readouterr().err
    wrong = {"--questions": "--root", "--root": "--questions"}[world.root_flag]
    assert main(["merge-runs", *folders, wrong, "x", "--output", str(tmp_path / "out")]) == 1
    assert f"name the data of {world.benchmark} with {world.root_flag}, not with {wrong}" in capsys.readouterr().err
    assert main([*flags, "--shard", "3/2", "--output", str(tmp_path / "shard3")]) == 1
    assert "e.g. 2/8" in capsys.readouterr().err
