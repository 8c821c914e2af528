"""[SEG] tokens: which state is the query, how answers are written, read back and tokenized."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from partonomy.masks import decode_mask, encode_mask
from partonomy.structures import RLE, CharSpan
from plum.inputs.encoding import ConversationEncoder, token_id
from plum.models.systems.seg_token import SEG_TOKEN, SegTokenProjection, SegTokens, add_seg_token
from plum.models.systems.special_tokens import add_written_tokens, initialise_new_rows, with_special_tokens
from plum.structures import Exchange, SpanBounds
from tests.plum.data.tokenizers_for_tests import FAMILIES, byte_level
from tests.plum.models.systems.sisters_world import make_sister, seg_tokenizer, sister_config

ANSWER = "It has a front wheel, a wheel and a propeller."
SPANS = (CharSpan(9, 20), CharSpan(24, 29), CharSpan(36, 45))
MANY, SINGLE = SegTokens("many"), SegTokens("single")
WRITTEN = "It has a front wheel [SEG], a wheel [SEG] and a propeller [SEG]."


def _mask(column: int) -> RLE:
    mask = np.zeros((4, 6), dtype=bool)
    mask[:, column] = True
    return encode_mask(mask)


def _exchange(spans: tuple[CharSpan, ...] = SPANS) -> Exchange:
    return Exchange("What parts?", ANSWER, spans, tuple(_mask(column) for column in range(len(spans))))


def _phrases(exchange: Exchange) -> list[str]:
    return [exchange.answer[span.start : span.end] for span in exchange.spans]


def _position_reader() -> SegTokenProjection:
    """A projection that returns the state itself."""
    projection = SegTokenProjection(1, 1)
    for layer in (projection.layers[0], projection.layers[2]):
        assert isinstance(layer, nn.Linear)
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    return projection


def _read_positions(text_positions: list[int], num_patches: int) -> tuple[int, Tensor]:
    """Expand ten text tokens with a placeholder at 3; each state holds its own position. Returns length and queries."""
    text = [1 if i in text_positions else 0 for i in range(10)]
    expanded = [*text[:3], *[0] * num_patches, *text[4:]]
    starts = torch.tensor([i for i, token in enumerate(expanded) if token])
    states = torch.arange(len(expanded), dtype=torch.float32)[None, :, None]
    queries = _position_reader()(
        states, SpanBounds(torch.zeros_like(starts), starts, starts + 1, torch.zeros_like(starts))
    )
    return len(expanded), queries[:, 0].detach()


@pytest.mark.parametrize(
    ("num_patches", "length", "state"),
    # 10 - 1 + P states; [SEG] at text 7 stands at 7 - 1 + P, and is predicted one earlier: 7 - 1 + 255 = 261.
    [(256, 265, 261), (576, 585, 581)],
)
def test_the_query_is_the_state_that_predicts_seg(num_patches: int, length: int, state: int) -> None:
    found, queries = _read_positions([7], num_patches)
    assert found == length
    assert queries.tolist() == [state]


def test_a_second_seg_is_predicted_by_the_first_ones_own_state() -> None:
    assert _read_positions([7, 8], 256)[1].tolist() == [261, 262]


@pytest.mark.parametrize("num_patches", [4, 256, 576])
@pytest.mark.parametrize("family", FAMILIES)
def test_encoded_answers_point_at_seg_wherever_the_image_ends(family: str, num_patches: int) -> None:
    tokenizer = seg_tokenizer(family)
    written = MANY.write(_exchange()).exchange
    row = ConversationEncoder(tokenizer, "plain", num_patches).encode([written])
    seg = token_id(tokenizer, SEG_TOKEN)
    positions = [i for i, token in enumerate(row.encoded.input_ids) if token == seg]
    assert [(span.start, span.end) for span in row.spans] == [(i, i + 1) for i in positions]
    assert len(positions) == 3
    # The state before each [SEG] is that of its phrase's last token: no token of white space stands between.
    text = row.encoded.text
    before = [text[slice(*row.encoded.trimmed[i - 1])] for i in positions]
    assert all(phrase.endswith(word) and word for phrase, word in zip(_phrases(_exchange()), before, strict=True))
    assert set(row.tags) == {-100}, "nothing is tagged"


@pytest.mark.parametrize("family", FAMILIES)
def test_seg_is_one_looked_up_token_and_survives_generation(family: str) -> None:
    tokenizer = seg_tokenizer(family)
    seg = token_id(tokenizer, SEG_TOKEN)
    assert seg == len(tokenizer) - 1, "taken from the tokenizer, behind its own tokens"
    assert not add_seg_token(tokenizer), "it is there already"
    ids = tokenizer(" " + WRITTEN)["input_ids"]
    assert ids.count(seg) == 3
    # What generation decodes is read back as the same text and the same [SEG]s.
    decoded = MANY.tidy(str(tokenizer.decode(ids, skip_special_tokens=True)).strip())
    if family != "word_level":  # which puts a space before every full stop
        assert decoded == WRITTEN
    assert tokenizer(" " + decoded)["input_ids"].count(seg) == 3


def test_a_tokenizer_that_takes_seg_apart_is_refused() -> None:
    tokenizer = seg_tokenizer()

    class Splitting:
        name_or_path = "splitting"

        def get_vocab(self) -> dict[str, int]:
            return tokenizer.get_vocab()

        def convert_tokens_to_ids(self, token: str) -> int:
            return token_id(tokenizer, token)

        def __call__(self, text: str) -> dict[str, list[int]]:
            return byte_level()(text)

    with pytest.raises(ValueError, match=r"splitting reads .* with 0 \[SEG\] tokens instead of 2"):
        add_seg_token(Splitting())  # type: ignore[arg-type]


def test_many_writes_one_seg_after_every_phrase() -> None:
    written = MANY.write(_exchange())
    assert written.exchange.answer == WRITTEN
    assert _phrases(written.exchange) == [SEG_TOKEN] * 3
    assert written.target_of_phrase == (0, 1, 2)
    assert written.exchange.masks == _exchange().masks
    assert not written.exchange.is_tagged


def test_many_orders_targets_as_their_marks_stand_when_phrases_overlap() -> None:
    """`front wheel, a wheel` ends after the `front wheel` inside it: its [SEG] comes second."""
    written = MANY.write(_exchange((CharSpan(9, 29), CharSpan(9, 20), CharSpan(15, 20))))
    assert written.exchange.answer == "It has a front wheel [SEG] [SEG], a wheel [SEG] and a propeller."
    assert written.target_of_phrase == (2, 0, 1)
    assert written.exchange.masks == (_mask(1), _mask(2), _mask(0))


def test_single_writes_one_seg_for_the_union() -> None:
    written = SINGLE.write(_exchange())
    assert written.exchange.answer == f"{ANSWER} [SEG]"
    assert _phrases(written.exchange) == [SEG_TOKEN]
    assert written.target_of_phrase == (0, 0, 0)
    (union,) = written.exchange.masks
    assert decode_mask(union).sum() == 3 * 4, "three columns of four pixels"


@pytest.mark.parametrize("notation", [MANY, SINGLE])
def test_answers_without_phrases_stay_words(notation: SegTokens) -> None:
    plain = Exchange("What is it?", "A biplane.")
    assert notation.write(plain).exchange == replace(plain, is_tagged=False)


@pytest.mark.parametrize("exchange", [Exchange("Where is [SEG]?", "There."), Exchange("Where?", "[SEG].")])
def test_seg_in_foreign_text_is_refused(exchange: Exchange) -> None:
    with pytest.raises(ValueError, match=r"contains \[SEG\]"):
        MANY.write(exchange)


def test_words_and_tidy_text() -> None:
    assert MANY.tidy("It has a front wheel[SEG] , a wheel[SEG] and a propeller[SEG] .") == WRITTEN
    assert MANY.words(WRITTEN) == ANSWER
    assert SINGLE.words(f"{ANSWER} [SEG]") == ANSWER
    assert MANY.words("Two lines,\nno mark.") == "Two lines,\nno mark."


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        (WRITTEN, ["front wheel", "wheel", "propeller"]),
        ("The bus has the following visible parts: left wing [SEG], tail fin [SEG].", ["left wing", "tail fin"]),
        ("It is the wing [SEG] [SEG].", ["wing", "[SEG]"]),
        ("[SEG]", ["[SEG]"]),
        ("It has a wheel and a wing. [SEG]", ["wing"]),
    ],
)
def test_reading_an_answer_finds_phrase_and_state(answer: str, phrases: list[str]) -> None:
    tokenizer, model = seg_tokenizer(), make_sister(sister_config())
    row = ConversationEncoder(tokenizer, "plain", 4).encode([Exchange("What parts?", answer)])
    states = torch.randn(1, len(row.labels), 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = MANY.read(row, states, model, torch.zeros(1, 4, 32))
    assert [answer[target.chars.start : target.chars.end] for target in targets] == phrases
    seg = token_id(tokenizer, SEG_TOKEN)
    for target in targets:
        assert row.encoded.input_ids[target.tokens.start] == seg
        expected = model.token_logits(states[0, target.tokens.start - 1]).softmax(-1)[seg]
        assert target.confidence == pytest.approx(float(expected))


def test_the_new_row_starts_as_the_mean_of_text_and_the_rest_stays() -> None:
    model, seg = make_sister(sister_config()), token_id(seg_tokenizer(), SEG_TOKEN)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialise_new_rows(model, [seg], "mean")
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    # embed_tokens is there twice (peft keeps the original), lm_head once.
    assert len(changed) == 3
    assert all("embed_tokens" in name or "lm_head" in name for name in changed)
    text = [row for row in range(seg + 8) if row < seg and row not in model.llava.special_tokens.suppressed]
    for name in changed:
        torch.testing.assert_close(model.state_dict()[name][seg], before[name][text].mean(0))
        assert torch.equal(model.state_dict()[name][:seg], before[name][:seg])


def test_the_tokenizer_gets_seg_only_where_the_system_writes_it() -> None:
    assert add_written_tokens(sister_config("plum"), byte_level()) == ()
    assert SEG_TOKEN not in byte_level().get_vocab()
    with pytest.raises(ValueError, match=r"has no \[SEG\], which model.system lisa needs"):
        with_special_tokens(sister_config(), byte_level())
    seg = token_id(seg_tokenizer(), SEG_TOKEN)
    tokens = with_special_tokens(sister_config(), seg_tokenizer()).llava.special_tokens
    assert tokens is not None
    assert seg not in tokens.suppressed
    assert seg + 1 in tokens.suppressed, "rows that no token has stay silent"
