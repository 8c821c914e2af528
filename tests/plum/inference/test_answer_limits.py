from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from partonomy.models.contract import AnswerRequest, ReplyRequest, Role, Turn
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from tests.plum.predictor_world import ANSWER, QUESTION, SPANS, make_image, make_predictor

IMAGE = make_image()


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return make_predictor()


def turns_with_room(predictor: Predictor, room: int) -> tuple[Turn, ...]:
    """A question that leaves room for so many tokens of an answer."""
    limit = predictor.encoder.text_limit(len(predictor.encoder.slot().ids))
    assert limit is not None
    num_others = predictor.encoder.encode_prompt((), "1").num_text_tokens - 1
    turns = (Turn(Role.USER, "1" * (limit - 1 - room - num_others)),)  # each digit is a token
    assert predictor.encoder.encode_prompt((), turns[0].text).num_text_tokens == limit - 1 - room
    return turns


@pytest.mark.parametrize("room", [1, 2, 9])
def test_an_answer_is_cut_to_the_room_that_is_left(predictor: Predictor, room: int) -> None:
    turns = turns_with_room(predictor, room)
    written = predictor.write(IMAGE, turns)
    assert written.num_tokens <= room
    prediction = predictor.generate(IMAGE, turns)
    assert (prediction.text, prediction.num_tokens) == (written.text, written.num_tokens)
    assert prediction.finish_reason == "length"


def test_a_full_conversation_is_refused_before_the_model_runs(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate_text(*arguments: object) -> Tensor:
        raise AssertionError("the model ran")

    monkeypatch.setattr(predictor.model, "generate_text", generate_text)
    (turn,) = turns_with_room(predictor, 1)
    for text in (f"{turn.text}1", turn.text * 3):
        with pytest.raises(
            ValueError, match="the conversation is full: .* begin a new one \\(in chat: /reset\\)"
        ) as caught:
            predictor.generate(IMAGE, (Turn(Role.USER, text),))
        assert "max_text_tokens" not in str(caught.value)
    with pytest.raises(ValueError, match="choice 0: the conversation is full"):
        predictor.score_choices(IMAGE, (turn,), [ANSWER])
    with pytest.raises(ValueError, match="given answer: the conversation is full"):
        predictor.segment(IMAGE, (turn,), ANSWER, SPANS)


def test_a_batch_cuts_each_answer_to_its_own_room(predictor: Predictor) -> None:
    conversations = [turns_with_room(predictor, 5), QUESTION, turns_with_room(predictor, 1)]
    alone = [predictor.generate(IMAGE, turns, 12).text for turns in conversations]
    batch = QuestionBatch(predictor, [predictor.images.read(IMAGE)])
    together = batch.generate([AnswerRequest(0, turns) for turns in conversations], 12)
    assert [answer.text for answer in together] == alone
    assert batch.reply([ReplyRequest(0, turns) for turns in conversations], 12) == alone


@pytest.mark.parametrize(
    ("num_written", "ends", "expected"), [(3, True, (4, "stop")), (3, False, (3, "length")), (0, True, (1, "stop"))]
)
def test_the_end_token_tells_a_whole_answer_from_a_cut_one(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, num_written: int, ends: bool, expected: tuple[int, str]
) -> None:
    tokens = predictor.model.llava.special_tokens
    words: Sequence[int] = predictor.tokenizer(" wheel wing wheel", add_special_tokens=False)["input_ids"][:num_written]
    ids = torch.tensor([[*words, *[tokens.eos] * ends, *[tokens.pad] * (2 * ends)]])
    monkeypatch.setattr(predictor.model, "generate_text", lambda *arguments: ids)
    found = predictor.generate(IMAGE, QUESTION, 3 + int(ends))
    assert (found.num_tokens, found.finish_reason) == expected


def test_text_that_needs_more_tokens_than_it_was_written_in_is_cut(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = turns_with_room(predictor, 6)
    monkeypatch.setattr(Predictor, "read_answer", lambda self, ids: "\ufffd" * 6)
    written = predictor.write(IMAGE, turns)
    assert 0 < len(written.text) < 6
    assert written.finish_reason == "length"
    predictor.answers.own([predictor.encoder.slot()], turns, written.text)


def test_no_new_tokens_is_no_limit(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        predictor.write(IMAGE, QUESTION, 0)
