import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from partonomy.files import write_text_atomically
from plum.config import Fit
from plum.train_config import TrainConfig
from plum.training import run_folder
from plum.training.config_file import load_train_config
from plum.training.run_checkpoints import UpdateCut
from plum.training.run_folder import RunFolder

TINY = ["--config", "configs/plum_tiny_stage0.yaml"]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return load_train_config([*TINY, "--run_dir", str(tmp_path / "run")])


def test_same_configuration_is_resumed(config: TrainConfig) -> None:
    RunFolder(config).prepare()
    RunFolder(config).prepare()
    provenance = json.loads((Path(config.run_dir) / "provenance.json").read_text())
    assert {"commit", "config_sha256", "packages"} <= set(provenance)


def start_training(config: TrainConfig) -> RunFolder:
    """A folder in which an update was done and a checkpoint written; its process has ended."""
    run = RunFolder(config)
    run.prepare()
    run.record_start(1, None)
    partial = run.checkpoints.partial(7)
    partial.mkdir(parents=True)
    (partial / "plain.pt").write_bytes(b"weights")
    run.checkpoints.commit(partial, 7, UpdateCut(1, 1, 1))
    assert run._lock is not None
    run._lock.close()
    return run


def change(config: TrainConfig, key: str, value: object) -> TrainConfig:
    """Replace the value of a dotted key."""
    group, _, name = key.rpartition(".")
    changes: dict[str, Any] = {name: value}
    if not group:
        return dataclasses.replace(config, **changes)
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **changes)})


@pytest.mark.parametrize(
    ("key", "value"), [("optimizer.weight_decay", 1.0), ("seed", 7), ("losses.bio", 0.5), ("engine.zero_stage", 1)]
)
def test_another_configuration_is_refused_by_key_with_the_way_out(config: TrainConfig, key: str, value: object) -> None:
    run = start_training(config)
    before = (run.root / "config.yaml").read_bytes()
    way_out = f"{key}: .* there, {value} here.*--overwrite.*python -m plum export .*update_000007 FOLDER.*--init_from"
    with pytest.raises(ValueError, match=way_out):
        RunFolder(change(config, key, value)).prepare()
    assert (run.root / "config.yaml").read_bytes() == before
    assert run.checkpoints.has_any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("save_every", 3),
        ("save_every_minutes", 5.0),
        ("keep_checkpoints", 5),
        ("max_minutes", 90.0),
        ("log_every", 1),
        ("tensorboard", True),
        ("trackers", ["tensorboard"]),
        ("tracker_project", "other"),
        ("num_updates", 100_000),
        ("stop_after_skipped", 50),
        ("optimizer.learning_rate", 1e-5),
        ("optimizer.gradient_clip", 0.5),
        ("engine.timeout_minutes", 120.0),
        ("data.max_text_tokens", 4096),
    ],
)
def test_harmless_settings_may_change_and_are_recorded(config: TrainConfig, key: str, value: object) -> None:
    start_training(config)
    run = RunFolder(change(config, key, value))
    run.prepare()
    run.record_start(1, None)
    first, second = [json.loads(line) for line in (run.root / "starts.jsonl").read_text().splitlines()]
    assert "changed" not in first
    assert list(second["changed"]) == [key]
    assert second["changed"][key][1] == value


def test_a_run_goes_on_from_another_place(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_training(config)
    moved = run.root.rename(run.root.with_name("moved"))
    RunFolder(change(config, "run_dir", str(moved))).prepare()
    monkeypatch.chdir(moved.parent)
    other = RunFolder(change(config, "run_dir", "moved"))
    other.prepare()
    assert other.checkpoints.has_any()


def test_a_folder_named_in_another_way_is_the_same(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    start_training(change(config, "tokenizer", "data/tokenizer"))
    RunFolder(change(config, "tokenizer", str(Path("data/tokenizer").resolve()))).prepare()
    with pytest.raises(ValueError, match="tokenizer: .*data/tokenizer there, .*data/words here"):
        RunFolder(change(config, "tokenizer", "data/words")).prepare()


def write_inputs(folder: Path, text: str = "one") -> tuple[Path, Path]:
    """A data folder with images and a tokenizer's file."""
    (folder / "data" / "images").mkdir(parents=True)
    (folder / "data" / "images" / "0.png").write_bytes(b"picture")
    (folder / "data" / "annotations.json").write_text(text)
    (folder / "words.json").write_text("{}")
    return folder / "data", folder / "words.json"


def reading(config: TrainConfig, data: Path, tokenizer: Path) -> TrainConfig:
    sources = tuple(dataclasses.replace(one, path=str(data)) for one in config.data.sources)
    return change(change(config, "data.sources", sources), "tokenizer", str(tokenizer))


def test_what_a_run_reads_may_move(config: TrainConfig, tmp_path: Path) -> None:
    start_training(reading(config, *write_inputs(tmp_path / "here")))
    (tmp_path / "here").rename(tmp_path / "there")
    now = reading(config, tmp_path / "there" / "data", tmp_path / "there" / "words.json")
    run = RunFolder(now)
    run.prepare()
    run.record_start(1, run.root)
    assert run._lock is not None
    run._lock.close()
    (tmp_path / "there").rename(tmp_path / "last")
    RunFolder(reading(config, tmp_path / "last" / "data", tmp_path / "last" / "words.json")).prepare()


@pytest.mark.parametrize(
    ("file", "content"),
    [("annotations.json", b"two"), ("annotations.json", b"onee"), ("images/1.png", b"new"), ("more.json", b"{}")],
)
def test_other_data_are_refused_and_moved_ones_may_be_linked(
    config: TrainConfig, tmp_path: Path, file: str, content: bytes
) -> None:
    data, words = write_inputs(tmp_path / "here")
    start_training(reading(config, data, words))
    data.rename(tmp_path / "there")
    (tmp_path / "there" / file).write_bytes(content)
    with pytest.raises(ValueError, match="holds a run with other settings") as refused:
        RunFolder(reading(config, tmp_path / "there", words)).prepare()
    command = f"`ln -s {tmp_path / 'there'} {data}`"
    assert command in str(refused.value)
    assert "\n" not in str(refused.value)
    subprocess.run(command.strip("`"), shell=True, check=True)  # noqa: S602  (as a user would)
    RunFolder(reading(config, data, words)).prepare()


def test_the_ends_of_large_files_tell_them_apart(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "_END_BYTES", 4)
    hashes = set()
    contents = (
        "0123456789",
        "x123456789",
        "012345678x",
        "0123x56789",
        "01234567890",
        "012345",
        "01234567",
        "0123xxx6789",
    )
    for content in contents:
        (tmp_path / "a").write_text(content)
        hashes.add(run_folder.hash_input(tmp_path / "a"))
    assert len(hashes) == len(contents) - 1, "the middle of a large file is not read"
    assert run_folder.hash_input(tmp_path / "none") is None
    (tmp_path / "empty").mkdir()
    assert run_folder.hash_input(tmp_path / "empty") is None


def test_a_run_from_before_hashes_were_kept_names_the_link(config: TrainConfig, tmp_path: Path) -> None:
    data, words = write_inputs(tmp_path / "here")
    run = start_training(reading(config, data, words))
    (run.root / "inputs.json").unlink()
    data.rename(tmp_path / "there")
    with pytest.raises(ValueError, match="ln -s"):
        RunFolder(reading(config, tmp_path / "there", words)).prepare()


def test_a_run_without_an_update_is_taken_over(config: TrainConfig) -> None:
    run = RunFolder(config)
    run.prepare()
    run.record_start(1, None)
    (run.root / "training_images.json").write_text("{}")
    other = RunFolder(change(config, "seed", 7))
    other.prepare()
    assert yaml.safe_load((run.root / "config.yaml").read_text())["seed"] == 7
    assert not (run.root / "training_images.json").exists()
    (run.root / "metrics.jsonl").write_text('{"update": 1}\n')
    with pytest.raises(ValueError, match="seed: 7 there, 8 here"):
        RunFolder(change(config, "seed", 8)).prepare()


def test_overwrite_removes_the_run_and_nothing_else(config: TrainConfig) -> None:
    run = start_training(config)
    (run.root / "notes.txt").write_text("mine")
    (run.root / "model").mkdir()
    RunFolder(change(config, "seed", 7)).prepare(overwrite=True)
    assert sorted(path.name for path in run.root.iterdir()) == [
        "config.yaml",
        "inputs.json",
        "lock",
        "notes.txt",
        "provenance.json",
    ]


def test_a_finished_run_is_not_prolonged(config: TrainConfig) -> None:
    run = start_training(config)
    run.model_dir.mkdir()
    run.finish({})
    RunFolder(change(config, "log_every", 1)).prepare()
    with pytest.raises(ValueError, match=r"finished after .* updates.*--init_from .*run/model --run_dir"):
        RunFolder(change(config, "num_updates", 10**6)).prepare()


@pytest.mark.parametrize("content", ["", "seed: [", "- 1"])
def test_a_damaged_configuration_is_named(config: TrainConfig, content: str) -> None:
    run = start_training(config)
    (run.root / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"run/config\.yaml is damaged.*--overwrite"):
        RunFolder(config).prepare()


def test_a_key_younger_than_the_run_means_its_default(config: TrainConfig) -> None:
    run = start_training(config)
    path = run.root / "config.yaml"
    young = ("reset_modules", "  timeout_minutes")
    path.write_text("".join(line for line in path.open() if not line.startswith(young)))
    again = RunFolder(config)
    again.prepare()
    assert again._changes == {}
    with pytest.raises(ValueError, match="reset_modules"):
        RunFolder(dataclasses.replace(config, reset_modules=("tagger",))).prepare()


def test_a_nested_key_younger_than_the_run_means_what_the_code_then_did(config: TrainConfig) -> None:
    """A run from before the switches of docs/fidelity.md resumes, with the fit that its template then had."""
    run = start_training(config)
    recorded = yaml.safe_load((run.root / "config.yaml").read_text())
    del recorded["new_token_rows"], recorded["losses"]["bio_scope"], recorded["data"]["sources"][0]["group"]
    del recorded["model"]["tagger"]["order"], recorded["model"]["feedback"]["position_in"]
    for key in ("scheme", "use_crf", "use_cross_attention"):
        del recorded["model"]["tagger"][key]
    del recorded["losses"]["bio_form"], recorded["losses"]["bio_margin"]
    del recorded["model"]["llava"]["vision"]["fit"]
    write_text_atomically(run.root / "config.yaml", yaml.safe_dump(recorded))
    losses, llava = config.losses, config.model.llava

    def with_fit(fit: Fit | None) -> TrainConfig:
        vision = dataclasses.replace(llava.vision, fit=fit)
        return dataclasses.replace(
            config, model=dataclasses.replace(config.model, llava=dataclasses.replace(llava, vision=vision))
        )

    for same in (config, with_fit(None)):
        RunFolder(same).prepare()
    with pytest.raises(ValueError, match=r"other settings \(losses\.bio_scope: "):
        RunFolder(dataclasses.replace(config, losses=dataclasses.replace(losses, bio_scope="all"))).prepare()
    with pytest.raises(ValueError, match=r"other settings \(model\.llava\.vision\.fit: "):
        RunFolder(with_fit("crop")).prepare()


@pytest.mark.parametrize("init_from", [None, "weights/base"])
def test_an_earlier_run_of_llava_weights_was_padded(config: TrainConfig, init_from: str | None) -> None:
    llava = dataclasses.replace(config.model.llava, conversation="llava_v1")

    def with_fit(fit: Fit | None) -> TrainConfig:
        model = dataclasses.replace(
            config.model, llava=dataclasses.replace(llava, vision=dataclasses.replace(llava.vision, fit=fit))
        )
        return dataclasses.replace(config, init_from=init_from, model=model)

    run = start_training(with_fit("pad"))
    recorded = yaml.safe_load((run.root / "config.yaml").read_text())
    del recorded["model"]["llava"]["vision"]["fit"]
    write_text_atomically(run.root / "config.yaml", yaml.safe_dump(recorded))
    RunFolder(with_fit("pad")).prepare()
    with pytest.raises(ValueError, match=r"model\.llava\.vision\.fit"):
        RunFolder(with_fit("crop")).prepare()
    if init_from is None:
        with pytest.raises(ValueError, match=r"model\.llava\.vision\.fit"):
            RunFolder(with_fit(None)).prepare()  # from scratch it would now crop
    else:
        RunFolder(with_fit(None)).prepare()


def test_how_the_work_is_divided_may_change_and_is_recorded(config: TrainConfig) -> None:
    run = RunFolder(config)
    run.prepare()
    run.record_start(2, None)
    engine = dataclasses.replace(config.engine, micro_batch_size=4, accumulation=2, num_workers=3)
    other = RunFolder(dataclasses.replace(config, engine=engine))
    other.prepare()
    other.record_start(4, run.root / "checkpoints" / "update_000400")
    starts = [json.loads(line) for line in (run.root / "starts.jsonl").read_text().splitlines()]
    assert [(start["num_ranks"], start["micro_batch_size"], start["from"]) for start in starts] == [
        (2, config.engine.micro_batch_size, None),
        (4, 4, "update_000400"),
    ]
    assert yaml.safe_load((run.root / "config.yaml").read_text())["engine"]["accumulation"] == 2


HOLD = """
import sys
from plum.training.config_file import load_train_config
from plum.training.run_folder import RunFolder
run = RunFolder(load_train_config(sys.argv[1:]))
run.prepare()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_training_is_refused_until_its_process_ends(config: TrainConfig) -> None:
    command = [sys.executable, "-c", HOLD, *TINY, "--run_dir", config.run_dir]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"being trained by another process \(process {holder.pid} on "):
            RunFolder(config).prepare()
        holder.kill()
    RunFolder(config).prepare()


def test_write_atomically_leaves_no_remains(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a", "one")
    write_text_atomically(tmp_path / "a", "two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "two"
