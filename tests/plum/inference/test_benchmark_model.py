from pathlib import Path

import numpy as np
import pytest
import torch

from partonomy.benchmarks.segmentation import (
    EXPRESSION_WORDINGS,
    SENTENCE_WORDINGS,
    SegmentationItem,
    Wording,
    forced_answer,
    segmentation_prompt,
)
from partonomy.masks import encode_mask
from partonomy.models.contract import AnswerRequest, ChoiceRequest, MaskRequest, ReplyRequest
from plum.checkpoints.model_config_io import write_model_config
from plum.config import LoraConfig
from plum.data.sources.reasoning import AnswerForm, ask
from plum.data.sources.referring import refer, target_answer
from plum.data.sources.wordings import REASON, REFER_EXPRESSION
from plum.inference.partonomy_adapter import BatchedPlum, PlumModel, check_has_adapters
from plum.inference.predictor import Predictor
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import ANSWER, QUESTION, SPANS, make_image

LORA = LoraConfig(rank=2)


def make_adapted() -> Predictor:
    """A tiny model whose adapters do something."""
    torch.manual_seed(0)
    tokenizer = byte_level()
    model = build_model(with_special_tokens(tiny_model_config(len(tokenizer), lora=LORA), tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape))
    return Predictor(model, tokenizer, model.config)


def zero_adapters(predictor: Predictor) -> Predictor:
    with torch.no_grad():
        for name, parameter in predictor.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    return predictor


def test_the_base_is_the_model_without_its_adapters() -> None:
    image = make_image()
    base = PlumModel(make_adapted(), "base", is_base=True, max_new_tokens=6)
    adapted = PlumModel(make_adapted(), "plum", max_new_tokens=6)
    plain = PlumModel(zero_adapters(make_adapted()), "plain", max_new_tokens=6)
    assert base.reply(image, QUESTION) == plain.reply(image, QUESTION) != adapted.reply(image, QUESTION)
    generated, expected = base.generate(image, QUESTION), plain.generate(image, QUESTION)
    assert (generated.text, generated.spans) == (expected.text, expected.spans)
    masks = base.segment(image, QUESTION, ANSWER, SPANS)
    assert np.array_equal(masks, plain.segment(image, QUESTION, ANSWER, SPANS))
    assert not np.array_equal(masks, adapted.segment(image, QUESTION, ANSWER, SPANS))


def test_batches_are_the_bases_too() -> None:
    image = make_image()
    base = BatchedPlum(make_adapted(), "base", is_base=True, max_new_tokens=6)
    plain = PlumModel(zero_adapters(make_adapted()), "plain", max_new_tokens=6)
    choices, phrases = ("a wheel", ANSWER), ((), tuple(SPANS))
    batch = base.open_batch([base.read_image(image)])
    (scores,) = batch.score_choices([ChoiceRequest(0, QUESTION, choices, phrases)])
    for found, expected in zip(scores, plain.score_choices(image, QUESTION, choices), strict=True):
        assert found.answer_log_prob == pytest.approx(expected.answer_log_prob, abs=1e-4)
    (masks,) = batch.segment([MaskRequest(0, QUESTION, ANSWER, tuple(SPANS))])
    assert np.array_equal(masks, plain.segment(image, QUESTION, ANSWER, SPANS))
    (reply,) = batch.reply([ReplyRequest(0, QUESTION)])
    (own,) = batch.generate([AnswerRequest(0, QUESTION)])
    assert (reply, own.text) == (plain.reply(image, QUESTION), plain.generate(image, QUESTION).text)


def test_adapters_are_on_again_after_a_question() -> None:
    image, predictor = make_image(), make_adapted()
    before = predictor.generate_text(image, QUESTION, 6)
    PlumModel(predictor, "base", is_base=True, max_new_tokens=6).reply(image, QUESTION)
    assert predictor.generate_text(image, QUESTION, 6) == before
    merged = predictor.model
    merged.llava.network = merged.llava.network.merge_and_unload()
    assert predictor.generate_text(image, QUESTION, 6) == before


def test_answers_end_after_the_given_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, lengths = make_adapted(), []
    generate = predictor.model.generate_text

    def record(*arguments: torch.Tensor) -> torch.Tensor:
        new_ids = generate(*arguments)
        lengths.append(new_ids.shape[1])
        return new_ids

    monkeypatch.setattr(predictor.model, "generate_text", record)
    model = PlumModel(predictor, "plum", max_new_tokens=2)
    model.reply(make_image(), QUESTION)
    model.generate(make_image(), QUESTION)
    PlumModel(predictor, "plum", max_new_tokens=5).reply(make_image(), QUESTION)
    assert lengths == [2, 2, 5]


def test_a_model_without_adapters_has_no_base(tmp_path: Path) -> None:
    write_model_config(tiny_model_config(40), tmp_path)
    with pytest.raises(ValueError, match="has no adapters to switch off"):
        check_has_adapters(tmp_path)
    write_model_config(tiny_model_config(40, lora=LORA), tmp_path)
    check_has_adapters(tmp_path)


@pytest.mark.parametrize("text", ["the left cup", "Man in red.", "the lens that magnifies"])
@pytest.mark.parametrize("is_sentence", [False, True])
@pytest.mark.parametrize("target_name", ["", "a cup with two handles"])
def test_questions_and_forced_answers_are_those_of_the_training(text: str, is_sentence: bool, target_name: str) -> None:
    assert EXPRESSION_WORDINGS[Wording.PLUM] == REFER_EXPRESSION[0]
    assert SENTENCE_WORDINGS[Wording.PLUM] == REASON[0]
    mask = encode_mask(np.ones((4, 5), dtype=bool))
    item = SegmentationItem("i", "1", Path("1.jpg"), 4, 5, text, is_sentence, mask, target_name=target_name)
    trained = ask(item, REASON[0] if is_sentence else REFER_EXPRESSION[0], AnswerForm.MASK, "", target_answer(item))
    forced = forced_answer(item)
    assert segmentation_prompt(item, Wording.PLUM) == trained.question
    assert (forced.text, (forced.span,)) == (trained.answer, trained.spans)
    if target_name:
        assert forced.text == "a cup with two handles."
        assert forced.text[forced.span.start : forced.span.end] == target_name
    if not is_sentence and text == text.lower():
        assert refer([item], REFER_EXPRESSION[0]).answer == forced.text
