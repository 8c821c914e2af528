"""[SEG] tokens instead of a span tagger, as in LISA and its successors.

The query of a target is the language model's state that *predicts* its [SEG], one position before it. LISA's released
code uses this state, and its author confirms it. Positions refer to the expanded sequence, so no offset constant
depends on the number of image tokens.

Source: dvlab-research/LISA (`model/LISA.py`, `train_ds.py`); LISA paper, section 3.2.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from partonomy.masks import union_masks
from partonomy.structures import CharSpan
from plum.inputs.bio_labels import phrase_tokens
from plum.inputs.encoding import EncodedConversation, token_id
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.query_projection import QueryProjection
from plum.models.systems.target_notation import Target, WrittenExchange
from plum.structures import Exchange, SpanBounds

SEG_TOKEN = "[SEG]"
_BEFORE_PHRASE = re.compile(r"[,;:.!?]\s+|\b(?:an?|the|and|or)\s+|\[SEG\]\s*", re.IGNORECASE)
_PROBE = f"the wheel {SEG_TOKEN}, the wing {SEG_TOKEN}."
_MANY_NOTE = f"answers and choices carry {SEG_TOKEN} after each phrase; log-probabilities count it like any other token"
_SINGLE_NOTE = (
    f"answers and choices carry one {SEG_TOKEN} at their end; log-probabilities count it like any other token; its "
    "mask stands for the union of all phrases"
)


@dataclass(frozen=True)
class SegTokens:
    """Answers carry [SEG]: after each phrase (`many`), or once at their end for the union of their masks (`single`)."""

    targets: Literal["many", "single"]

    @property
    def protocol_note(self) -> str:
        """Note on how scores of such answers are computed."""
        return _MANY_NOTE if self.targets == "many" else _SINGLE_NOTE

    @property
    def has_mask_per_phrase(self) -> bool:
        """Whether every phrase has a mask of its own."""
        return self.targets == "many"

    def check_words(self, text: str) -> None:
        """Check that an external text contains no [SEG], which would be read as one of the model's own.

        Raises:
            ValueError: the text contains [SEG].
        """
        if SEG_TOKEN in text:
            raise ValueError(f"the text {text!r} contains {SEG_TOKEN}, which this system writes itself: remove it")

    def write(self, exchange: Exchange) -> WrittenExchange:
        """Insert [SEG] into an answer, or put it in the place of each mark; an answer without either is unchanged.

        Raises:
            ValueError: the question or the answer already contains [SEG], or an answer of a `single` system has places
                for several marks.
        """
        self.check_words(exchange.question)
        self.check_words(exchange.answer)
        plain = replace(exchange, is_tagged=False)
        if not exchange.spans:
            return WrittenExchange(plain, ())
        if exchange.is_marked:
            if self.targets == "single" and len(exchange.spans) > 1:
                raise ValueError(
                    f"the answer {exchange.answer!r} has places for {len(exchange.spans)} marks, but seg_token.targets "
                    "single writes one; set it to many, or the source's targets_per_question to 1"
                )
            return _write_marks(plain)
        return _write_one(plain) if self.targets == "single" else _write_each(plain)

    def tidy(self, answer: str) -> str:
        """Put one space before every [SEG] (decoding drops it), and none between it and a punctuation mark."""
        spaced = re.sub(rf"\s*{re.escape(SEG_TOKEN)}", f" {SEG_TOKEN}", answer)
        return re.sub(rf"({re.escape(SEG_TOKEN)})\s+([,;:.!?])", r"\1\2", spaced).strip()

    def words(self, answer: str) -> str:
        """Return an answer without [SEG]."""
        return re.sub(rf"\s*{re.escape(SEG_TOKEN)}", "", answer).strip()

    def read(
        self, row: EncodedConversation, hidden_states: Tensor, model: GroundedLMM, image_tokens: Tensor
    ) -> list[Target]:
        """Find the [SEG] tokens of the last answer; the confidence of each is its predicted probability.

        [SEG] does not mark where its phrase begins. The phrase is taken to start after the last article, conjunction,
        punctuation mark or [SEG] before it; if nothing is left, the phrase is [SEG] itself.
        """
        answer = row.rendered.answers[-1]
        text = row.encoded.text[answer.start : answer.end]
        targets = []
        for found in re.finditer(re.escape(SEG_TOKEN), text):
            seg = CharSpan(found.start() + answer.start, found.end() + answer.start)
            tokens = phrase_tokens(row.encoded.trimmed, seg)
            logits = model.token_logits(hidden_states[0, tokens.start - 1]).float()
            probability = logits.softmax(-1)[row.encoded.input_ids[tokens.start]]
            targets.append(Target(tokens, _phrase_before(text, found.start(), found.end()), float(probability)))
        return targets


class SegTokenProjection(QueryProjection):
    """LISA's `text_hidden_fcs`: Linear(D, D), ReLU, Linear(D, C) on the state that predicts each [SEG].

    The layers are those of PLUM's projection; LISA's final dropout has probability 0.
    """

    def forward(self, hidden_states: Tensor, spans: SpanBounds) -> Tensor:
        """Project the states [N, T, D] before M [SEG] tokens (each a span of one token) to queries [M, C]."""
        return super().forward(hidden_states, replace(spans, start=spans.start - 1, end=spans.start))


def add_seg_token(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Add [SEG] to a tokenizer that lacks it, in place, and check that it is one token in any context.

    The token includes the space before it, as in LISA's own tokenizer, so that the state before [SEG] is that of the
    phrase's last token.

    Returns:
        Whether it was missing.

    Raises:
        ValueError: the tokenizer still splits [SEG].
    """
    is_new = SEG_TOKEN not in tokenizer.get_vocab()
    if is_new:
        tokenizer.add_tokens([AddedToken(SEG_TOKEN, lstrip=True, rstrip=False, normalized=False, special=False)])
    found = tokenizer(_PROBE)["input_ids"].count(token_id(tokenizer, SEG_TOKEN))
    if found != _PROBE.count(SEG_TOKEN):
        raise ValueError(
            f"{tokenizer.name_or_path or 'the tokenizer'} reads {_PROBE!r} with {found} {SEG_TOKEN} tokens instead of "
            f"{_PROBE.count(SEG_TOKEN)}; give it {SEG_TOKEN} as one token"
        )
    return is_new


def _write_each(exchange: Exchange) -> WrittenExchange:
    """Insert [SEG] after every phrase."""
    order = sorted(range(len(exchange.spans)), key=lambda phrase: exchange.spans[phrase].end)
    text, copied, targets = "", 0, []
    for phrase in order:
        end = exchange.spans[phrase].end
        text += f"{exchange.answer[copied:end]} {SEG_TOKEN}"
        targets.append(CharSpan(len(text) - len(SEG_TOKEN), len(text)))
        copied = end
    masks = tuple(exchange.masks[phrase] for phrase in order) if exchange.masks else ()
    images = tuple(exchange.images[phrase] for phrase in order) if exchange.images else ()
    answer = text + exchange.answer[copied:]
    written = replace(exchange, answer=answer, spans=tuple(targets), masks=masks, images=images)
    return WrittenExchange(written, tuple(order.index(phrase) for phrase in range(len(order))))


def _write_marks(exchange: Exchange) -> WrittenExchange:
    """Replace every place-holder by [SEG]."""
    text, copied, targets = "", 0, []
    for span in exchange.spans:
        text += exchange.answer[copied : span.start] + SEG_TOKEN
        targets.append(CharSpan(len(text) - len(SEG_TOKEN), len(text)))
        copied = span.end
    answer = text + exchange.answer[copied:]
    written = replace(exchange, answer=answer, spans=tuple(targets), is_marked=False)
    return WrittenExchange(written, tuple(range(len(targets))))


def _write_one(exchange: Exchange) -> WrittenExchange:
    """Append one [SEG] to the answer, for the union of its masks."""
    if len(set(exchange.images)) > 1:
        raise ValueError(
            f"the answer {exchange.answer!r} has masks in several images, but seg_token.targets single writes one "
            "[SEG] for all; set it to many"
        )
    text = f"{exchange.answer} {SEG_TOKEN}"
    masks = (union_masks(exchange.masks),) if exchange.masks else ()
    spans = (CharSpan(len(text) - len(SEG_TOKEN), len(text)),)
    written = replace(exchange, answer=text, spans=spans, masks=masks, images=exchange.images[:1])
    return WrittenExchange(written, (0,) * len(exchange.spans))


def _phrase_before(text: str, start: int, end: int) -> CharSpan:
    """Return the phrase that ends where the [SEG] at [start, end) begins."""
    before = text[:start].rstrip(" ,;:.!?")
    begin = max((found.end() for found in _BEFORE_PHRASE.finditer(before)), default=0)
    return CharSpan(begin, len(before)) if before[begin:].strip() else CharSpan(start, end)
