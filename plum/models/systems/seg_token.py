"""[SEG] tokens instead of a span tagger, as in LISA and its successors.

The query of a target is the language model's state that *predicts* its [SEG], one position before it. LISA's released
code uses this state, and its author confirms it. Positions refer to the expanded sequence, so no offset constant
depends on the number of image tokens.

With `has_phrase_tags`, answers follow GLaMM's grammar: `<p> the wheel </p> [SEG]`. In a conversation about several
images, the name of its image follows each [SEG], and a phrase in two images has two: `<p> the wheel </p> [SEG] (IMAGE1)
[SEG] (IMAGE2)` (CALICO paper, section 3).

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
from plum.inputs.conversation import name_images
from plum.inputs.encoding import EncodedConversation, token_id
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.query_projection import QueryProjection, gather_span_tokens, mean_over_tokens
from plum.models.systems.target_notation import Target, WrittenExchange
from plum.structures import Exchange, SpanBounds

SEG_TOKEN = "[SEG]"
PHRASE_START, PHRASE_END = "<p>", "</p>"
_IMAGE_NAMES = r"(?:\s*\(IMAGE\d+\))*"
_BEFORE_PHRASE = re.compile(rf"[,;:.!?]\s+|\b(?:an?|the|and|or)\s+|\[SEG\]{_IMAGE_NAMES}\s*", re.IGNORECASE)
_PROBE = f"{PHRASE_START} the wheel {PHRASE_END} {SEG_TOKEN}, the wing {SEG_TOKEN}."
_MANY_NOTE = f"answers and choices carry {SEG_TOKEN} after each phrase; log-probabilities count it like any other token"
_TAGGED_NOTE = (
    f"answers and choices carry {PHRASE_START} and {PHRASE_END} around each phrase and {SEG_TOKEN} after it; "
    "log-probabilities count all three like any other token"
)
_SINGLE_NOTE = (
    f"answers and choices carry one {SEG_TOKEN} at their end; log-probabilities count it like any other token; its "
    "mask stands for the union of all phrases"
)


@dataclass(frozen=True)
class SegTokens:
    """Answers carry [SEG]: after each phrase (`many`), or once at their end for the union of their masks (`single`).

    The fields are those of `SegTokenConfig`.
    """

    targets: Literal["many", "single"]
    has_phrase_tags: bool = False
    unnamed_image: Literal["last", "none"] = "last"

    @property
    def protocol_note(self) -> str:
        """Note on how scores of such answers are computed."""
        if self.targets == "single":
            return _SINGLE_NOTE
        return _TAGGED_NOTE if self.has_phrase_tags else _MANY_NOTE

    @property
    def has_mask_per_phrase(self) -> bool:
        """Whether every phrase has a mask of its own."""
        return self.targets == "many"

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens that answers carry besides their words."""
        return written_marks(self.has_phrase_tags)

    def check_words(self, text: str) -> None:
        """Check that an external text contains no mark, which would be read as one of the model's own.

        Raises:
            ValueError: the text contains [SEG], or a tag of a phrase.
        """
        for mark in self.marks:
            if mark in text:
                raise ValueError(f"the text {text!r} contains {mark}, which this system writes itself: remove it")

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
        return _write_one(plain) if self.targets == "single" else _write_each(plain, self.has_phrase_tags)

    def tidy(self, answer: str) -> str:
        """Put one space around every mark (decoding drops some), and none between [SEG] and a punctuation mark."""
        if self.has_phrase_tags:
            answer = re.sub(rf"\s*({PHRASE_START}|{PHRASE_END})\s*", r" \1 ", answer)
        spaced = re.sub(rf"\s*{re.escape(SEG_TOKEN)}", f" {SEG_TOKEN}", answer)
        named = re.sub(rf"({re.escape(SEG_TOKEN)})\s*(\(IMAGE\d+\))", r"\1 \2", spaced)
        return re.sub(rf"({re.escape(SEG_TOKEN)})\s+([,;:.!?])", r"\1\2", named).strip()

    def words(self, answer: str) -> str:
        """Return an answer without its marks, and without the names of images that follow a [SEG]."""
        words = re.sub(rf"\s*{re.escape(SEG_TOKEN)}{_IMAGE_NAMES}", "", answer)
        return (
            re.sub(rf"\s*{PHRASE_END}|{PHRASE_START}\s*", "", words).strip() if self.has_phrase_tags else words.strip()
        )

    def read(
        self, row: EncodedConversation, hidden_states: Tensor, model: GroundedLMM, image_tokens: Tensor
    ) -> list[Target]:
        """Find the [SEG] tokens of the last answer; the confidence of each is its predicted probability.

        See `read_marks`. [SEG] tokens whose image the conversation does not show are ignored.
        """
        answer = row.rendered.answers[-1]
        text = row.encoded.text[answer.start : answer.end]
        num_images = len(row.encoded.images)
        targets = []
        for mark in read_marks(text):
            image = num_images - 1 if mark.image is None else mark.image
            is_unnamed = mark.image is None and num_images > 1 and self.unnamed_image == "none"
            if is_unnamed or image >= num_images:
                continue
            seg = CharSpan(mark.seg.start + answer.start, mark.seg.end + answer.start)
            tokens = phrase_tokens(row.encoded.trimmed, seg)
            if tokens.end - tokens.start > 1:  # spelt in several tokens, which are no mark
                continue
            logits = model.token_logits(hidden_states[0, tokens.start - 1]).float()
            probability = logits.softmax(-1)[row.encoded.input_ids[tokens.start]]
            targets.append(Target(tokens, mark.phrase, float(probability), image))
        return targets


@dataclass(frozen=True)
class SegMark:
    """A [SEG] of an answer: its characters, those of its phrase, and the image named after it, from 0, or None."""

    seg: CharSpan
    phrase: CharSpan
    image: int | None


def read_marks(answer: str) -> list[SegMark]:
    """Read the [SEG] tokens of an answer, tags of phrases or not.

    The phrase of a [SEG] is in the nearest pair of tags before it that no other [SEG] follows. Without tags, it is
    taken to start after the last article, conjunction, punctuation mark or [SEG] before it; if nothing is left, it is
    [SEG] itself. A [SEG] that follows the name of another's image has the same phrase. The first name of an image
    between a [SEG] and the next [SEG] or phrase is that of its image.
    """
    marks: list[SegMark] = []
    places = [found.span() for found in re.finditer(re.escape(SEG_TOKEN), answer)]
    for number, (start, end) in enumerate(places):
        next_start = places[number + 1][0] if number + 1 < len(places) else len(answer)
        after = answer[end:next_start].split(PHRASE_START, maxsplit=1)[0]
        name = re.search(r"\(IMAGE(\d{1,9})\)", after)
        image = int(name[1]) - 1 if name else None
        before = answer[marks[-1].seg.end : start] if marks else answer[:start]
        if marks and marks[-1].image is not None and not re.sub(_IMAGE_NAMES, "", before).strip():
            phrase = marks[-1].phrase
        else:
            phrase = _tagged_phrase(before, start - len(before)) or _phrase_before(answer, start, end)
        marks.append(SegMark(CharSpan(start, end), phrase, None if image == -1 else image))
    return marks


def written_marks(has_phrase_tags: bool) -> tuple[str, ...]:
    """Return the tokens that answers carry."""
    return (SEG_TOKEN, PHRASE_START, PHRASE_END) if has_phrase_tags else (SEG_TOKEN,)


class SegTokenProjection(QueryProjection):
    """LISA's `text_hidden_fcs`: Linear(D, D), ReLU, Linear(D, C) on the state that predicts each [SEG].

    The layers are those of PLUM's projection; LISA's final dropout has probability 0.
    """

    def forward(self, hidden_states: Tensor, spans: SpanBounds) -> Tensor:
        """Project the states [N, T, D] before M [SEG] tokens (each a span of one token) to queries [M, C]."""
        if len(spans) == 0:
            return super().forward(hidden_states, spans)
        before = replace(spans, start=spans.start - 1, end=spans.start)
        tokens, is_token = gather_span_tokens(hidden_states, before, longest=1)
        return mean_over_tokens(self.layers(tokens), is_token)


def add_seg_token(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Add [SEG] to a tokenizer that lacks it; see `add_marks`. Returns whether it was missing."""
    return bool(add_marks(tokenizer, has_phrase_tags=False))


def add_marks(tokenizer: PreTrainedTokenizerBase, has_phrase_tags: bool) -> list[str]:
    """Add the marks that a tokenizer lacks, in place, and check that each is one token in any context.

    [SEG] and `</p>` include the space before them, as [SEG] does in LISA's own tokenizer, so that the state before
    [SEG] is that of the phrase's last token or of `</p>`.

    Args:
        tokenizer: changed in place.
        has_phrase_tags: add `<p>` and `</p>` too.

    Returns:
        The marks that were missing.

    Raises:
        ValueError: the tokenizer still splits one.
    """
    marks = written_marks(has_phrase_tags)
    missing = [mark for mark in marks if mark not in tokenizer.get_vocab()]
    added = [AddedToken(mark, lstrip=mark != PHRASE_START, normalized=False, special=False) for mark in missing]
    if added:
        tokenizer.add_tokens(added)
    ids = tokenizer(_PROBE)["input_ids"]
    for mark in marks:
        found = ids.count(token_id(tokenizer, mark))
        if found != _PROBE.count(mark):
            raise ValueError(
                f"{tokenizer.name_or_path or 'the tokenizer'} reads {_PROBE!r} with {found} {mark} tokens instead of "
                f"{_PROBE.count(mark)}; give it {mark} as one token"
            )
    return missing


def _write_each(exchange: Exchange, has_phrase_tags: bool) -> WrittenExchange:
    """Insert [SEG] after every phrase, once for each of its images, and tags around it.

    A phrase that another one overlaps has no tags of its own.
    """
    order = sorted(range(len(exchange.spans)), key=lambda phrase: exchange.spans[phrase].end)
    text, copied, targets = "", 0, []
    last: CharSpan | None = None
    for phrase in order:
        span = exchange.spans[phrase]
        if span != last and has_phrase_tags and span.start >= copied:
            before, inside = exchange.answer[copied : span.start], exchange.answer[span.start : span.end]
            text += f"{before}{PHRASE_START} {inside} {PHRASE_END}"
        else:
            text += exchange.answer[copied : span.end]
        text += f" {SEG_TOKEN}"
        targets.append(CharSpan(len(text) - len(SEG_TOKEN), len(text)))
        text += name_images(exchange.images[phrase : phrase + 1])
        copied, last = span.end, span
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


def _tagged_phrase(before: str, shift: int) -> CharSpan | None:
    """Return the last phrase in tags of a text whose characters begin at `shift`; None without one."""
    *_, found = [None, *re.finditer(rf"{PHRASE_START}\s*([^<>]*?)\s*{PHRASE_END}", before)]
    return None if found is None or not found[1] else CharSpan(found.start(1) + shift, found.end(1) + shift)


def _phrase_before(text: str, start: int, end: int) -> CharSpan:
    """Return the phrase that ends where the [SEG] at [start, end) begins."""
    before = text[:start].rstrip(" ,;:.!?")
    begin = max((found.end() for found in _BEFORE_PHRASE.finditer(before)), default=0)
    return CharSpan(begin, len(before)) if before[begin:].strip() else CharSpan(start, end)
