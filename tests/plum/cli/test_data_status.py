import re
import shlex
from pathlib import Path

import pytest

from partonomy.__main__ import build_parser as partonomy_parser
from plum.cli.main import main
from plum.data.build import find_marker
from plum.data.catalogue import CATALOGUE, State, survey
from plum.training.config_file import load_train_config
from tests.plum.data.miniature_world import miniature, miniature_copy

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "plum_13b_0shot.yaml"


def test_the_miniature_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data-status", "--root", str(miniature())]) == 0
    output = capsys.readouterr().out
    assert f"{len(CATALOGUE)} there, 0 partly there, 0 missing" in output
    assert "MISSING" not in output
    for entry in CATALOGUE:
        assert f"{entry.name} ({entry.group}): there" in output
        assert entry.licence in output
        assert entry.source in output


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = miniature_copy(tmp_path / "data")
    (root / "refer_seg/refcocog/refs(umd).p").unlink()
    for path in (root / "ade20k/annotations/training").iterdir():
        path.unlink()
    assert main(["data-status", "--root", str(root), "--missing"]) == 0
    output = capsys.readouterr().out
    assert "refcocog (referring): partly there" in output
    assert re.search(r"sentences +MISSING  refer_seg/refcocog/refs\(umd\)\.p", output)
    assert re.search(r"maps +MISSING  ade20k/annotations/training/\*\.png", output)
    assert re.search(r"photographs +6  ade20k/images/training", output)
    assert "cocostuff (semantic)" not in output
    assert f"{len(CATALOGUE) - 2} there, 2 partly there, 0 missing" in output


def test_an_empty_root_misses_everything(tmp_path: Path) -> None:
    assert {status.state for status in survey(tmp_path)} == {State.MISSING}
    assert main(["data-status", "--root", str(tmp_path / "nowhere")]) == 1


def test_every_source_of_the_paper_is_in_the_catalogue_and_every_step_parses() -> None:
    data = load_train_config(["--config", str(CONFIG)]).data
    known = {entry.name: entry for entry in CATALOGUE}
    outputs = set()
    for entry in CATALOGUE:
        if entry.next_step:
            words = shlex.split(entry.next_step.format(root="root"))
            assert words[:3] == ["python", "-m", "partonomy"]
            partonomy_parser().parse_args(words[3:])
            outputs.add(words[words.index("--output") + 1])
    for source in data.sources:
        if source.path:
            assert source.path in outputs
        else:
            entry = known[source.dataset or {"reasoning": "reason_seg"}.get(source.kind, source.kind)]
            assert entry.group == source.group
            marker = find_marker(source, str(miniature())).relative_to(miniature())
            assert any(Path(need.path) == marker for need in entry.needs)
