import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from partonomy import progress
from partonomy.locks import lock_folder
from partonomy.masks import decode_mask, rle_from_coco
from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan
from plum.checkpoints.store import save_pretrained
from plum.cli.main import main
from plum.inference import folder_prediction
from plum.inference.folder_prediction import (
    build_requests,
    draw_prediction,
    drop_half_line,
    find_images,
    read_question_file,
)
from plum.inference.predictor import Prediction, Predictor
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import ANSWER, QUESTION, WRITTEN, make_image, make_model

INTERRUPTED = 130
ANSWER_TEXT = "It has a wheel."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_pretrained(make_model(), byte_level(), folder, "A random model.")
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, one of them in a folder of its own; equal names."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b & c.png", "more/a.png")):
        Image.fromarray(make_image(number, 20 + number, 28)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def _fixed_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "write_about", lambda self, image, turns, max_new_tokens=8: WRITTEN)


def _predict(checkpoint: str, images: Path, output: Path, *flags: str) -> int:
    return main(
        ["predict", str(images), "--checkpoint", checkpoint, "--output", str(output), "--device", "cpu", *flags]
    )


def _records(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("_fixed_answer")
def test_a_folder_gets_records_overlays_and_a_page(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert _predict(checkpoint, photos, output, "--question", "Parts?", "--phrases", "front wheel,propeller") == 0
    records = _records(output)
    assert [(one["image"], one["height"], one["width"]) for one in records] == [
        ("a.png", 20, 28),
        ("b & c.png", 21, 28),
        ("more/a.png", 22, 28),
    ]
    predictor = Predictor(make_model(), byte_level(), make_model().config)
    for number, record in enumerate(records):
        (answer,) = record["answers"]
        assert (answer["question"], answer["text"]) == ("Parts?", ANSWER)
        assert [span["characters"] for span in answer["spans"]] == [[9, 20], [36, 45]]
        assert [span["phrase"] for span in answer["spans"]] == ["front wheel", "propeller"]
        spans = [rle_from_coco(span["segmentation"], record["height"], 28, "") for span in answer["spans"]]
        image = make_image(number, 20 + number, 28)
        expected = predictor.segment(image, (Turn(Role.USER, "Parts?"),), ANSWER, [CharSpan(9, 20), CharSpan(36, 45)])
        np.testing.assert_array_equal(np.stack([decode_mask(span) for span in spans]), expected.masks)
        assert [span["mask_confidence"] for span in answer["spans"]] == pytest.approx(expected.confidences)
        assert Image.open(output / answer["overlay"]).size[0] >= 320
        assert max(Image.open(output / answer["thumbnail"]).size) <= 320
    page = (output / "index.html").read_text()
    assert page.count('class="card"') == 3
    for link in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert (output / link.replace("%20", " ").replace("%26", "&")).is_file(), link
    assert "b &amp; c.png" in page


@pytest.mark.usefixtures("_fixed_answer")
def test_broken_images_are_named_and_the_others_done(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?") == 1
    printed = capsys.readouterr()
    assert "3 images done, 1 failed" in printed.out
    assert "1 of 4 images failed (broken.jpg: " in printed.err
    assert len(_records(tmp_path / "out")) == 3
    (failure,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["image"] == "broken.jpg"
    assert "broken.jpg" in (tmp_path / "out" / "index.html").read_text()
    # Mended, it is tried again, and alone.
    Image.fromarray(make_image(5)).save(photos / "broken.jpg")
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?", "--resume") == 0
    assert "1 images done, 3 done earlier, 0 failed" in capsys.readouterr().out
    assert len(_records(tmp_path / "out")) == 4
    assert not (tmp_path / "out" / "failures.jsonl").exists()


@pytest.mark.usefixtures("_fixed_answer")
def test_a_killed_run_goes_on_to_the_same_records(
    checkpoint: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--question", "Parts?", "--phrases", "propeller")
    assert _predict(checkpoint, photos, tmp_path / "whole", *flags) == 0
    segment, calls = Predictor.segment_in, []

    def stop_at_the_third(self: Predictor, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return segment(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "segment_in", stop_at_the_third)
        assert _predict(checkpoint, photos, tmp_path / "killed", *flags) == INTERRUPTED
    records = tmp_path / "killed" / "predictions.jsonl"
    assert len(_records(tmp_path / "killed")) == 2
    records.write_text(records.read_text() + '{"image": "more/a.png", "hei')
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0.0)
    capsys.readouterr()
    assert _predict(checkpoint, photos, tmp_path / "killed", *flags, "--resume") == 0
    (shown,) = [line for line in capsys.readouterr().err.splitlines() if " predict: " in line]
    assert "3/3 images" in shown  # those of the killed run count, its time does not
    assert records.read_bytes() == (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    page = [(tmp_path / name / "index.html").read_text() for name in ("killed", "whole")]
    assert page[0] == page[1]


@pytest.mark.usefixtures("_fixed_answer")
def test_a_changed_record_is_noticed(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--question", "Parts?", "--answer", "It has a wheel.", "--phrases", "wheel"]
    assert _predict(checkpoint, photos, tmp_path / "out", *flags) == 0
    records = tmp_path / "out" / "predictions.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join([lines[0], lines[1].replace("wheel", "whEel", 1), *lines[2:]]))
    capsys.readouterr()
    assert _predict(checkpoint, photos, tmp_path / "out", *flags, "--resume") == 1
    assert "predictions.jsonl, line 2: changed since it was written" in capsys.readouterr().err


def test_a_second_process_is_refused_and_remains_are_removed(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, remains = tmp_path / "out", f".index.html.{0:032x}.tmp"
    assert _predict(checkpoint, photos, output, "--question", "Parts?") == 0
    before = {path.name: path.read_bytes() for path in output.glob("*.*")}
    with lock_folder(output):
        (output / remains).touch()
        assert _predict(checkpoint, photos, output, "--question", "Parts?", "--resume") == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {output}: another process is writing here")
        assert (output / remains).exists()
    assert _predict(checkpoint, photos, output, "--question", "Parts?", "--resume") == 0
    assert {path.name: path.read_bytes() for path in output.glob("*.*")} == before


@pytest.mark.usefixtures("_fixed_answer")
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("CUDA error: an illegal memory access")]
)
def test_a_fault_of_the_machine_ends_the_command(
    checkpoint: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    draw, calls = folder_prediction._draw, []

    def fail(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_prediction, "_draw", fail)
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?") == 1
    assert not (tmp_path / "out" / "failures.jsonl").exists()
    assert len(_records(tmp_path / "out")) == 1
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?", "--resume") == 0
    assert len(_records(tmp_path / "out")) == 3


@pytest.mark.usefixtures("_fixed_answer")
def test_images_that_are_away_end_the_command(
    checkpoint: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = folder_prediction._draw

    def unmount(*arguments: object) -> object:
        if photos.exists():
            photos.rename(tmp_path / "away")
        return draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_prediction, "_draw", unmount)
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?") == 1
    assert "photos: none of the run's files is there any more" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "failures.jsonl").exists()
    assert len(_records(tmp_path / "out")) == 1


@pytest.mark.usefixtures("_fixed_answer")
def test_an_image_without_memory_fails_alone(
    checkpoint: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    segment, calls = Predictor.segment_in, []

    def fail(self: Predictor, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("CUDA out of memory")
        if len(calls) == 2:
            raise MemoryError
        return segment(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "segment_in", fail)
    flags = ("--question", "Parts?", "--phrases", "propeller")
    assert _predict(checkpoint, photos, tmp_path / "out", *flags) == 1
    assert "2 of 3 images failed (a.png: the memory does not suffice for this image" in capsys.readouterr().err
    assert len(_records(tmp_path / "out")) == 1


@pytest.mark.usefixtures("_fixed_answer")
def test_another_question_or_an_unasked_overwriting_is_refused(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?") == 0
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?") == 1
    assert "continue with --resume" in capsys.readouterr().err
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Others?", "--resume") == 1
    assert "for other questions or images, such as a.png" in capsys.readouterr().err
    save_pretrained(make_model().requires_grad_(False).half().float(), byte_level(), tmp_path / "other", "")
    assert _predict(str(tmp_path / "other"), photos, tmp_path / "out", "--question", "Parts?", "--resume") == 1
    assert "holds predictions of" in capsys.readouterr().err
    assert _predict(checkpoint, photos, photos, "--question", "Parts?") == 1
    assert "is not empty and holds no predictions" in capsys.readouterr().err


@pytest.mark.usefixtures("_fixed_answer")
@pytest.mark.parametrize("form", ["json", "csv"])
def test_questions_of_a_file(checkpoint: str, photos: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"questions.{form}"
    if form == "json":
        records = [
            {"question": "For all?", "phrases": ["propeller"]},
            {"image": "more/a.png", "question": QUESTION[0].text, "answer": ANSWER_TEXT, "char_ranges": ["9:14"]},
        ]
        path.write_text(json.dumps(records))
    else:
        path.write_text(
            f'image,question,phrases,char_ranges,answer\n,For all?,propeller,,\nmore/a.png,"{QUESTION[0].text}",,9:14,'
            f'"{ANSWER_TEXT}"\n'
        )
    assert _predict(checkpoint, photos, tmp_path / "out", "--questions", str(path)) == 0
    found = {
        one["image"]: [
            (answer["question"], answer["text"], [span["phrase"] for span in answer["spans"]])
            for answer in one["answers"]
        ]
        for one in _records(tmp_path / "out")
    }
    for_all = ("For all?", ANSWER, ["propeller"])
    own = (QUESTION[0].text, ANSWER_TEXT, ["wheel"])
    assert found == {"a.png": [for_all], "b & c.png": [for_all], "more/a.png": [for_all, own]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON|nor JSON"),
        ("{}", "holds no list of records"),
        ("[]", "holds no list of records"),
        ('["Which?"]', "record 1: 'Which\\?' is not an object"),
        ('[{"question": "Which?"}, {"image": "a.png"}]', "record 2: there is no question"),
        ('[{"question": "Which?", "phrase": "wheel"}]', "record 1: unknown key 'phrase'"),
        ('[{"question": "Which?", "phrases": [1]}]', "record 1: phrases is \\[1\\], not a list of texts"),
        ('[{"question": "Which?", "char_ranges": ["9"]}]', "record 1: '9' is not a range"),
        ('[{"question": "Which?", "answer": "It is."}]', "record 1: a given answer needs phrases"),
        ('[{"question": 5}]', "record 1: question is 5, not a text"),
    ],
)
def test_a_broken_question_file_names_the_record(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"questions.json.*({message})"):
        read_question_file(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "a.png has no question"),
        (["--phrases", "wheel"], "belong to --question"),
        (["--question", "A?", "--question", "A?"], "a.png is asked the same twice: 'A?'"),
        (["--questions", "none.json"], "none.json: no such question file"),
    ],
)
def test_requests_that_make_no_sense(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, flags: list[str], message: str
) -> None:
    assert _predict(checkpoint, photos, tmp_path / "out", *flags) == 1
    assert message in capsys.readouterr().err


def test_images_that_are_not_there(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for images, message in ((tmp_path / "empty", "holds no image"), (tmp_path / "no.png", "no such image or folder")):
        assert _predict(checkpoint, images, tmp_path / "out", "--question", "A?") == 1
        assert message in capsys.readouterr().err


def test_large_images_are_drawn_smaller() -> None:
    masks = np.zeros((1, 400, 3200), dtype=bool)
    masks[0, 100:300, 800:2400] = True
    prediction = Prediction("a wheel", (CharSpan(2, 7),), (1.0,), masks, (0.9,))
    drawn = draw_prediction(np.zeros((400, 3200, 3), dtype=np.uint8), prediction, has_legend=False)
    assert drawn.shape == (320, 2560, 3), "reduced to 1600 by 200, then enlarged to the shorter side of every overlay"
    assert (drawn[160, 700:1800] > 0).any(axis=-1).all()
    assert (drawn[:60] == 0).all()


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("a\n", "a\n"), ("a\nhalf", "a\n"), ("half", ""), ("a\n" + "b" * 200_000, "a\n")],
)
def test_half_a_line_is_cut_off(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "lines").write_text(before)
    drop_half_line(tmp_path / "lines")
    assert (tmp_path / "lines").read_text() == after


@pytest.mark.usefixtures("_fixed_answer")
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2.0 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 999 bytes"),
    ],
)
def test_an_image_without_memory_fails_alone_and_is_asked_again(
    checkpoint: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    flags = ("--question", "Parts?", "--phrases", "propeller")
    segment = Predictor.segment_in

    def without_memory(self: Predictor, images: list[np.ndarray], *arguments: object) -> object:
        if images[0].shape[0] == 21:  # the second of three images
            raise error
        return segment(self, images, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "segment_in", without_memory)
        assert _predict(checkpoint, photos, tmp_path / "out", *flags) == 1
    assert [record["image"] for record in _records(tmp_path / "out")] == ["a.png", "more/a.png"]
    (failure,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["image"] == "b & c.png"
    assert "the memory does not suffice for this image" in json.loads(failure)["reason"]
    assert _predict(checkpoint, photos, tmp_path / "out", *flags, "--resume") == 0
    assert len(_records(tmp_path / "out")) == 3


@pytest.mark.usefixtures("_fixed_answer")
def test_another_error_ends_the_run(
    checkpoint: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Predictor, *arguments: object) -> object:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Predictor, "segment_in", broken)
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "A?", "--phrases", "propeller") == 1
    assert "device-side assert" in capsys.readouterr().err
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_a_cut_answer_is_marked_and_the_limit_recorded(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?", "--max_new_tokens", "3") == 0
    for record in _records(tmp_path / "out"):
        assert [(answer["finish_reason"], answer["num_tokens"]) for answer in record["answers"]] == [("length", 3)]
    assert (tmp_path / "out" / "index.html").read_text().count("[cut at 3 tokens]") == 3
    assert "3 of 3 answers were cut at the limit on their length (--max_new_tokens" in capsys.readouterr().out
    assert _predict(checkpoint, photos, tmp_path / "out", "--question", "Parts?", "--resume") == 1
    assert "holds answers of up to 3 tokens, not 256" in capsys.readouterr().err


@pytest.mark.usefixtures("_fixed_answer")
def test_a_record_may_ask_about_several_images_together(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.json"
    names = ["b & c.png", "a.png"]
    questions.write_text(
        json.dumps(
            [
                {"images": names, "question": "What do they share?", "phrases": "propeller, front wheel"},
                {"image": "more/a.png", "question": "What is it?", "phrases": ["propeller"]},
            ]
        )
    )
    assert _predict(checkpoint, photos, tmp_path / "out", "--questions", str(questions)) == 0
    alone, together = _records(tmp_path / "out")
    assert (alone["image"], together["image"], together["images"]) == ("more/a.png", "b & c.png + a.png", names)
    assert [answer["image"] for answer in together["answers"]] == names
    assert [answer["height"] for answer in together["answers"]] == [21, 20], "each mask has its own image's size"
    for answer in together["answers"]:
        assert [span["phrase"] for span in answer["spans"]] == ["front wheel", "propeller"]
        assert {tuple(span["segmentation"]["size"]) for span in answer["spans"]} == {(answer["height"], 28)}
        assert answer["colours"] == together["answers"][0]["colours"], "one colour a phrase"
        assert (tmp_path / "out" / answer["overlay"]).is_file()
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('class="card"') == 3
    assert _predict(checkpoint, photos, tmp_path / "out", "--questions", str(questions), "--resume") == 0
    assert len(_records(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"images": ["a.png", "x.png"]}, "no image is named 'x.png'"),
        ({"images": ["a.png", "a.png"]}, "`images` names an image twice: a.png, a.png"),
        ({"image": "a.png", "images": ["b & c.png", "a.png"]}, "not both"),
        ({"images": 3}, "images is 3, not a list of texts"),
    ],
)
def test_records_of_several_images_are_checked(photos: Path, tmp_path: Path, record: dict, message: str) -> None:
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps([{"question": "What?", **record}]))
    with pytest.raises(ValueError, match=message):
        build_requests(find_images([photos]), [], questions)
