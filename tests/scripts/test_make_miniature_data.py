"""The miniature script writes a root that `data-status` calls complete, and does not write over anything."""

from pathlib import Path

import pytest

from plum.data.catalogue import State, survey
from scripts.make_miniature_data import main


def refusal(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as refused:
        main(command)
    assert refused.value.code == 2
    return capsys.readouterr().err


def test_it_writes_every_layout_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "mini")
    main(["--output", output, "--images", "6", "--size", "64"])
    assert {status.state for status in survey(Path(output))} == {State.THERE}
    assert "is not empty" in refusal(capsys, "--output", output)


def test_it_refuses_too_few_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least 6" in refusal(capsys, "--output", str(tmp_path / "mini"), "--images", "5")


def test_splits_need_two_pictures_of_every_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = ("--images", "35", "--partonomy", str(tmp_path / "data"))
    assert "needs --images 36" in refusal(capsys, "--output", str(tmp_path / "mini"), *splits)
    assert not (tmp_path / "mini").exists()
