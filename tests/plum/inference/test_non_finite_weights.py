import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from partonomy.models.contract import AnswerRequest, ChoiceRequest, MaskRequest, ModelUnavailable
from plum.checkpoints.store import load_pretrained, save_pretrained
from plum.cli.main import main
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from plum.models.grounded_lmm import GroundedLMM
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import ANSWER, QUESTION, SPANS, make_image, make_model, make_predictor

IMAGE = make_image()
HEAD = "llava.network.lm_head.weight"


def spoil(model: GroundedLMM, name: str, value: float) -> None:
    """Set one number of a tensor."""
    with torch.no_grad():
        tensor = model.state_dict()[name].view(-1)
        tensor[len(tensor) // 2] = value  # not of a suppressed token


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    model = make_model()
    spoil(model, HEAD, value)
    save_pretrained(model, byte_level(), tmp_path / "bad", "")
    kind = "1 NaN and 0 infinite" if math.isnan(value) else "0 NaN and 1 infinite"
    with pytest.raises(ValueError, match=rf"model.safetensors: the tensor {HEAD} holds {kind} values"):
        load_pretrained(tmp_path / "bad")


def test_weights_beyond_the_dtype_are_refused_by_name(tmp_path: Path) -> None:
    model = make_model()
    spoil(model, HEAD, 1e6)
    save_pretrained(model, byte_level(), tmp_path / "large", "")
    load_pretrained(tmp_path / "large", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=rf"{HEAD} has values up to 1e\+06, which torch.float16 cannot hold"):
        load_pretrained(tmp_path / "large", dtype=torch.float16)


def test_large_finite_weights_are_no_damage(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.state_dict()[HEAD].fill_(3e38)  # their sum is infinite
    save_pretrained(model, byte_level(), tmp_path / "large", "")
    load_pretrained(tmp_path / "large")


ALONE: dict[str, Callable[[Predictor], object]] = {
    "generate": lambda predictor: predictor.generate(IMAGE, QUESTION, 4),
    "generate_text": lambda predictor: predictor.generate_text(IMAGE, QUESTION, 4),
    "score_choices": lambda predictor: predictor.score_choices(IMAGE, QUESTION, [ANSWER]),
}
TOGETHER: dict[str, Callable[[QuestionBatch], object]] = {
    "generate": lambda batch: batch.generate([AnswerRequest(0, QUESTION)], 4),
    "score_choices": lambda batch: batch.score_choices([ChoiceRequest(0, QUESTION, (ANSWER,), ((),))]),
}


@pytest.mark.parametrize("name", ALONE)
def test_broken_logits_are_refused_with_the_name_of_the_weights(name: str) -> None:
    predictor = make_predictor()
    predictor.model.llava.weights_name = "runs/mine/model"
    spoil(predictor.model, HEAD, float("nan"))
    with pytest.raises(ModelUnavailable, match="the weights of runs/mine/model give NaN or infinite next-token logits"):
        ALONE[name](predictor)


@pytest.mark.parametrize("name", TOGETHER)
def test_broken_logits_of_a_batch_are_refused(name: str) -> None:
    predictor = make_predictor()
    spoil(predictor.model, HEAD, float("nan"))
    batch = QuestionBatch(predictor, [predictor.images.read(IMAGE)])
    with pytest.raises(ModelUnavailable, match="give NaN or infinite next-token logits"):
        TOGETHER[name](batch)


def test_broken_mask_logits_are_refused() -> None:
    predictor = make_predictor()
    name = next(name for name in predictor.model.state_dict() if name.startswith("query_projection."))
    spoil(predictor.model, name, float("inf"))
    with pytest.raises(ModelUnavailable, match="weights of the model give NaN mask logits; the weights are damaged"):
        predictor.segment(IMAGE, QUESTION, ANSWER, SPANS)
    batch = QuestionBatch(predictor, [predictor.images.read(IMAGE)])
    with pytest.raises(ModelUnavailable, match="NaN mask logits"):
        batch.segment([MaskRequest(0, QUESTION, ANSWER, SPANS)])


@pytest.mark.parametrize("command", ["segment", "predict", "chat"])
def test_commands_end_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    save_pretrained(make_model(), byte_level(), tmp_path / "model", "")
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    write = Predictor.write_about

    def spoiled_write(self: Predictor, *arguments: object) -> object:
        spoil(self.model, HEAD, float("nan"))
        return write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "write_about", spoiled_write)
    monkeypatch.setattr("builtins.input", lambda prompt: "Which parts?")
    photo = [str(tmp_path / "photo.png")] if command == "predict" else ["--image", str(tmp_path / "photo.png")]
    question = [] if command == "chat" else ["--question", "Which parts?"]
    words = [command, *photo, *question, "--checkpoint", str(tmp_path / "model"), "--output", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu", "--max_new_tokens", "4"]) == 1
    error = capsys.readouterr().err
    assert f"error: the weights of {tmp_path / 'model'} give NaN or infinite next-token logits" in error
