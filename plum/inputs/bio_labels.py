"""Span tags of answer tokens: B begins a phrase, I continues it, O is outside (paper, section 4, span extractor)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from partonomy.structures import CharSpan


class Tag(IntEnum):
    """Class ids of the span tagger, in the order of its logits."""

    O = 0  # noqa: E741 - the letter is the name of the tag
    B = 1
    I = 2  # noqa: E741


@dataclass(frozen=True)
class TokenSpan:
    """A half-open range [start, end) of token positions in the expanded sequence."""

    start: int
    end: int


def trim_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Shrink each token's character range to its visible characters.

    Byte-level tokenizers report a word's leading space or not, SentencePiece-like ones usually do: after trimming all
    agree. A token of nothing but white space, or a special token without characters, becomes an empty range.
    """
    trimmed = []
    for start, end in offsets:
        piece = text[start:end]
        first = start + len(piece) - len(piece.lstrip())
        trimmed.append((first, max(first, start + len(piece.rstrip()))))
    return trimmed


def phrase_tokens(trimmed: Sequence[tuple[int, int]], phrase: CharSpan) -> TokenSpan:
    """Find the tokens of a phrase.

    Args:
        trimmed: character range of every token, from `trim_offsets`.
        phrase: character range in the same text.

    Returns:
        The range from the first to the last token that shares a character with the phrase.

    Raises:
        ValueError: no token does.
    """
    first, last = phrase.start, phrase.end
    touching = [i for i, (start, end) in enumerate(trimmed) if start < last and first < end and start < end]
    if not touching or first >= last:
        raise ValueError(f"the characters {first}:{last} fall on no token")
    return TokenSpan(touching[0], touching[-1] + 1)


def write_tags(tags: list[int], span: TokenSpan) -> None:
    """Write B I I ... over a span of `tags`, in place.

    Raises:
        ValueError: the span meets an earlier one: two phrases would share a token.
    """
    if any(tag in (Tag.B, Tag.I) for tag in tags[span.start : span.end]):
        raise ValueError(f"tokens {span.start}:{span.end} already belong to another phrase")
    tags[span.start : span.end] = [int(Tag.B)] + [int(Tag.I)] * (span.end - span.start - 1)


def decode_tags(tags: Sequence[int]) -> list[TokenSpan]:
    """Read spans from tags, greedily: a B starts a span (also inside another), I's extend it, an I without B is
    ignored.

    Args:
        tags: class ids per token; anything but B and I counts as outside.
    """
    spans: list[TokenSpan] = []
    start: int | None = None
    for position, tag in enumerate([*tags, Tag.O]):
        if start is not None and tag != Tag.I:
            spans.append(TokenSpan(start, position))
            start = None
        if tag == Tag.B:
            start = position
    return spans
