"""`python -m partonomy build-mmr`, with templates and with a local chat model that does not do as it is told."""

import json
import re
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.datasets.sources.mmr import read_mmr
from partonomy.datasets.store import DatasetOrigin, save_dataset
from partonomy.locks import lock_folder
from tests.partonomy.models.chat_server import Handler, Request, completion, serve, status
from tests.partonomy.questions.mmr_world import FUNCTIONS, make_dataset, write_functions

GOOD = (
    "Global caption: A street.\nQuestion 1: What turns when people drive?\n"
    "Answer 1: The car_1's front_wheel [2, 8, 5, 11] and the car_2's rear_wheel [30, 8, 33, 11] turn.\n"
    "Question 2: Which dog barks?\nAnswer 2: The dog_1 [13, 2, 25, 11] barks."
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save_dataset(make_dataset(tmp_path / "data"), tmp_path / "data", DatasetOrigin("test"))
    return tmp_path / "data"


def build(data: Path, *flags: str) -> int:
    return main(["build-mmr", str(data), "--output", str(data.parent / "root"), *flags])


def test_templates(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--split", "train", "--functions", str(write_functions(data.parent)), "--questions_per_image", "2"]
    assert build(data, *flags) == 0
    output = capsys.readouterr().out
    assert "MMR-like, not the published MMR" in output
    assert "MMR_train.json: 8 questions about 4 images" in output
    assert "not asked about (no known function): car:door (4 annotations)" in output
    assert "further targets may serve it" not in output
    content = (data.parent / "root/MMR/MMR_train.json").read_bytes()
    assert build(data, *flags) == 0
    assert "already built" in capsys.readouterr().out
    assert build(data, *flags, "--seed", "5") == 1
    assert "made with other settings; pass --overwrite" in capsys.readouterr().err
    assert build(data, *flags, "--seed", "5", "--overwrite") == 0
    assert (data.parent / "root/MMR/MMR_train.json").read_bytes() != content


def test_a_second_process_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--functions", str(write_functions(data.parent)), "--questions_per_image", "2", "--split"]
    with lock_folder(data.parent / "root/MMR"):
        assert build(data, *flags, "test", "--overwrite") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "root/MMR: another process is writing here" in line
    assert not list((data.parent / "root/MMR").iterdir())
    assert build(data, *flags, "train") == 0
    assert not (data.parent / "root/MMR/.lock").exists()


def test_withheld_purposes_are_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = FUNCTIONS.replace("show joy: dog:tail", "open it: bus:door").replace(
        "fly straight: tail", "see it: car:door"
    )
    table = table.replace("listen to a sound: ear", "listen to a sound: cat:ear, car:front wheel")
    flags = ["--split", "train", "--functions", str(write_functions(data.parent, table))]
    assert build(data, *flags) == 0
    line = "not asked in 4 images (further targets may serve it, or too many do): to listen to a sound"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name", "x"], "--model_name needs --endpoint"),
        (["--endpoint", "http://localhost:1/v1"], "--endpoint needs --model_name"),
        (
            ["--endpoint", "http://localhost:1/v1", "--model_name", "x", "--seed", "1"],
            "--seed applies only to templates",
        ),
    ],
)
def test_flags_that_do_not_belong_together(
    data: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(data, "--split", "train", *flags) == 1
    assert message in capsys.readouterr().err


def test_a_chat_model_is_filtered_and_what_it_left_out_is_asked_again(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(handler: Handler, request: Request) -> None:
        """A good and a bad pair each time, but the second image is refused at first."""
        assert request["temperature"] == 0.7
        assert "car_1's front_wheel [2, 8, 5, 11]" in request["messages"][0]["content"][1]["text"]
        if len(handler.server.requests) == 2:
            status(400, b"no")(handler, request)
        else:
            handler.send(200, completion(GOOD))

    with serve(act) as server:
        flags = ["--split", "train", "--endpoint", server.endpoint, "--model_name", "some-model"]
        assert build(data, *flags) == 0
        output = capsys.readouterr().out
        assert "MMR_train.json: 3 questions about 3 images" in output
        assert "rejected, logicality and reasoning: the question names a target: 3" in output
        assert re.search(r"rejected, not answered: HTTP 400: no: 1", output)
        assert len(server.requests) == 4
        assert build(data, *flags) == 0
        assert len(server.requests) == 5, "only the image that was not answered is asked again"
        assert "MMR_train.json: 4 questions about 4 images" in capsys.readouterr().out
        assert build(data, *flags) == 0
        assert "already built" in capsys.readouterr().out
        assert len(server.requests) == 5
    images = read_mmr(data.parent / "root/MMR/MMR_train.json")
    assert {question.text_answer for image in images for question in image.questions} == {
        "The car's front wheel {seg} and the car's rear wheel {seg} turn."
    }
    account = json.loads((data.parent / "root/MMR/MMR_train.build.json").read_text())
    assert (account["maker"]["maker"], account["maker"]["model_name"]) == ("chat", "some-model")
