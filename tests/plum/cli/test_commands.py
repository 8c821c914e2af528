import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.masks import rle_from_coco
from partonomy.models.contract import Turn
from plum.checkpoints.store import save_pretrained
from plum.cli.main import build_parser, main
from plum.inference.predictor import Predictor, WrittenAnswer
from plum.inputs.tokenizer import load_tokenizer
from tests.plum.data.part_world import write_world
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import ANSWER, WRITTEN, make_image, make_model


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


def _run_segment(checkpoint: str, photo: Path, output: Path, *flags: str) -> int:
    arguments = ["segment", "--checkpoint", checkpoint, "--image", str(photo), "--question", "Which parts?"]
    return main([*arguments, "--output", str(output), "--device", "cpu", *flags])


@pytest.fixture
def _fixed_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "write_about", lambda self, images, turns, max_new_tokens=8: WRITTEN)


@pytest.mark.usefixtures("_fixed_answer")
def test_segment_writes_overlay_and_masks(
    checkpoint: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run_segment(checkpoint, photo, tmp_path / "out", "--phrases", "propeller, front wheel") == 0
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
    assert _run_segment(checkpoint, photo, tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    for span in record["spans"]:
        start, end = span["characters"]
        assert record["text"][start:end] == span["phrase"]


@pytest.mark.usefixtures("_fixed_answer")
def test_characters_and_numbered_phrases_choose_what_is_segmented(checkpoint: str, photo: Path, tmp_path: Path) -> None:
    assert _run_segment(checkpoint, photo, tmp_path, "--char_range", "36:45", "--phrases", "wheel#2") == 0
    record = json.loads((tmp_path / "photo.json").read_text())
    assert [(span["phrase"], span["characters"]) for span in record["spans"]] == [
        ("wheel", [24, 29]),
        ("propeller", [36, 45]),
    ]


@pytest.mark.usefixtures("_fixed_answer")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--phrases", "door"], "the phrase 'door' is not in the answer 'It has"),
        (["--phrases", "wheel"], r"occurs several times .*\(characters 15:20, 24:29\): choose with wheel#1"),
        (["--phrases", "wheel#3"], "occurs 2 times .* so there is no wheel#3"),
        (["--char_range", "40:90"], "40:90 lie outside of the answer .* 46 characters"),
        (["--char_range", "9-20"], "'9-20' is not a range of characters; write START:END"),
        (["--force"], "a forced answer is built from phrases alone"),
        (["--answer", "It is a door."], "needs phrases or character ranges"),
    ],
)
def test_what_cannot_be_highlighted_is_explained(
    checkpoint: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, flags: list[str], message: str
) -> None:
    assert _run_segment(checkpoint, photo, tmp_path / "out", *flags) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_fixed_answer")
def test_an_answer_may_be_given_or_made_of_the_phrases(checkpoint: str, photo: Path, tmp_path: Path) -> None:
    assert _run_segment(checkpoint, photo, tmp_path / "a", "--phrases", "door", "--answer", "Here is a door.") == 0
    assert json.loads((tmp_path / "a" / "photo.json").read_text())["text"] == "Here is a door."
    assert _run_segment(checkpoint, photo, tmp_path / "b", "--phrases", "door,propeller", "--force") == 0
    record = json.loads((tmp_path / "b" / "photo.json").read_text())
    assert record["text"] == "They are the door and propeller."
    assert [span["phrase"] for span in record["spans"]] == ["door", "propeller"]


@pytest.mark.usefixtures("_fixed_answer")
def test_segment_asks_about_two_images_together(
    checkpoint: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "photo.png"
    other.parent.mkdir()
    Image.fromarray(make_image(1, 12, 16)).save(other)
    flags = ("--image", str(other), "--phrases", "propeller")
    assert _run_segment(checkpoint, photo, tmp_path / "out", *flags) == 0
    printed = capsys.readouterr().out
    assert printed.count(ANSWER) == 1
    assert printed.index("(IMAGE1)") < printed.index("photo_1.png") < printed.index("(IMAGE2)")
    sizes = []
    for number in (1, 2):
        record = json.loads((tmp_path / "out" / f"photo_{number}.json").read_text())
        sizes += [tuple(span["segmentation"]["size"]) for span in record["spans"]]
    assert sizes == [(20, 28), (12, 16)]


def test_chat_shows_one_more_image(
    checkpoint: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = []

    def answer(self: Predictor, images: list[np.ndarray], turns: list[Turn], max_new_tokens: int = 8) -> WrittenAnswer:
        heard.append((len(images), len(turns)))
        return WRITTEN

    monkeypatch.setattr(Predictor, "write_about", answer)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"one\n/add {photo}\ntwo\n/add no.png\n/image {photo}\nthree\n"))
    arguments = ["chat", "--checkpoint", checkpoint, "--image", str(photo), "--image", str(photo)]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert heard == [(2, 1), (3, 1), (1, 1)], "another image begins another conversation"
    assert f"((IMAGE3) {photo}: 28 x 20 pixels; conversation cleared)" in capsys.readouterr().out
    written = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert written == [f"answer_001_image{n}.png" for n in (1, 2)] + [f"answer_002_image{n}.png" for n in (1, 2, 3)] + [
        "answer_003.png"
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("again\n"))
    assert main([*arguments, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert (tmp_path / "out" / "answer_004_image1.png").is_file(), "answers are counted, not files"


def test_a_missing_image_is_an_error(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run_segment(checkpoint, tmp_path / "no.png", tmp_path) == 1
    assert "no.png" in capsys.readouterr().err


def test_chat_remembers_until_told_otherwise(
    checkpoint: str,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def answer(self: Predictor, images: list[np.ndarray], turns: list[Turn], max_new_tokens: int = 8) -> WrittenAnswer:
        (image,) = images
        heard.append((image.shape[:2], tuple(turn.text for turn in turns)))
        return WrittenAnswer("", 1, "stop") if turns[-1].text == "nothing?" else WRITTEN

    other = tmp_path / "with space.png"
    Image.fromarray(make_image(1, 12, 16)).save(other)
    lines = ["one", "", "two", "nothing?", "/history", "/reset", "three", "/image missing.png", "four"]
    lines += [f"/image {other}", "five", "/what", "six"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))  # its end is the end of the conversation
    monkeypatch.setattr(Predictor, "write_about", answer)
    arguments = ["chat", "--checkpoint", checkpoint, "--image", str(photo), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu"]) == 0
    photo_size, other_size = (20, 28), (12, 16)
    assert heard == [
        (photo_size, ("one",)),
        (photo_size, ("one", ANSWER, "two")),
        (photo_size, ("one", ANSWER, "two", ANSWER, "nothing?")),  # an empty answer is not remembered
        (photo_size, ("three",)),
        (photo_size, ("three", ANSWER, "four")),
        (other_size, ("five",)),
        (other_size, ("five", ANSWER, "six")),
    ]
    printed = capsys.readouterr().out
    assert f"user: one\nassistant: {ANSWER}\nuser: two\nassistant: {ANSWER}\n" in printed
    assert "(no answer)" in printed
    assert "missing.png: image file not found" in printed
    assert "16 x 12 pixels" in printed
    assert "/what is not a command" in printed
    overlays = sorted((tmp_path / "out").glob("*.png"))
    assert [path.name for path in overlays] == [f"answer_{i:03}.png" for i in range(1, 8)]
    assert len([*(tmp_path / "out").glob("*.json")]) == 7
    monkeypatch.setattr("sys.stdin", io.StringIO("again\n/quit\nunheard\n"))
    assert main([*arguments, "--device", "cpu"]) == 0
    assert heard[-1] == (photo_size, ("again",))
    assert (tmp_path / "out" / "answer_008.png").is_file(), "earlier answers stay"


def test_chat_goes_on_after_a_question_that_is_too_long(
    checkpoint: str, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("wheel " * 600 + "\nShort?\n"))
    assert main(["chat", "--checkpoint", checkpoint, "--image", str(photo), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "error: " in printed
    assert "text tokens" in printed


def test_train_tokenizer_covers_what_the_sources_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(tmp_path / "data")
    arguments = ["train-tokenizer", "--datasets", str(tmp_path / "data"), "--output", str(tmp_path / "tokenizer")]
    assert main([*arguments, "--vocab_size", "600"]) == 0
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert f"{len(tokenizer)} tokens" in capsys.readouterr().out
    for phrase in (" propeller", " front wheel", " biplane", " ASSISTANT", "USER"):
        assert len(tokenizer.tokenize(phrase)) == len(phrase.split())


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("segment", "predict", "chat", "export", "train-tokenizer", "teacher-forced"):
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0
        assert command in capsys.readouterr().out
