from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from partonomy import hub
from plum.checkpoints.hub import find_checkpoint
from plum.checkpoints.store import save_pretrained
from plum.cli.main import main
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_model


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that the Hub was asked for; it cannot be reached."""
    names: list[str] = []

    def download(name: str, *arguments: object, **options: object) -> str:
        names.append(name)
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    return names


def test_a_name_of_the_hub_that_cannot_be_reached_is_one_clear_line(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", "--checkpoint", "org/plum-13b", "--image", "p.png", "--question", "A?", "--output", "out"]
    Path("p.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="org/plum-13b: no such folder here, .*Hub .*no network.*hf download"):
        find_checkpoint("org/plum-13b")
    assert main(words) == 1
    assert "has no config.json" not in capsys.readouterr().err
    assert set(asked) == {"org/plum-13b"}


@pytest.mark.parametrize("name", ["runs/mien", "runs/mine/model", "model", "/no/where", "../up/there", "a/b/c"])
def test_typing_errors_in_paths_do_not_reach_the_network(asked: list[str], name: str) -> None:
    Path("runs").mkdir()
    with pytest.raises(FileNotFoundError, match="no such folder; name the folder of a saved model"):
        find_checkpoint(name)
    assert asked == []


def test_a_model_of_the_hub_is_downloaded_once_its_configuration_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pretrained(make_model(), byte_level(), tmp_path / "snapshot", "")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llava"}')
    monkeypatch.chdir(tmp_path)
    downloaded: list[str] = []
    folders = {"org/plum": tmp_path / "snapshot", "org/llava": tmp_path / "other"}
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, file, **options: str(folders[name] / file))
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: downloaded.append(name) or str(folders[name]))
    assert find_checkpoint("org/plum") == tmp_path / "snapshot"
    with pytest.raises(ValueError, match="was not written by plum"):
        find_checkpoint("org/llava")
    assert downloaded == ["org/plum"]
