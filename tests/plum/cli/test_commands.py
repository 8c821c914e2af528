import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.evaluation.model_api import Role, Turn
from partonomy.masks import rle_from_coco
from plum.checkpoints.store import save_pretrained
from plum.cli.main import build_parser, main
from plum.data.tokenizer import load_tokenizer
from plum.predictor import Predictor
from tests.plum.data.part_world import write_world
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import ANSWER, make_image, make_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_pretrained(make_model(), byte_level(), folder, "A random model.")
    return str(folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(make_image()).save(path)
    return path


@pytest.fixture
def _fixed_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "generate_text", lambda self, image, turns, max_new_tokens=8: ANSWER)


@pytest.mark.usefixtures("_fixed_answer")
def test_segment_writes_overlay_and_masks(
    checkpoint: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["segment", "--checkpoint", checkpoint, "--image", str(photo), "--question", "Which parts?"]
    arguments += ["--phrases", "propeller, front wheel", "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert ANSWER in printed
    assert printed.index("front wheel  9-20") < printed.index("propeller    36-45")
    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert record["text"] == ANSWER
    assert [span["phrase"] for span in record["spans"]] == ["front wheel", "propeller"]
    for span in record["spans"]:
        rle_from_coco(span["segmentation"], 20, 28, "photo.json")
    assert np.asarray(Image.open(tmp_path / "out" / "photo.png")).ndim == 3


def test_segment_with_tags_alone(checkpoint: str, photo: Path, tmp_path: Path) -> None:
    arguments = ["segment", "--checkpoint", checkpoint, "--image", str(photo), "--question", "Which parts?"]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    for span in record["spans"]:
        start, end = span["characters"]
        assert record["text"][start:end] == span["phrase"]


@pytest.mark.usefixtures("_fixed_answer")
def test_a_phrase_that_is_not_in_the_answer_is_forced(checkpoint: str, photo: Path, tmp_path: Path) -> None:
    arguments = ["segment", "--checkpoint", checkpoint, "--image", str(photo), "--question", "Which parts?"]
    assert main([*arguments, "--phrases", "door,propeller", "--output", str(tmp_path), "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "photo.json").read_text())
    assert record["text"] == "They are the door and propeller."
    assert [span["phrase"] for span in record["spans"]] == ["door", "propeller"]


def test_a_missing_image_is_an_error(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["segment", "--checkpoint", checkpoint, "--image", str(tmp_path / "no.png"), "--question", "?"]
    assert main([*arguments, "--output", str(tmp_path)]) == 1
    assert "no.png" in capsys.readouterr().err


def test_chat_remembers_until_told_otherwise(
    checkpoint: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[Turn, ...]] = []

    def answer(self: Predictor, image: np.ndarray, turns: list[Turn], max_new_tokens: int = 8) -> str:
        heard.append(tuple(turns))
        return ANSWER

    lines: Iterator[str] = iter(["one", "", "two", "/new", "three", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr(Predictor, "generate_text", answer)
    arguments = ["chat", "--checkpoint", checkpoint, "--image", str(photo), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu"]) == 0
    one, two, three = (Turn(Role.USER, text) for text in ("one", "two", "three"))
    assert heard == [(one,), (one, Turn(Role.ASSISTANT, ANSWER), two), (three,)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"answer_00{i}.png" for i in (1, 2, 3)]


def test_train_tokenizer_covers_what_the_sources_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(tmp_path / "data")
    arguments = ["train-tokenizer", "--datasets", str(tmp_path / "data"), "--output", str(tmp_path / "tokenizer")]
    assert main([*arguments, "--vocab_size", "600"]) == 0
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert f"{len(tokenizer)} tokens" in capsys.readouterr().out
    for phrase in (" propeller", " front wheel", " biplane", " ASSISTANT", "USER"):
        assert len(tokenizer.tokenize(phrase)) == len(phrase.split())


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("segment", "chat", "train-tokenizer", "teacher-forced"):
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0
        assert command in capsys.readouterr().out
