"""A chat endpoint names the parts, and a segmenter segments them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partonomy.masks import decode_mask
from partonomy.models.chat_segmenter import NAMING_PROMPT, find_phrases
from partonomy.structures import QuestionType
from tests.partonomy.conftest import HEIGHT, WIDTH, write_questions
from tests.partonomy.models.chat_server import Handler, Request, ScriptedServer, completion, say, serve
from tests.partonomy.models.tiny_segmenters import save_clipseg
from tests.partonomy.running import question_records
from validate_partonomy import main


@pytest.mark.parametrize(
    ("reply", "names"),
    [
        ("wing\ntail fin", ["wing", "tail fin"]),
        ("- wing\n* **tail fin**\n• `door`", ["wing", "tail fin", "door"]),
        ("1. wing\n2) the tail fin.\n10. A door!", ["wing", "tail fin", "door"]),
        ("It has a wing, a tail fin, and the door.", ["wing", "tail fin", "door"]),
        ("The visible parts are: wing; tail fin", ["wing", "tail fin"]),
        ("Visible parts:\nwing", ["wing"]),
        ('```json\n["wing", "tail fin"]\n```', ["wing", "tail fin"]),
        ("<think>a rudder,\nor a mast?</think>\nwing", ["wing"]),
        ("<think>a rudder, cut off", []),
        ("wing (left)\nwing\nWING.", ["wing"]),
        ("*wing*\n_tail fin_\n'door'", ["wing", "tail fin", "door"]),
        ("none", []),
        ("None.", []),
        ("", []),
        ("...\n-\n12", []),
        ("I can clearly see that it is a very old plane\nwing", ["wing"]),
        ("landing gear and wheels", ["landing gear and wheels"]),
        ("aileron\nandiron\nthermostat", ["aileron", "andiron", "thermostat"]),
        ("Flügel\n尾翼", ["Flügel", "尾翼"]),
        ("wing\r\ntail fin\r\n", ["wing", "tail fin"]),
        ("F-16 wing\n2nd wheel", ["F-16 wing", "2nd wheel"]),
    ],
)
def test_part_names_are_found_in_a_reply(reply: str, names: list[str]) -> None:
    spans = find_phrases(reply)
    assert [reply[span.start : span.end] for span in spans] == names


class ByName:
    """The mask of a name is the row of its length."""

    def __init__(self) -> None:
        self._shape = (0, 0)

    def load(self, device: str) -> None:
        """Nothing."""

    def set_image(self, image: np.ndarray) -> None:
        """Note the size."""
        self._shape = image.shape[:2]

    def segment_phrases(self, phrases: Sequence[str]) -> np.ndarray:
        """Mark the row of the phrase's length."""
        masks = np.zeros((len(phrases), *self._shape), dtype=bool)
        for mask, phrase in zip(masks, phrases, strict=True):
            mask[len(phrase)] = True
        return masks


def answer(handler: Handler, request: Request) -> None:
    """Name two parts if asked for names; otherwise choose the first choice."""
    text = text_of(request)
    handler.send(200, completion("- wing\n- tail fin" if text.endswith(NAMING_PROMPT) else "A"))


def text_of(request: Any) -> str:
    """The last question of a request."""
    content = request["messages"][-1]["content"]
    return str(content if isinstance(content, str) else content[-1]["text"])


def flags(server: ScriptedServer, questions: Path, output: Path, segmenter: str) -> list[str]:
    model = ["--model", "chat_segmenter", "--endpoint", server.endpoint, "--model_name", "some-model"]
    model += ["--segmenter", segmenter, "--device", "cpu"]
    return [*model, "--questions", str(questions), "--output", str(output)]


def test_a_run_has_choices_masks_and_own_answers(tmp_path: Path) -> None:
    types = (QuestionType.IDENTIFICATION_WITH_LABEL, QuestionType.WHOLE_TO_PART)
    questions = write_questions(tmp_path, types, num_images=2)
    own = f"{ByName.__module__}:ByName"
    with serve(answer) as server:
        summary = main([*flags(server, questions, tmp_path / "run", own), "--generate", "all"])
        num_requests = len(server.requests)
        prompts = [text_of(request.body) for request in server.requests]
    assert summary is not None
    recorded = summary.provenance["config"]
    assert recorded["model"]["naming_prompt"] == NAMING_PROMPT
    assert recorded["options"]["choice_protocol"] == "listwise"
    assert summary.provenance["model"] == "chat_segmenter:some-model+ByName"
    assert summary.num_failed == 0
    assert num_requests == 2 * (1 + 1) + 2 * (2 + 1)  # choices and the answer; the second type has two choices
    assert sum(prompt.endswith(NAMING_PROMPT) for prompt in prompts) == 4
    for entry in summary.groups.values():
        if entry.num_expected:
            assert all(estimate.value is not None for estimate in entry.metrics.values())
    for record in question_records(tmp_path / "run"):
        assert record.parts_choice is not None
        assert record.parts_choice.listwise is not None
        assert record.segmentation is not None
        assert record.generation is not None
        assert record.generation.text == "- wing\n- tail fin"
        assert [(span.start, span.end) for span in record.generation.spans] == [(2, 6), (9, 17)]
        assert record.generation.confidences == (1.0, 1.0)
        masks = [decode_mask(mask) for mask in record.generation.masks.masks]
        assert [mask.shape for mask in masks] == [(HEIGHT, WIDTH)] * 2
        assert [mask.any(1).nonzero()[0].tolist() for mask in masks] == [[len("wing")], [len("tail fin")]]


def test_a_named_segmenter_a_prompt_of_ones_own_and_a_refusal(tmp_path: Path) -> None:
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION_WITH_LABEL,), num_images=1)
    options = ["--segmenter_options", json.dumps({"model": str(save_clipseg(tmp_path / "clipseg"))})]
    with serve(say("A"), say(None, refusal="No.")) as server:
        arguments = [*flags(server, questions, tmp_path / "run", "clipseg"), *options, "--naming_prompt", "Parts?"]
        with pytest.raises(SystemExit, match="own answer only"):
            main(arguments)
        assert text_of(server.requests[-1].body).endswith("\nParts?")
        with pytest.raises(SystemExit, match=r"model\.naming_prompt \(was 'Parts\?', now 'Names\?'\)"):
            main([*arguments[:-1], "Names?", "--resume"])
    (record,) = question_records(tmp_path / "run")
    assert record.segmentation is not None
    assert record.generation is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--segmenter", "clipseg"], "clipseg needs the option 'model'"),
        ([], "--model chat_segmenter needs --segmenter grounded_sam2|"),
        (["--segmenter", "clipseg", "--model", "open_vocabulary"], "--endpoint belongs to --model chat and chat_segm"),
        (["--segmenter", "x:Y", "--dtype", "float16"], "--dtype belongs to named segmenters, not to x:Y"),
        (["--segmenter", "clipseg", "--model", "chat"], "--segmenter belongs to --model open_vocabulary and chat_seg"),
        (
            ["--choice_protocol", "likelihood", "--segmenter", f"{ByName.__module__}:ByName"],
            "--model chat_segmenter kn",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path: Path, change: list[str], message: str) -> None:
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION,), num_images=1)
    model = ["--model", "chat_segmenter", "--endpoint", "http://h/v1", "--model_name", "m"]
    with pytest.raises(SystemExit) as caught:
        main([*model, "--questions", str(questions), "--output", str(tmp_path / "run"), *change])
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()
