from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from partonomy.masks import encode_mask
from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan
from plum.data.collate import Collator
from plum.inference.answer_encoder import split_turns
from plum.inference.predictor import Predictor
from plum.inputs.bio_labels import Tag
from plum.models.segmenters.mask_resize import masks_in_original_pixels
from plum.structures import Batch, Exchange, Sample
from plum.train_config import DataConfig, SourceConfig
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import ANSWER, HISTORY, QUESTION, SPANS, make_image, make_predictor

DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))


@pytest.fixture
def predictor() -> Predictor:
    return make_predictor()


def _collate(predictor: Predictor, image: np.ndarray, exchanges: Sequence[Exchange]) -> Batch:
    return Collator(byte_level(), predictor.model.config, DATA)([Sample("s", "test", image, (tuple(exchanges),))])


@dataclass
class Script:
    """Replaces the model's free choices: what it writes, and what it tags (characters of the answer)."""

    answer: str
    tagged: Sequence[CharSpan] = ()
    tag_end_token: bool = False

    def install(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, turns: Sequence[Turn]) -> None:
        def generate_text(*_: object) -> Tensor:
            return torch.tensor([byte_level()(" " + self.answer + "</s>")["input_ids"]])

        def tag(hidden_states: Tensor, attention_mask: Tensor, is_read: Tensor, *_: Tensor) -> Tensor:
            history, question = split_turns(turns)
            row = predictor.encoder.encode([*history, Exchange(question, self.answer, tuple(self.tagged))])
            tags = torch.tensor(row.tags).clamp(min=0)
            tags[: row.answers[-1].start] = Tag.B  # prompt tokens must not be read
            if self.tag_end_token:
                tags[-1] = Tag.B
            assert tags.shape == attention_mask.shape[1:] == hidden_states.shape[1:2]
            return torch.nn.functional.one_hot(tags, 3)[None].float()[is_read] * 4

        monkeypatch.setattr(predictor.model, "generate_text", generate_text)
        monkeypatch.setattr(predictor.model, "tag", tag)


def test_segment_equals_the_training_forward(predictor: Predictor) -> None:
    image = make_image()
    found = predictor.segment(image, QUESTION, ANSWER, SPANS)
    masks = (encode_mask(np.zeros(image.shape[:2], dtype=bool)),) * 3
    batch = _collate(predictor, image, [Exchange(QUESTION[0].text, ANSWER, SPANS, masks)])
    with torch.no_grad():
        output = predictor.model(batch, with_teacher=False)
    logits = torch.stack(masks_in_original_pixels(output.mask_logits, batch.frames * 3, 32))
    assert found.masks.dtype == bool
    assert np.array_equal(found.masks, (logits > 0).numpy())
    for mask, confidence, probability in zip(logits > 0, found.confidences, logits.sigmoid(), strict=True):
        expected = float(probability[mask].mean()) if mask.any() else 0.0
        assert confidence == pytest.approx(expected, abs=1e-5)


def test_segment_returns_the_callers_order(predictor: Predictor) -> None:
    image = make_image()
    straight = predictor.segment(image, HISTORY, ANSWER, SPANS)
    turned = predictor.segment(image, HISTORY, ANSWER, [SPANS[2], SPANS[0], SPANS[1]])
    assert np.array_equal(turned.masks, straight.masks[[2, 0, 1]])
    assert turned.confidences == tuple(straight.confidences[i] for i in (2, 0, 1))


def test_segment_without_spans_gives_no_masks(predictor: Predictor) -> None:
    found = predictor.segment(make_image(), QUESTION, ANSWER, ())
    assert found.masks.shape == (0, 20, 28)
    assert found.confidences == ()


@pytest.mark.parametrize("span", [CharSpan(40, 90), CharSpan(3, 3), CharSpan(-2, 3)])
def test_spans_outside_of_the_answer_are_refused(predictor: Predictor, span: CharSpan) -> None:
    with pytest.raises(ValueError, match="lies outside of the answer"):
        predictor.segment(make_image(), QUESTION, ANSWER, [span])


def test_scores_equal_sums_of_the_models_log_probabilities(predictor: Predictor) -> None:
    image = make_image()
    (score,) = predictor.score_choices(image, QUESTION, [ANSWER])
    batch = _collate(predictor, image, [Exchange(QUESTION[0].text, ANSWER)])
    with torch.no_grad():
        output = predictor.model(batch, with_teacher=False)
        everything = predictor.model.token_logits(output.hidden_states)[0].log_softmax(-1)
    answer = output.token_logits.log_softmax(-1).gather(1, output.token_labels[:, None]).sum()
    assert score.answer_log_prob == pytest.approx(float(answer), rel=1e-5)
    assert score.answer_tokens == len(output.token_labels)
    ids = batch.input_ids[0].tolist()
    image_id = byte_level().convert_tokens_to_ids("<image>")
    text = [i for i in range(1, len(ids)) if ids[i] != image_id]
    assert score.conversation_tokens == len(text)
    assert score.conversation_log_prob == pytest.approx(sum(float(everything[i - 1, ids[i]]) for i in text), rel=1e-5)


def test_choices_in_one_batch_equal_choices_alone(predictor: Predictor) -> None:
    choices = ["A wheel.", ANSWER, "It is the horizontal stabilizer.", "No", "wheel, window"]
    together = predictor.score_choices(make_image(), HISTORY, choices)
    for choice, score in zip(choices, together, strict=True):
        (alone,) = predictor.score_choices(make_image(), HISTORY, [choice])
        assert score.answer_tokens == alone.answer_tokens
        assert score.conversation_tokens == alone.conversation_tokens
        assert score.answer_log_prob == pytest.approx(alone.answer_log_prob, rel=1e-5)
        assert score.conversation_log_prob == pytest.approx(alone.conversation_log_prob, rel=1e-5)


def test_one_image_is_encoded_once_and_scoring_never_asks_sam(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    clip, sam = predictor.model.llava.encode_images, predictor.model.sam.encode_images

    def count_clip(pixels: Tensor) -> Tensor:
        calls.append("clip")
        return clip(pixels)

    def count_sam(pixels: Tensor) -> Tensor:
        calls.append("sam")
        return sam(pixels)

    monkeypatch.setattr(predictor.model.llava, "encode_images", count_clip)
    monkeypatch.setattr(predictor.model.sam, "encode_images", count_sam)
    image = make_image()
    predictor.score_choices(image, QUESTION, ["a", "b"])
    predictor.score_choices(image.copy(), QUESTION, ["c"])
    assert calls == ["clip"]
    predictor.segment(image, QUESTION, ANSWER, SPANS)
    predictor.segment(image, HISTORY, ANSWER, SPANS)
    assert calls == ["clip", "sam"]
    image[0, 0] += 1  # the caller reuses its array for another image
    predictor.score_choices(image, QUESTION, ["a"])
    assert calls == ["clip", "sam", "clip"]


@pytest.mark.parametrize("turns", [QUESTION, HISTORY])
def test_generate_reads_its_own_tags(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, turns: tuple[Turn, ...]
) -> None:
    Script(ANSWER, SPANS, tag_end_token=True).install(predictor, monkeypatch, turns)
    image = make_image()
    found = predictor.generate(image, turns)
    assert found.text == ANSWER
    assert found.spans == SPANS
    expected = float(torch.tensor([4.0, 0.0, 0.0]).softmax(0)[0])
    assert found.tag_confidences == pytest.approx((expected,) * 3)
    forced = predictor.segment(image, turns, ANSWER, SPANS)
    assert np.array_equal(found.masks, forced.masks)
    assert found.mask_confidences == forced.confidences


def test_an_answer_without_tags_has_no_masks(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    Script("No, it does not.").install(predictor, monkeypatch, QUESTION)
    found = predictor.generate(make_image(), QUESTION)
    assert (found.text, found.spans, found.masks.shape) == ("No, it does not.", (), (0, 20, 28))


def test_an_empty_answer_is_an_answer(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    Script("").install(predictor, monkeypatch, QUESTION)
    found = predictor.generate(make_image(), QUESTION)
    assert (found.text, found.spans, found.masks.shape) == ("", (), (0, 20, 28))


def test_untrained_generation_is_greedy_and_repeatable(predictor: Predictor) -> None:
    first, second = (predictor.generate(make_image(), QUESTION, max_new_tokens=8) for _ in range(2))
    assert first.text == second.text
    assert first.spans == second.spans
    assert len(first.spans) == len(first.masks) == len(first.mask_confidences) == len(first.tag_confidences)


def test_text_only_conversations(predictor: Predictor) -> None:
    (score,) = predictor.score_choices(None, QUESTION, ["A wheel."])
    assert score.answer_log_prob < 0
    assert predictor.generate(None, QUESTION, max_new_tokens=4).masks.shape == (0, 0, 0)


def test_turns_become_exchanges() -> None:
    history, question = split_turns(HISTORY)
    assert history == (Exchange("Where is the wheel?", "It is the wheel."),)
    assert question == QUESTION[0].text


@pytest.mark.parametrize("turns", [(), HISTORY[:2], HISTORY[1:2], (HISTORY[0], HISTORY[0], HISTORY[0])])
def test_turns_that_do_not_alternate_are_refused(turns: tuple[Turn, ...]) -> None:
    with pytest.raises(ValueError, match="must alternate"):
        split_turns(turns)


def test_conversations_beyond_the_models_positions_are_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="given answer: .*text tokens"):
        predictor.segment(make_image(), (Turn(Role.USER, "wheel " * 600),), ANSWER, SPANS)
