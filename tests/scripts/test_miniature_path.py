"""`scripts/miniature_path.sh`: which commands it issues; and, slowly, that every one of them works."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from partonomy.datasets.photographs import read_training_images
from plum.checkpoints.store import load_pretrained
from tests.readme_commands import ROOT
from tests.test_scripts import checkout, parse_recorded, run_script

__all__ = ["checkout"]


def test_it_issues_the_shipped_commands(checkout: Path) -> None:  # noqa: F811  the fixture
    for name in ("plum", "partonomy"):
        (checkout / name).mkdir()
    for name in ("train.py", "validate_partonomy.py"):
        shutil.copy(ROOT / name, checkout)
    (checkout / "dataset" / "reason_seg" / "ReasonSeg" / "val").mkdir(parents=True)
    shutil.copytree(checkout / "dataset", checkout / "runs" / "mini" / "dataset")
    commands = run_script(checkout, "scripts/miniature_path.sh", "runs/mini", SPLITS="val", MODES="forced")
    scripts = [command for command in commands if "miniature" in command[1] and command[1].startswith("scripts/")]
    assert [command[1] for command in scripts] == [
        "scripts/make_miniature_data.py",
        "scripts/make_miniature_weights.py",
    ]
    parsed = [parse_recorded(command) for command in commands if command not in scripts]
    assert parsed.count("launch") == 2, "two stages"
    assert parsed.count("validate_partonomy.py") == 1
    asked = [command[4] for command in commands if command[1:4] == ["-m", "plum", "validate"]]
    assert asked == ["reasonseg", "textvqa", "textvqa", "gqa", "gqa", "pope", "pope"]
    assert any(command[1:4] == ["-m", "plum", "retention"] for command in commands)


@pytest.mark.slow
@pytest.mark.distributed
def test_the_whole_path_on_two_ranks(tmp_path: Path) -> None:
    """Stage 0, stage 1, export and validation by the shipped scripts and YAMLs, from nothing."""
    environment = os.environ | {"NUM_RANKS": "2", "SCORES": "partonomy", "LIMIT": "1", "MASTER_PORT": "29617"}
    done = subprocess.run(
        ["bash", "scripts/miniature_path.sh", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    for run in ("plum_13b_0shot", "plum_13b_ft"):
        lines = (tmp_path / "runs" / run / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["update"] for line in lines] == [1, 2, 3]
    model = tmp_path / "plum-13b-miniature"
    assert load_pretrained(model).config.lora is None
    trained = read_training_images(model)
    assert trained is not None
    assert [stage.run for stage in trained.stages] == ["plum_13b_0shot", "plum_13b_ft"]
    summary = json.loads((tmp_path / "runs" / "partonomy" / "summary.json").read_text())
    overlap = summary["provenance"]["training_overlap"]  # validation images are left out of both stages
    assert overlap["num_trained_on"] == 0 < overlap["num_images"]
    entries = summary["groups"].values()
    assert sum(entry["num_failed"] for entry in entries) == 0 < sum(entry["num_expected"] for entry in entries)
    assert (tmp_path / "runs" / "partonomy" / "report.html").is_file()
