"""Texts beyond the run's limit are counted at its start, and cut or replaced when they are drawn."""

import logging
from collections.abc import Iterator

import numpy as np
import pytest

from partonomy.structures import CharSpan
from plum.config import ModelConfig
from plum.data.fitting_texts import FittingSource
from plum.models.systems.registry import build_notation
from plum.models.tiny import tiny_model_config
from plum.structures import Exchange, Sample
from tests.plum.data.miniature_world import make_encoder
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_image

LONG = "Es fliegt über dem Wald und über dem See. " * 20
SHORT = Exchange("What is it?", "It is a plane.", (CharSpan(8, 13),), (), is_tagged=False)
TOO_LONG = Exchange("And now?", LONG, is_tagged=False)


class _Listed:
    """Records of given conversations."""

    name = "listed"

    def __init__(self, *records: tuple[tuple[Exchange, ...], ...]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        return Sample(f"record {index}", self.name, make_image(index, 24, 32), self.records[index])

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        return 1

    def exchanges(self) -> Iterator[Exchange]:
        for record in self.records:
            for conversation in record:
                yield from conversation


def _fit(source: _Listed, limit: int = 200) -> FittingSource:
    config: ModelConfig = tiny_model_config(len(byte_level()))
    return FittingSource(source, make_encoder(limit), build_notation(config))


def _draw(source: FittingSource, index: int) -> Sample:
    return source.sample(index, np.random.default_rng(0))


def test_what_fits_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    listed = _Listed(((SHORT,), (SHORT, SHORT)))
    with caplog.at_level(logging.INFO):
        assert _draw(_fit(listed), 0).conversations == listed.records[0]
    assert caplog.records == []


def test_exchanges_are_cut_from_the_end_and_conversations_left_out() -> None:
    source = _fit(_Listed(((SHORT, TOO_LONG, SHORT), (TOO_LONG, SHORT), (SHORT,))))
    assert _draw(source, 0).conversations == ((SHORT,), (SHORT,))


def test_an_image_without_a_text_that_fits_is_replaced_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    source = _fit(_Listed(((SHORT,),), ((TOO_LONG,),), ((TOO_LONG,), (TOO_LONG,))))
    assert [_draw(source, index).sample_id for index in range(3)] == ["record 0", "record 0", "record 0"]
    assert "source listed: record 1 is replaced by the next record" in caplog.text


def test_long_texts_are_counted_before_anything_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _fit(_Listed(((SHORT, TOO_LONG),), ((SHORT,),)))
    longest = make_encoder(None).encode((TOO_LONG,)).encoded.num_text_tokens
    (message,) = [record.message for record in caplog.records]
    assert message.startswith(
        f"source listed: 1 of 3 texts exceed data.max_text_tokens = 200 (the longest has {longest} tokens: 'Es fliegt"
    )


def test_a_source_of_long_texts_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="source listed: none of its 2 texts fits into data.max_text_tokens = 200"):
        _fit(_Listed(((TOO_LONG,),), ((TOO_LONG,),)))


@pytest.mark.parametrize("answer", ["abc " * 45, "über " * 30, "木が" * 20, "a"])
def test_the_limit_is_the_encoders(answer: str) -> None:
    """To the token: what passes encodes, and one token less does not pass."""
    exchange = Exchange("What?", answer, is_tagged=False)
    length = make_encoder(None).encode((exchange,)).encoded.num_text_tokens
    listed = _Listed(((exchange,),), ((Exchange("?", "!", is_tagged=False),),))
    assert _draw(_fit(listed, length), 0).sample_id == "record 0"
    make_encoder(length).encode((exchange,))
    assert _draw(_fit(listed, length - 1), 0).sample_id == "record 1"


def test_marks_that_a_system_writes_count() -> None:
    exchange = Exchange("What is it?", "It is a plane.", (CharSpan(8, 13),), (), is_tagged=False)
    plain = make_encoder(None).encode((exchange,)).encoded.num_text_tokens
    source = _fit(_Listed(((exchange,),), ((Exchange("?", "!", is_tagged=False),),)), plain)

    class _Marking:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def write(self, exchange: Exchange) -> object:
            written = Exchange(exchange.question, f"{exchange.answer} [SEG]", is_tagged=False)
            return type("Written", (), {"exchange": written})

    assert _draw(source, 0).sample_id == "record 0"
    source.notation = _Marking(source.notation)  # type: ignore[assignment]
    assert _draw(source, 0).sample_id == "record 1"
