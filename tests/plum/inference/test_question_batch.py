from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from partonomy.models.contract import AnswerRequest, ChoiceRequest, MaskRequest, Role, Turn
from plum.config import LoraConfig
from plum.inference import question_batch
from plum.inference.predictor import Predictor, WrittenAnswer
from plum.inference.question_batch import QuestionBatch
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from tests.plum.data.tokenizers_for_tests import FAMILIES
from tests.plum.predictor_world import ANSWER, HISTORY, QUESTION, SPANS, make_image, make_predictor

CHOICES = ("A wheel.", ANSWER, "It has a front wheel, a wheel.", "No", "It is the horizontal stabilizer.")
OTHER = (Turn(Role.USER, "Where is the rest?"),)
IMAGES = (make_image(0), make_image(1, 30, 22))


def scored(image: int, turns: Sequence[Turn], choices: Sequence[str] = CHOICES) -> ChoiceRequest:
    return ChoiceRequest(image, tuple(turns), tuple(choices), ((),) * len(choices))


def segmented(image: int, turns: Sequence[Turn]) -> MaskRequest:
    return MaskRequest(image, tuple(turns), ANSWER, (SPANS[2], SPANS[0], SPANS[1]))


def open_batch(predictor: Predictor, images: Sequence[np.ndarray] = IMAGES) -> QuestionBatch:
    return QuestionBatch(predictor, [predictor.images.read(image) for image in images])


def check(predictor: Predictor, batch: QuestionBatch, requests: Sequence[ChoiceRequest]) -> None:
    """Scores and masks are those of the questions asked one by one."""
    for request, found in zip(requests, batch.score_choices(requests), strict=True):
        expected = predictor.score_choices(IMAGES[request.image], request.turns, request.choices)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours.answer_tokens, ours.conversation_tokens) == (theirs.answer_tokens, theirs.conversation_tokens)
            assert ours.answer_log_prob == pytest.approx(theirs.answer_log_prob, abs=1e-4)
            assert ours.conversation_log_prob == pytest.approx(theirs.conversation_log_prob, abs=1e-4)
    asked = [segmented(request.image, request.turns) for request in requests]
    for mask_request, masks in zip(asked, batch.segment(asked), strict=True):
        one = predictor.segment(IMAGES[mask_request.image], mask_request.turns, ANSWER, mask_request.spans)
        assert np.array_equal(masks, one.masks)
        assert masks.dtype == bool


def test_a_batch_gives_the_scores_and_masks_of_single_questions() -> None:
    predictor = make_predictor()
    requests = [scored(image, turns) for image in (0, 1) for turns in (QUESTION, HISTORY, OTHER)]
    check(predictor, open_batch(predictor), requests)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_any_tokenizer_shares_what_its_ids_share(family: str) -> None:
    tokenizer = FAMILIES[family]()
    torch.manual_seed(0)
    config = with_special_tokens(tiny_model_config(len(tokenizer), lora=LoraConfig()), tokenizer)
    predictor = Predictor(build_model(config), tokenizer, config)
    check(predictor, open_batch(predictor), [scored(0, QUESTION), scored(1, HISTORY), scored(0, OTHER, ["wheel"])])


def test_grouped_key_value_heads() -> None:
    from dataclasses import replace

    config = make_predictor().model.config
    language = replace(config.llava.language, num_key_value_heads=2)
    config = replace(config, llava=replace(config.llava, language=language))
    torch.manual_seed(0)
    predictor = Predictor(build_model(config), FAMILIES["byte_level"](), config)
    check(predictor, open_batch(predictor), [scored(0, QUESTION), scored(1, HISTORY)])


def test_a_follow_up_costs_its_own_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor()
    computed: list[int] = []
    run_layers = predictor.model.llava.run_layers

    def count(embeddings: torch.Tensor, positions: torch.Tensor, *rest: object) -> torch.Tensor:
        computed.append(len(embeddings))
        return run_layers(embeddings, positions, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor.model.llava, "run_layers", count)
    batch = open_batch(predictor)
    first_answer = HISTORY[1].text
    batch.score_choices([scored(0, HISTORY[:1], [first_answer, "A wheel."])])
    batch.score_choices([scored(0, HISTORY, ["No"])])
    batch.segment([MaskRequest(0, HISTORY, "No", ())])
    before = predictor.answers.given([predictor.encoder.slot()], HISTORY[:1], first_answer, "first")
    whole = predictor.answers.given([predictor.encoder.slot()], HISTORY, "No", "second")
    assert before.encoded.input_ids == whole.encoded.input_ids[: len(before.encoded.input_ids)]
    assert computed[1:] == [len(whole.encoded.input_ids) - len(before.encoded.input_ids)]
    other = predictor.answers.given([predictor.encoder.slot()], HISTORY[:1], "A wheel.", "other")
    shared = int(np.argmin([a == b for a, b in zip(before.encoded.input_ids, other.encoded.input_ids, strict=False)]))
    rest = len(before.encoded.input_ids) + len(other.encoded.input_ids) - 2 * shared
    assert computed[0] == shared + rest  # the other image has no question yet, so that nothing is computed for it


def test_nothing_is_computed_after_the_last_phrase(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor()
    computed: list[int] = []
    run_layers = predictor.model.llava.run_layers

    def count(embeddings: torch.Tensor, positions: torch.Tensor, *rest: object) -> torch.Tensor:
        computed.append(len(embeddings))
        return run_layers(embeddings, positions, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor.model.llava, "run_layers", count)
    batch = open_batch(predictor, IMAGES[:1])
    (masks,) = batch.segment([MaskRequest(0, QUESTION, ANSWER, SPANS[:1])])
    forced = predictor.answers.forced([predictor.encoder.slot()], QUESTION, ANSWER, SPANS[:1])
    assert computed == [forced.spans[0].end]
    assert computed[0] < len(forced.row.encoded.input_ids) - 1
    assert np.array_equal(masks, predictor.segment(IMAGES[0], QUESTION, ANSWER, SPANS[:1]).masks)
    (nothing,) = batch.segment([MaskRequest(0, OTHER, ANSWER, ())])
    assert nothing.shape == (0, *IMAGES[0].shape[:2])
    assert len(computed) == 1


@pytest.mark.parametrize(("bytes_of_masks", "calls"), [(2**24, 1), (2 * 4 * 16 * 16, 2), (1, 3)])
def test_masks_on_a_cpu_are_decoded_in_loops_that_fit_its_cache(
    monkeypatch: pytest.MonkeyPatch, bytes_of_masks: int, calls: int
) -> None:
    predictor = make_predictor()
    sam = predictor.model.config.sam
    assert (sam.prompt_dim, predictor.model.sam.grid) == (16, (4, 4))
    decoded: list[int] = []
    decode = predictor.model.decode_masks

    def count(states: torch.Tensor, *others: Any) -> torch.Tensor:
        decoded.append(len(states))
        return decode(states, *others)

    monkeypatch.setattr(predictor.model, "decode_masks", count)
    monkeypatch.setattr(question_batch, "MAX_DECODED_BYTES_ON_CPU", bytes_of_masks)
    open_batch(predictor).segment([segmented(0, QUESTION), segmented(1, OTHER), segmented(1, HISTORY)])
    assert len(decoded) == calls
    assert sum(decoded) == 3


def test_images_are_encoded_once_and_scores_never_ask_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor()
    calls: list[str] = []
    for owner, name in ((predictor.model.llava, "clip"), (predictor.model.sam, "sam")):
        encode = owner.encode_images

        def count(pixels: torch.Tensor, encode: object = encode, name: str = name) -> torch.Tensor:
            calls.extend([name] * len(pixels))
            return encode(pixels)  # type: ignore[operator,no-any-return]

        monkeypatch.setattr(owner, "encode_images", count)
    batch = open_batch(predictor)
    batch.score_choices([scored(0, QUESTION), scored(1, OTHER)])
    assert calls == ["clip", "clip"]
    batch.segment([segmented(0, QUESTION), segmented(0, OTHER)])
    assert calls == ["clip", "clip", "sam"]
    batch.segment([segmented(1, QUESTION), segmented(0, HISTORY)])
    predictor.segment(IMAGES[1], QUESTION, ANSWER, SPANS)  # what is asked alone finds the batch's images
    assert calls == ["clip", "clip", "sam", "sam"]


def test_spans_of_all_images_share_decoder_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor()
    rows: list[int] = []
    decode = predictor.model.sam.decode_masks

    def count(embeddings: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        rows.append(len(embeddings))
        return decode(embeddings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor.model.sam, "decode_masks", count)
    batch = open_batch(predictor)
    two = MaskRequest(1, OTHER, ANSWER, SPANS[:2])
    batch.segment([segmented(0, QUESTION), two, segmented(1, QUESTION), MaskRequest(0, OTHER, ANSWER, ())])
    assert rows == [3, 3, 2]  # max(S) = 3 calls


def test_an_answer_without_phrases_has_no_masks() -> None:
    (masks,) = open_batch(make_predictor()).segment([MaskRequest(1, QUESTION, ANSWER, ())])
    assert masks.shape == (0, 30, 22)


def test_a_kept_sam_embedding_is_used(tmp_path: "object") -> None:
    from plum.data.sam_feature_cache import SamFeatureCache, SamPreprocessing

    plain = make_predictor()
    cache = SamFeatureCache(str(tmp_path), "weights", SamPreprocessing(32, "float32"))
    predictor = Predictor(plain.model, plain.tokenizer, plain.model.config, cache)
    expected = open_batch(plain).segment([segmented(0, QUESTION)])[0]
    assert np.array_equal(open_batch(predictor).segment([segmented(0, QUESTION)])[0], expected)
    assert cache.count_images() == 1
    again = predictor.images.read(IMAGES[0])
    assert again.embeddings is not None
    other = Predictor(plain.model, plain.tokenizer, plain.model.config, cache)
    other.model.sam.image_encoder = torch.nn.Identity()  # must not be asked any more
    assert np.array_equal(open_batch(other).segment([segmented(0, QUESTION)])[0], expected)


def check_generations(predictor: Predictor, batch: QuestionBatch, requests: Sequence[AnswerRequest]) -> int:
    """Own answers are those of the questions asked one by one; returns how many masks they have."""
    num_masks = 0
    for request, found in zip(requests, batch.generate(requests, max_new_tokens=12), strict=True):
        one = predictor.generate(IMAGES[request.image], request.turns, max_new_tokens=12)
        assert (found.text, found.spans) == (one.text, one.spans)
        assert np.array_equal(found.masks, one.masks)
        assert found.masks.shape[1:] == IMAGES[request.image].shape[:2]
        assert found.confidences == pytest.approx(one.mask_confidences, abs=1e-5)
        num_masks += len(found.masks)
    return num_masks


OWN = [AnswerRequest(image, turns) for image in (0, 1) for turns in (QUESTION, HISTORY, OTHER)]


@pytest.mark.parametrize("is_scored_first", [False, True])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_own_answers_are_those_of_single_questions(family: str, is_scored_first: bool) -> None:
    tokenizer = FAMILIES[family]()
    torch.manual_seed(1)
    config = with_special_tokens(tiny_model_config(len(tokenizer), lora=LoraConfig()), tokenizer)
    predictor = Predictor(build_model(config), tokenizer, config)
    batch = open_batch(predictor)
    if is_scored_first:  # most of the prompts are there then
        batch.score_choices([scored(0, QUESTION), scored(1, HISTORY)])
    assert check_generations(predictor, batch, OWN) > 0


def test_own_answers_end_at_the_end_token_each_at_its_own_time() -> None:
    predictor = make_predictor()
    token_logits, end = predictor.model.llava.stock.lm_head, predictor.model.llava.special_tokens.eos
    first = predictor.generate_text(IMAGES[OWN[0].image], OWN[0].turns, 12)
    stands_in = predictor.tokenizer(first, add_special_tokens=False)["input_ids"][4]
    with torch.no_grad():  # some answers now end where they would have had this token
        token_logits.weight[end] = 1.1 * token_logits.weight[stands_in]
    alone = [predictor.generate_text(IMAGES[request.image], request.turns, 12) for request in OWN]
    found = open_batch(predictor).generate(OWN, max_new_tokens=12)
    assert [answer.text for answer in found] == alone
    written = [predictor.write(IMAGES[request.image], request.turns, 12) for request in OWN]
    assert [answer.is_cut for answer in found] == [one.finish_reason == "length" for one in written]
    assert len({answer.is_cut for answer in found}) == 2
    assert len({len(text) for text in alone}) > 1


def test_an_empty_answer_among_others_has_no_masks_and_leaves_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor()
    whole = open_batch(predictor).generate(OWN, max_new_tokens=12)
    batch = open_batch(predictor)
    own = batch.write_answers(OWN, 12)
    own = [WrittenAnswer("", 1, "stop") if number in (0, 3) else answer for number, answer in enumerate(own)]
    monkeypatch.setattr(batch, "write_answers", lambda *_: own)
    found = batch.generate(OWN, max_new_tokens=12)
    for number, (ours, theirs) in enumerate(zip(found, whole, strict=True)):
        if number in (0, 3):
            assert (ours.text, ours.spans, ours.confidences) == ("", (), ())
            assert ours.masks.shape == (0, *IMAGES[OWN[number].image].shape[:2])
        else:
            assert (ours.text, ours.spans) == (theirs.text, theirs.spans)
            assert np.array_equal(ours.masks, theirs.masks)
    assert sum(len(answer.masks) for answer in found) > 0


def test_own_answers_are_written_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor()
    longest = max(len(predictor.answers.prompt(one.turns, [predictor.encoder.slot()]).input_ids) for one in OWN)
    # Two layers, keys and values of 32 numbers of 4 bytes, for the prompt and 12 new tokens.
    monkeypatch.setattr(question_batch, "MAX_COPIED_BYTES", 4 * 2 * 2 * 32 * 4 * (longest + 12))
    rows: list[int] = []
    generate_from = predictor.model.llava.generate_from

    def count(input_ids: torch.Tensor, *rest: object) -> torch.Tensor:
        rows.append(len(input_ids))
        return generate_from(input_ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor.model.llava, "generate_from", count)
    check_generations(predictor, open_batch(predictor), OWN)
    assert rows == [4, 2]
    assert open_batch(predictor).generate([]) == []
