"""Conversations about several images: each image's tokens, frame, masks and feedback are its own."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from partonomy.masks import encode_mask
from partonomy.models.contract import Role, Turn
from partonomy.structures import RLE, CharSpan
from plum.config import FeedbackConfig, ModelConfig, SegTokenConfig
from plum.data.collate import Collator, check_sample
from plum.inference.answer_encoder import AnswerEncoder
from plum.inference.folder_prediction import phrase_colours
from plum.inference.highlight import Highlight, answer_about
from plum.inference.predicted_masks import predict_masks
from plum.inference.predictor import Predictor
from plum.inputs.bio_labels import phrase_tokens
from plum.inputs.conversation import introduce_images, render_conversation
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.seg_token import SegTokens, add_seg_token, read_marks
from plum.models.systems.special_tokens import add_written_tokens, with_special_tokens
from plum.models.systems.tagged_phrases import TaggedPhrases
from plum.models.tiny import tiny_model_config
from plum.structures import TEXT_ONLY, Batch, ConversationImages, Exchange, ImageTokens, Sample
from plum.train_config import DataConfig, LossConfig, SourceConfig
from plum.training.objective import Objective
from tests.plum.data.tokenizers_for_tests import byte_level

DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),), max_text_tokens=300)
SIZES = ((12, 16), (16, 8), (10, 10))
ANSWER = "the dog and the cat and the leg and the tail"
SPANS = tuple(CharSpan(ANSWER.index(word), ANSWER.index(word) + 3) for word in ("dog", "cat", "leg", "tai"))


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*SIZES[number], 3), dtype=np.uint8)


def mask(number: int) -> RLE:
    return encode_mask(np.random.default_rng(9 + number).random(SIZES[number]) < 0.5)


def sample(name: str, shown: tuple[int, ...], targets: tuple[int, ...]) -> Sample:
    """A conversation that shows images and has one target in the n-th of them for each n in `targets`."""
    masks = tuple(mask(shown[target]) for target in targets)
    exchange = Exchange("What is there?", ANSWER, SPANS[: len(targets)], masks, images=targets)
    first, *others = (image(number) for number in shown)
    return Sample(name, "test", first, ((exchange,),), more_images=tuple(others))


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(byte_level())  # the tests share byte_level's
    add_seg_token(tokenizer)
    return tokenizer


TOKENIZER = make_tokenizer()


def make_config(system: str = "plum") -> ModelConfig:
    config = tiny_model_config(len(TOKENIZER))
    if system == "lisa":
        config = replace(
            config, system="lisa", tagger=None, feedback=FeedbackConfig(is_enabled=False), seg_token=SegTokenConfig()
        )
    return config


def make_model(config: ModelConfig) -> GroundedLMM:
    torch.manual_seed(0)
    model = build_model(with_special_tokens(config, TOKENIZER)).eval()
    for parameter in model.parameters():  # a fresh feedback and tagger would hide differences
        with torch.no_grad():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def collator() -> Collator:
    return Collator(TOKENIZER, make_config(), DATA)


@pytest.fixture(scope="module")
def model() -> GroundedLMM:
    return make_model(make_config())


@torch.no_grad()
def mask_logits(model: GroundedLMM, batch: Batch) -> list[Tensor]:
    return list(model(batch, with_teacher=False).mask_logits)


THREE = (
    sample("one", (1,), (0, 0)),
    sample("two", (0, 1), (1, 0, 1)),
    sample("three", (2, 0, 1), (2, 0, 1, 0)),
    Sample("none", "test", None, ((Exchange("Hi?", "Yes."),),)),
)


def test_the_batch_names_every_image(collator: Collator) -> None:
    batch = collator(THREE)
    nothing = TEXT_ONLY
    assert batch.shown.rows.tolist() == [
        [0, nothing, nothing],
        [1, 2, nothing],
        [3, 4, 5],
        [nothing, nothing, nothing],
    ]
    assert batch.shown.lengths == (4,) * 6
    assert batch.shown.num_tokens().tolist() == [4, 8, 12, 0]
    assert batch.spans.image.tolist() == [0, 0, 2, 1, 2, 5, 3, 4, 3]
    assert [frame.original for frame in batch.frames] == [SIZES[number] for number in (1, 0, 1, 2, 0, 1)]
    assert [tuple(one.shape) for one in batch.masks] == [SIZES[number] for number in (1, 1, 1, 0, 1, 1, 2, 0, 2)]


@pytest.mark.parametrize("system", ["plum", "lisa"])
def test_a_batch_is_its_conversations_one_by_one(system: str) -> None:
    config = make_config(system)
    model, collator = make_model(config), Collator(TOKENIZER, config, DATA)
    together = mask_logits(model, collator(THREE))
    apart = [logits for one in THREE for logits in mask_logits(model, collator([one]))]
    assert len(together) == 9
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=1e-4)


def test_conversations_about_the_same_images_share_their_beginning(model: GroundedLMM, collator: Collator) -> None:
    pair = sample("pair", (0, 1), (1, 0))
    (exchange,) = pair.conversations[0]
    other = replace(exchange, question="What else is there?")
    both = replace(pair, conversations=((exchange,), (other,)))
    together = mask_logits(model, collator([both]))
    apart = [
        logits
        for one in (exchange, other)
        for logits in mask_logits(model, collator([replace(pair, conversations=((one,),))]))
    ]
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=1e-4)


def test_swapping_the_images_in_sams_eyes_swaps_the_masks(model: GroundedLMM, collator: Collator) -> None:
    """The text sees the same tokens; only the image that each span's mask is read from changes."""
    batch = collator([sample("pair", (0, 1), (0, 1))])
    swapped = replace(
        batch,
        spans=replace(batch.spans, image=1 - batch.spans.image),
        sam_pixels=batch.sam_pixels.flip(0),
        frames=batch.frames[::-1],
    )
    torch.testing.assert_close(mask_logits(model, swapped), mask_logits(model, batch), atol=1e-6, rtol=1e-6)


def test_an_image_reaches_its_own_masks_alone(model: GroundedLMM, collator: Collator) -> None:
    """Feedback stays within an image: SAM's input of one image changes no mask of the other."""
    batch = collator([sample("pair", (0, 1), (0, 1, 0, 1))])
    changed = replace(batch, sam_pixels=torch.stack([batch.sam_pixels[0], -batch.sam_pixels[1]]))
    before, after = mask_logits(model, batch), mask_logits(model, changed)
    moved = [bool((one - other).abs().max() > 1e-4) for one, other in zip(before, after, strict=True)]
    assert moved == [False, True, False, True]


def test_the_order_of_the_images_matters_to_the_text(model: GroundedLMM, collator: Collator) -> None:
    states = []
    for shown, targets in (((0, 1), (0,)), ((1, 0), (1,))):
        with torch.no_grad():
            states.append(model(collator([sample("pair", shown, targets)]), with_teacher=False).hidden_states)
    assert states[0].shape == states[1].shape
    assert float((states[0] - states[1]).abs().max()) > 1e-4


def test_images_may_differ_in_their_number_of_tokens(model: GroundedLMM) -> None:
    ids = torch.tensor([[7, 3, 3, 3, 3, 8, 3, 3, 9]])
    ids[ids == 3] = model.llava.special_tokens.image
    tokens = ImageTokens(torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0)))
    shown = ConversationImages(torch.tensor([[0, 1]]), (4, 2))
    embedded = model.llava.embed(ids, shown, tokens)[0]
    assert torch.equal(embedded[1:5], tokens.values[0])
    assert torch.equal(embedded[6:8], tokens.values[1, :2])
    assert shown.take_tokens(tokens.values).shape == (6, 32)
    padded, is_padding = shown.pad_tokens(tokens.values)
    assert padded.shape == (1, 8, 32)
    assert is_padding is not None
    assert is_padding.tolist() == [[False] * 6 + [True] * 2]
    with pytest.raises(ValueError, match="has 6 <image> tokens and needs 8"):
        model.llava.embed(ids, ConversationImages(shown.rows, (4, 4)), tokens)


def test_tokens_of_images_by_hand() -> None:
    """Image 0 has the tokens 0, 1, 2, 3; image 1 has 4, 5 and two of padding, 6, 7."""
    tokens = torch.arange(8.0).reshape(2, 4, 1)
    nothing = TEXT_ONLY
    several = ConversationImages(torch.tensor([[1, nothing], [0, 1], [nothing, nothing]]), (4, 2))
    assert several.num_tokens().tolist() == [2, 6, 0]
    assert several.take_tokens(tokens).ravel().tolist() == [4, 5, 0, 1, 2, 3, 4, 5]
    padded, is_padding = several[torch.tensor([0, 1])].pad_tokens(tokens)
    assert is_padding is not None
    assert is_padding.tolist() == [[False] * 2 + [True] * 6, [False] * 6 + [True] * 2]
    assert [row[~skip].ravel().tolist() for row, skip in zip(padded, is_padding, strict=True)] == [
        [4, 5],
        [0, 1, 2, 3, 4, 5],
    ]
    of_one = ConversationImages(torch.tensor([[1], [0]]), (4, 2))
    padded, is_padding = of_one.pad_tokens(tokens)
    assert padded[..., 0].tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert is_padding is not None
    assert is_padding.tolist() == [[False, False, True, True], [False] * 4]
    alike = ConversationImages(of_one.rows, (4, 4))
    assert torch.equal(alike.take_tokens(tokens), tokens.flip(0))
    assert alike.pad_tokens(tokens)[1] is None
    uneven = ConversationImages(torch.tensor([[1, 0], [0, nothing]]), (4, 4))
    padded, is_padding = uneven.pad_tokens(tokens)
    assert padded.shape == (2, 8, 1)
    assert is_padding is not None
    assert is_padding.tolist() == [[False] * 8, [False] * 4 + [True] * 4]


def test_a_batch_of_texts_has_a_column_for_images(collator: Collator) -> None:
    batch = collator([THREE[3], replace(THREE[3], conversations=THREE[3].conversations * 2)])
    assert batch.shown.rows.tolist() == [[TEXT_ONLY]] * 3
    assert batch.shown.lengths == ()
    assert batch.shown.num_tokens().tolist() == [0, 0, 0]
    none = ConversationImages.no_image(3, torch.device("cpu"))
    assert torch.equal(none.rows, batch.shown.rows)
    assert none.lengths == ()


def test_losses_of_several_images_train_the_model(collator: Collator) -> None:
    model = make_model(make_config()).train()
    result = Objective(model, LossConfig(kl=0.0), None, None)(collator(THREE))
    result.total.backward()
    assert bool(result.total.isfinite())
    assert model.query_projection.layers[0].weight.grad is not None


def test_texts_name_several_images() -> None:
    assert introduce_images("<image>", 0) == ""
    assert introduce_images("<image>", 1) == "<image>\n"
    named = "The <image> (IMAGE1), <image> (IMAGE2) and <image> (IMAGE3) provide an overview of the pictures.\n"
    assert introduce_images("<image>", 3) == named
    text = render_conversation([Exchange("What?", "A dog."), Exchange("And?", "A cat.")], "llava_v1", 2).text
    assert text.count("<image>") == 2
    assert "USER: The <image> (IMAGE1) and <image> (IMAGE2) provide" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": (0,)}, "has 2 masks and names the images of 1"),
        ({"images": (0, 2)}, r"belongs to image 2 \(from 0\), but the sample has 2 images"),
        ({"images": (0, -1)}, "belongs to image -1"),
        ({"images": (1, 1)}, r"a mask is 12 x 16 \(height x width\) on an image of 16 x 8"),
    ],
)
def test_masks_of_other_images_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    pair = sample("pair", (0, 1), (0, 1))
    exchange = replace(pair.conversations[0][0], **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        check_sample(replace(pair, conversations=((exchange,),)))


def test_without_a_name_a_mask_belongs_to_the_last_image() -> None:
    assert Exchange("", "").image_of(0, 3) == 2
    assert Exchange("", "", images=(1,)).image_of(0, 3) == 1


def test_one_seg_token_cannot_serve_two_images() -> None:
    config = replace(make_config("lisa"), seg_token=SegTokenConfig(targets="single"))
    with pytest.raises(ValueError, match="masks in several images"):
        Collator(TOKENIZER, config, DATA)([sample("pair", (0, 1), (0, 1))])
    batch = Collator(TOKENIZER, config, DATA)([sample("pair", (0, 1), (0, 0))])
    assert batch.spans.image.tolist() == [0]


PAIR = Exchange("?", "the wheel, the wing.", (CharSpan(4, 9),) * 2 + (CharSpan(15, 19),), images=(0, 1, 1))
TAGGED = SegTokens("many", has_phrase_tags=True, unnamed_image="none")


def test_answers_name_the_images_of_their_targets() -> None:
    plain = TaggedPhrases().write(PAIR).exchange
    assert plain.answer == "the wheel (IMAGE1) (IMAGE2), the wing (IMAGE2)."
    assert [plain.answer[span.start : span.end] for span in plain.spans] == ["wheel", "wheel", "wing"]
    marked = SegTokens("many").write(PAIR).exchange
    assert marked.answer == "the wheel [SEG] (IMAGE1) [SEG] (IMAGE2), the wing [SEG] (IMAGE2)."
    assert [span.start for span in marked.spans] == [found.start() for found in re.finditer(r"\[SEG\]", marked.answer)]
    tagged = TAGGED.write(PAIR).exchange
    assert tagged.answer == "the <p> wheel </p> [SEG] (IMAGE1) [SEG] (IMAGE2), the <p> wing </p> [SEG] (IMAGE2)."
    assert [tagged.answer[span.start : span.end] for span in tagged.spans] == ["[SEG]"] * 3
    assert TAGGED.words(tagged.answer) == PAIR.answer == SegTokens("many").words(marked.answer)
    untidy = tagged.answer.replace(" </p>", "</p>").replace("</p> ", "</p>").replace("[SEG] (", "[SEG](")
    assert TAGGED.tidy(untidy.replace("<p> ", "<p>")) == tagged.answer


def test_names_follow_phrases_that_overlap() -> None:
    exchange = Exchange("?", "a front wheel.", (CharSpan(2, 13), CharSpan(8, 13)), images=(0, 1))
    written = TaggedPhrases().write(exchange).exchange
    assert written.answer == "a front wheel (IMAGE1) (IMAGE2)."
    assert [written.answer[span.start : span.end] for span in written.spans] == ["front wheel", "wheel"]
    nested = replace(exchange, spans=(CharSpan(2, 7), CharSpan(2, 13)))
    written = TaggedPhrases().write(nested).exchange
    assert written.answer == "a front (IMAGE1) wheel (IMAGE2)."
    assert [written.answer[span.start : span.end] for span in written.spans] == ["front", "front (IMAGE1) wheel"]
    inner = TAGGED.write(nested).exchange
    assert inner.answer == "a <p> front </p> [SEG] (IMAGE1) wheel [SEG] (IMAGE2)."


@pytest.mark.parametrize(
    ("answer", "marks"),
    [
        ("<p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2)", [("the leg", 0), ("the leg", 1)]),
        ("<p>leg</p>[SEG](IMAGE2) and <p> arm </p> [SEG] (IMAGE1)", [("leg", 1), ("arm", 0)]),
        ("<p> leg </p> [SEG] and <p> arm </p> [SEG] (IMAGE1)", [("leg", None), ("arm", 0)]),
        ("<p> leg </p> [SEG] (IMAGE9)", [("leg", 8)]),
        ("<p> leg </p> [SEG] (IMAGE0)", [("leg", None)]),
        (f"<p> leg </p> [SEG] (IMAGE{'9' * 5000})", [("leg", None)]),
        ("the leg [SEG] (IMAGE1) and the arm [SEG] (IMAGE2).", [("leg", 0), ("arm", 1)]),
        ("the leg [SEG] (IMAGE1) arm [SEG]", [("leg", 0), ("arm", None)]),
        ("<p> leg <p> arm </p> [SEG]", [("arm", None)]),
        ("<p> leg [SEG] (IMAGE1)", [("<p> leg", 0)]),
        ("<p> leg </p> no mask", []),
        ("[SEG] (IMAGE1)", [("[SEG]", 0)]),
        ("", []),
    ],
)
def test_marks_are_read_from_answers(answer: str, marks: list[tuple[str, int | None]]) -> None:
    found = read_marks(answer)
    assert [(answer[mark.phrase.start : mark.phrase.end], mark.image) for mark in found] == marks
    assert all(answer[mark.seg.start : mark.seg.end] == "[SEG]" for mark in found)


def test_written_answers_are_read_back() -> None:
    written = TAGGED.write(PAIR).exchange
    phrases = [PAIR.answer[span.start : span.end] for span in PAIR.spans]
    found = read_marks(written.answer)
    assert [(written.answer[mark.phrase.start : mark.phrase.end], mark.image) for mark in found] == [
        *zip(phrases, PAIR.images, strict=True)
    ]


def two_system_predictor(system: str, marks: SegTokenConfig | None = None) -> Predictor:
    config = make_config(system)
    if marks is not None:
        config = replace(config, seg_token=marks)
    tokenizer = copy.deepcopy(byte_level())
    add_written_tokens(config, tokenizer)
    config = replace(
        config, llava=replace(config.llava, language=replace(config.llava.language, vocab_size=len(tokenizer)))
    )
    torch.manual_seed(0)
    model = build_model(with_special_tokens(config, tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Predictor(model, tokenizer, model.config)


ASKED = (Turn(Role.USER, "What do they share?"),)
MARKS = SegTokenConfig(has_phrase_tags=True, unnamed_image="none")


@pytest.mark.parametrize(
    ("system", "marks", "answer", "expected"),
    [
        ("plum", None, "the leg (IMAGE2) (IMAGE1) and the arm", [["leg"], ["leg", "arm"]]),
        ("lisa", SegTokenConfig(), "the leg [SEG] (IMAGE1) [SEG] (IMAGE2) and arm [SEG]", [["leg"], ["leg", "arm"]]),
        ("lisa", MARKS, "<p> leg </p> [SEG] (IMAGE2) [SEG] (IMAGE3) <p> arm </p> [SEG]", [[], ["leg"]]),
    ],
)
def test_an_answer_has_masks_in_the_images_that_it_names(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    marks: SegTokenConfig | None,
    answer: str,
    expected: list[list[str]],
) -> None:
    predictor = two_system_predictor(system, marks)
    images = [image(0), image(1)]

    def generate_text(ids: Tensor, *arguments: object) -> Tensor:
        return torch.tensor([predictor.tokenizer(" " + answer, add_special_tokens=False)["input_ids"]])

    monkeypatch.setattr(predictor.model, "generate_text", generate_text)
    if system == "plum":  # a random tagger finds other phrases
        spans = [CharSpan(answer.index(word), answer.index(word) + 3) for word in ("leg", "arm")]
        monkeypatch.setattr(predictor.model, "tag", fixed_tags(predictor, answer, spans))
    found = predictor.generate_about(images, ASKED)
    assert [[one.text[span.start : span.end] for span in one.spans] for one in found] == expected
    assert [one.masks.shape[1:] for one in found] == [one.shape[:2] for one in images]
    assert [len(one.masks) for one in found] == [len(phrases) for phrases in expected]
    assert {one.text for one in found} == {answer}


@pytest.mark.parametrize(("num_images", "expected"), [(1, 256), (2, 1024), (3, 1024)])
def test_an_answer_about_several_images_may_be_longer(
    num_images: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = two_system_predictor("lisa", SegTokenConfig())
    limits: list[int] = []

    def generate_text(ids: Tensor, *arguments: object) -> Tensor:
        limits.append(arguments[-1])  # type: ignore[arg-type]
        return torch.tensor([predictor.tokenizer(" no", add_special_tokens=False)["input_ids"]])

    monkeypatch.setattr(predictor.model, "generate_text", generate_text)
    monkeypatch.setattr(AnswerEncoder, "limit_new_tokens", lambda encoder, prompt, limit: limit)
    images = [image(number) for number in range(num_images)]
    predictor.generate_about(images, ASKED)
    answer_about(predictor, images, ASKED)
    predictor.generate_about(images, ASKED, 9)
    assert limits == [expected, expected, 9]


def fixed_tags(predictor: Predictor, answer: str, spans: list[CharSpan]) -> Callable[..., Tensor]:
    """Tag the tokens of an answer's phrases."""

    def tag(states: Tensor, mask: Tensor, is_answer: Tensor, *images: object) -> Tensor:
        row = predictor.answers.own([predictor.encoder.slot()] * 2, ASKED, answer)
        start = row.rendered.answers[-1].start
        classes = torch.zeros(int(is_answer.sum()), dtype=torch.long)
        for span in spans:
            tokens = phrase_tokens(row.encoded.trimmed, CharSpan(span.start + start, span.end + start))
            first = tokens.start - row.answers[-1].start
            classes[first], classes[first + 1 : first + tokens.end - tokens.start] = 1, 2
        return 9.0 * torch.nn.functional.one_hot(classes, 3).float()

    return tag


@pytest.mark.parametrize("system", ["plum", "lisa"])
def test_highlighting_in_two_images_is_the_batch_of_training(system: str) -> None:
    """The masks of `segment_in` are those of the forward pass on the same sample."""
    predictor = two_system_predictor(system)
    pair = sample("pair", (0, 1), (0, 1, 0, 1))
    exchange = replace(pair.conversations[0][0], question=ASKED[0].text)
    batch = Collator(predictor.tokenizer, predictor.model.config, DATA)([replace(pair, conversations=((exchange,),))])
    with torch.no_grad():
        low = predictor.model(batch, with_teacher=False).mask_logits
    spans_of_images = [[SPANS[2], SPANS[0]], [SPANS[1], SPANS[3]]]
    found = predictor.segment_in([image(0), image(1)], ASKED, ANSWER, spans_of_images)
    for number, targets in enumerate(([2, 0], [1, 3])):
        expected = predict_masks(low[targets], batch.frames[number], predictor.transform.sam_size)
        assert np.array_equal(found[number].masks, expected.masks)
        assert found[number].confidences == pytest.approx(expected.confidences, abs=1e-5)


def test_highlights_are_segmented_in_every_image() -> None:
    predictor = two_system_predictor("plum")
    images = [image(0), image(1)]
    highlight = Highlight(phrases=("dog", "leg"), answer=ANSWER)
    both = answer_about(predictor, images, ASKED, highlight)
    assert [one.masks.shape for one in both] == [(2, *SIZES[0]), (2, *SIZES[1])]
    assert phrase_colours(both)[0] == phrase_colours(both)[1]
    alone = predictor.segment(images[1], ASKED, ANSWER, [SPANS[0]])
    (single,) = answer_about(predictor, images[1:], ASKED, Highlight(phrases=("dog",), answer=ANSWER))
    assert np.array_equal(alone.masks, single.masks)


def test_the_context_holds_all_images() -> None:
    predictor = two_system_predictor("plum")
    encoder = predictor.encoder
    assert encoder.max_tokens == predictor.model.config.llava.language.max_positions == 512
    assert [encoder.text_limit(4 * count) for count in range(3)] == [512, 508, 504]
    assert replace(encoder, max_text_tokens=100).text_limit(4) == 100
    prompt = predictor.answers.prompt(ASKED, [predictor.encoder.slot()] * 2)
    room = 504 - prompt.num_text_tokens - 1
    assert predictor.limit_new_tokens(prompt, 1000) == room
    assert predictor.limit_new_tokens(prompt, 3) == 3


def test_an_image_in_use_again_is_not_encoded_again() -> None:
    predictor = two_system_predictor("plum")
    first, second, third = image(0), image(1), image(2)
    kept = predictor.images.find_all([first, second])
    assert predictor.images.find_all([third, first])[1] is kept[0], "the image used longest ago goes"
    assert predictor.images.find_all([third, second])[1] is not kept[1]
