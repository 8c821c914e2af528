"""Span tags of answer tokens: B begins a phrase, I continues it, O is outside (paper, section 4, span extractor).

Labels are always BIO tags. A tagger of the binary scheme has two classes: outside (0), and in a phrase (1) for B and I.
`encoding.py` labels whole conversations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from torch import Tensor

from partonomy.structures import CharSpan
from plum.config import TagScheme


class Tag(IntEnum):
    """BIO tags; class ids of a tagger of the BIO scheme, in the order of its logits."""

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

    Some byte-level tokenizers include a word's leading space, and SentencePiece-like ones usually do; after trimming,
    all agree. A token of white space alone, or a special token without characters, becomes an empty range.
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
        ValueError: no token shares a character with the phrase.
    """
    first, last = phrase.start, phrase.end
    touching = [i for i, (start, end) in enumerate(trimmed) if start < last and first < end and start < end]
    if not touching or first >= last:
        raise ValueError(f"the characters {first}:{last} fall on no token")
    return TokenSpan(touching[0], touching[-1] + 1)


def write_tags(tags: list[int], span: TokenSpan) -> None:
    """Write B I I ... over a span of `tags`, in place.

    Raises:
        ValueError: the span overlaps an earlier one, so two phrases would share a token.
    """
    if any(tag in (Tag.B, Tag.I) for tag in tags[span.start : span.end]):
        raise ValueError(f"tokens {span.start}:{span.end} already belong to another phrase")
    tags[span.start : span.end] = [int(Tag.B)] + [int(Tag.I)] * (span.end - span.start - 1)


def number_of_classes(scheme: TagScheme) -> int:
    """Return the number of a tagger's classes."""
    return len(Tag) if scheme == "bio" else 2


def classes_of_tags(tags: Tensor, num_classes: int) -> Tensor:
    """Return the class ids of BIO tags (any shape) for a tagger with three classes, or two; ignored tags stay so."""
    return tags if num_classes == len(Tag) else tags.clamp(max=int(Tag.B))


def decode_tags(classes: Sequence[int], scheme: TagScheme = "bio") -> list[TokenSpan]:
    """Read spans from predicted classes greedily.

    BIO: a B starts a span (also inside another), each I extends it, and an I without a B is ignored. Binary: each
    contiguous run of tokens in a phrase is a span (paper: not described; this is how chunking reads IO tags).

    Args:
        classes: class ids per token; in the BIO scheme anything but B and I counts as outside, in the binary scheme
            anything but 1.
        scheme: the tagger's.
    """
    tags = classes if scheme == "bio" else _bio_of_binary(classes)
    spans: list[TokenSpan] = []
    start: int | None = None
    for position, tag in enumerate([*tags, Tag.O]):
        if start is not None and tag != Tag.I:
            spans.append(TokenSpan(start, position))
            start = None
        if tag == Tag.B:
            start = position
    return spans


def _bio_of_binary(classes: Sequence[int]) -> list[int]:
    """Return B for the first token of each run of 1, I for the others."""
    is_in = [False, *(label == Tag.B for label in classes)]
    return [int((Tag.I if before else Tag.B) if own else Tag.O) for before, own in pairwise(is_in)]
