"""Exports of runs: finished ones, and checkpoints of DeepSpeed written by one, two and three ranks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from partonomy.harness.summary import GroupSummary, Summary, write_summary
from partonomy.metrics.bootstrap import Estimate
from plum.checkpoints.store import load_pretrained
from plum.cli.export import parse_size
from plum.cli.main import main
from plum.config import LoraConfig
from plum.export.export_source import find_source
from plum.export.merged import ExportRequest, export_merged
from plum.train_config import TrainableConfig, TrainConfig
from plum.training.run import train
from tests.plum.training.launching import train_forked
from tests.plum.training.training_world import largest_difference, make_config, write_inputs
from tests.readme_commands import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    write_inputs(folder)
    train(make_config(folder, "stage_0", num_updates=1))
    return folder


def _stage_1(folder: Path, name: str) -> TrainConfig:
    config = make_config(folder, name, num_updates=2)
    return replace(
        config,
        model=replace(config.model, lora=LoraConfig()),
        trainable=TrainableConfig(),
        losses=replace(config.losses, kl=0.1),
        init_from=str(folder / "stage_0" / "model"),
        tokenizer=None,
    )


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    config = _stage_1(folder, "plain")
    train(config)
    return Path(config.run_dir)


def _export(source: Path, destination: Path) -> Path:
    export_merged(ExportRequest(source, destination))
    return destination


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("num_ranks", "precision", "zero_stage"), [(1, "fp32", 2), (2, "bf16", 2), (3, "fp32", 2), (2, "bf16", 1)]
)
def test_a_checkpoint_of_any_number_of_ranks_is_exported(
    folder: Path, tmp_path: Path, num_ranks: int, precision: str, zero_stage: int
) -> None:
    config = _stage_1(folder, f"ranks_{num_ranks}_{zero_stage}")
    engine = replace(
        config.engine,
        kind="deepspeed",
        precision=precision,
        micro_batch_size=6 // num_ranks,
        accumulation=1,
        zero_stage=zero_stage,
    )
    config = replace(config, engine=engine)
    model = train_forked(config, num_ranks)
    (checkpoint,) = (model.parent / "checkpoints").glob("update_000002")
    assert len([*checkpoint.glob("*_optim_states.pt")]) == num_ranks
    source = find_source(checkpoint)
    # The checkpoint's float32 masters are what the run's last model was made of.
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    saved = find_source(model).weights
    moved = 0.0
    for name in saved.names:
        ours, theirs = source.weights.read(name), saved.read(name)
        if ours.dtype == torch.float32 and theirs.dtype == torch.bfloat16:
            moved = max(moved, float((ours - ours.bfloat16().float()).abs().max()))
        assert torch.equal(ours.to(theirs.dtype), theirs), name
    assert dtype == torch.float32 or moved > 0, "masters have more digits than the model"
    from_checkpoint = _export(checkpoint, tmp_path / "from_checkpoint")
    if precision == "fp32":
        assert largest_difference(from_checkpoint, _export(model.parent, tmp_path / "from_model")) == 0.0
    card = (from_checkpoint / "README.md").read_text()
    assert "update_000002" in card


def test_a_plain_checkpoint_is_exported_like_the_model(run: Path, tmp_path: Path) -> None:
    by_model = _export(run, tmp_path / "model")
    by_checkpoint = _export(run / "checkpoints" / "update_000002", tmp_path / "checkpoint")
    assert largest_difference(by_model, by_checkpoint) == 0.0


def test_a_run_without_a_model_gives_its_newest_checkpoint(run: Path, tmp_path: Path) -> None:
    (run / "model").rename(tmp_path / "aside")
    try:
        assert find_source(run).described_as.endswith("update_000002")
    finally:
        (tmp_path / "aside").rename(run / "model")
    assert find_source(run).described_as == f"saved model {run / 'model'}"


def test_a_run_from_scratch_gives_also_what_it_did_not_train(folder: Path, tmp_path: Path) -> None:
    """Weights that stayed as the seed made them are in no checkpoint."""
    config = make_config(folder, "frozen_tower", num_updates=1)
    config = replace(config, trainable=replace(config.trainable, vision_tower=False))
    train(config)
    run = Path(config.run_dir)
    exported = _export(run / "checkpoints" / "update_000001", tmp_path / "exported")
    assert largest_difference(exported, run / "model") == 0.0


def test_adapters_of_a_run_go_over_what_it_started_from(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), str(tmp_path / "adapters"), "--adapters-only"]) == 0
    printed = capsys.readouterr().out
    assert "moved by 0.00e+00" in printed
    assert str(folder / "stage_0" / "model") in printed
    assert largest_difference(tmp_path / "adapters", run / "model") == 0.0
    from_checkpoint = str(run / "checkpoints" / "update_000002")
    assert main(["export", from_checkpoint, str(tmp_path / "more"), "--adapters_only"]) == 0
    assert largest_difference(tmp_path / "more", run / "model") == 0.0


def test_the_command_prints_what_it_checked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(run), str(tmp_path / "out"), "--max-shard-size", "200KB", "--dtype", "bfloat16"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"Exported the saved model {run / 'model'}" in printed
    assert "merging in float32:" in printed
    assert "writing as bfloat16:" in printed
    assert len([*(tmp_path / "out").glob("*.safetensors")]) > 1
    assert {p.dtype for p in load_pretrained(tmp_path / "out", dtype=torch.bfloat16).model.parameters()} == {
        torch.bfloat16
    }
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err


def test_the_script_merges_what_a_run_trained(run: Path, tmp_path: Path) -> None:
    command = ["bash", "scripts/merge_lora.sh", str(run), str(tmp_path / "out"), "--max_shard_size", "200KB"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "merging in float32" in done.stdout
    assert load_pretrained(tmp_path / "out").config.lora is None
    wrong = subprocess.run(command[:3], capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert (wrong.returncode, wrong.stderr.split(":")[0]) == (2, "usage")


def test_the_card_says_where_the_model_comes_from(run: Path, folder: Path, tmp_path: Path) -> None:
    metrics = {"ciou": Estimate(0.5, 0.4, 0.6, 7), "giou": Estimate(None, None, None, 0)}
    model = {"model": "plum", "checkpoint": "runs/refer/model", "base": False}
    summary = Summary(
        benchmark="refcoco",
        split="val",
        protocol="forced",
        protocol_version="segmentation-1.0",
        headline="ciou",
        provenance={
            "config": {"model": model, "limit": 8, "content_hash": None},
            "dataset": {"name": "refcoco val", "content_hash": "0"},
        },
        seconds_total=1.0,
        groups={"all": GroupSummary("all", 8, 7, 1, {"broken": 1}, metrics)},
        notes=("3 targets",),
    )
    (tmp_path / "scores").mkdir()
    write_summary(summary, tmp_path / "scores" / "summary.json")
    export_merged(ExportRequest(run, tmp_path / "named", summaries=(tmp_path / "scores",)))
    card = (tmp_path / "named" / "README.md").read_text()
    assert "\n---\n\n# named\n" in card
    for words in (
        f"`{folder / 'stage_0' / 'model'}`",
        "Stage 0, ",
        "Stage 1, ",
        "| `explanatory` | ",
        "refcoco val, protocol `forced`, only the first 8 items (of each group), 1 of 8 failed and count as 0, "
        "measured on `runs/refer/model`. 3 targets. Images of this benchmark that the model was trained on: unknown.",
        "| ciou | 0.5000 | 0.4000 to 0.6000 | 7 |",
        "| `sam.mask_decoder` | ",
        "Licence",
        str(folder / "world"),
    ):
        assert words in card, words
    assert "giou" not in card, "a metric of which nothing was counted"
    metadata = ModelCard(card).data
    assert (metadata.license, metadata.library_name, metadata.model_name) == ("other", "plum", "named")
    assert {"image-segmentation", "part-segmentation", "plum"} <= set(metadata.tags)
    assert metadata.datasets == ["world"]
    (result,) = metadata.eval_results
    assert (result.dataset_type, result.dataset_split, result.metric_type) == ("refcoco", "val", "ciou")
    assert (result.metric_value, result.task_type) == (0.5, "image-segmentation")
    assert result.metric_args == {"interval_95": [0.4, 0.6], "count": 7, "protocol": "forced"}
    assert "llava.lora" not in card
    with pytest.raises(FileNotFoundError, match="no such summary"):
        export_merged(ExportRequest(run, tmp_path / "other", summaries=(tmp_path / "nothing",)))
    assert not (tmp_path / "other").exists()


def test_downloads_stand_in_the_card_with_their_terms(run: Path, tmp_path: Path) -> None:
    path = run / "config.yaml"
    before = path.read_text()
    config = yaml.safe_load(before)
    config["data"] |= {"dataset_dir": "dataset"}
    config["data"]["sources"].append({"kind": "semantic", "dataset": "ade20k"})
    config["data"]["sources"].append({"kind": "llava_instruct"})
    try:
        path.write_text(yaml.safe_dump(config))
        card = (_export(run, tmp_path / "exported") / "README.md").read_text()
    finally:
        path.write_text(before)
    assert "| ade20k | annotations: BSD 3-Clause" in card
    assert "| llava_instruct | CC BY 4.0" in card
    assert "mapillary" not in card


def test_a_damaged_checkpoint_is_named(run: Path, tmp_path: Path) -> None:
    from plum.export.training_checkpoint import read_trained

    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_trained(tmp_path / "update_000009")
    (tmp_path / "update_000001").mkdir()
    with pytest.raises(ValueError, match="update_000001 is not a whole DeepSpeed checkpoint"):
        read_trained(tmp_path / "update_000001")


@pytest.mark.parametrize(("text", "size"), [("4GB", 4 * 10**9), ("1.5mb", 1_500_000), ("200", 200), ("3 K", 3000)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "4TB", "four"])
def test_what_is_no_size_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "run", "out", f"--max_shard_size={text}"])
    assert "not a size" in capsys.readouterr().err
