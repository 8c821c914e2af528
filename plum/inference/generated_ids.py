"""Keeps an answer's tokens as the model generated them if its text tokenizes to others.

Masks and tags are read from the states of an answer's tokens. The original code of LISA and its successors takes the
generated ids. A text that is tokenized again gives the same ids only if the model writes as the tokenizer does.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from plum.inputs.bio_labels import TokenSpan
from plum.inputs.encoding import EncodedConversation, EncodedText
from plum.structures import IGNORE_INDEX

Place = tuple[int, int]
"""Range of characters."""


def has_ids(row: EncodedConversation, prompt: EncodedText, token_ids: Sequence[int], end: int) -> bool:
    """Return whether a conversation's tokens are those of its prompt, the generated ones and the end token."""
    return row.encoded.input_ids == (*prompt.input_ids, *token_ids, end)


def with_ids(
    row: EncodedConversation, prompt: EncodedText, token_ids: Sequence[int], places: Sequence[Place], end: int
) -> EncodedConversation:
    """Replace the tokens of a conversation's last answer by the generated ones.

    Args:
        row: the conversation, tokenized from its text.
        prompt: its prompt, which the model continued.
        token_ids: the generated tokens, end token left out.
        places: per token, its visible characters in the answer, see `place_tokens`.
        end: the end token.
    """
    answer = row.rendered.answers[-1]
    inside = [(answer.start + first, answer.start + last) for first, last in places]
    inside.append((answer.end, len(row.encoded.text)))
    ids = (*prompt.input_ids, *token_ids, end)
    tokens = TokenSpan(len(prompt.input_ids), len(ids))
    encoded = replace(
        prompt,
        text=row.encoded.text,
        input_ids=ids,
        offsets=(*prompt.offsets, *inside),
        trimmed=(*prompt.trimmed, *inside),
    )
    ignored = (IGNORE_INDEX,) * tokens.start
    return EncodedConversation(
        encoded,
        row.rendered,
        labels=(*ignored, *ids[tokens.start :]),
        tags=(IGNORE_INDEX,) * len(ids),
        answers=(*row.answers[:-1], tokens),
        spans=(),
    )


def place_tokens(token_ids: Sequence[int], decode: Callable[[Sequence[int]], str], text: str) -> list[Place] | None:
    """Find each generated token's visible characters in the text that was made of the tokens.

    The text may have other white space than the decoded tokens (see `TargetNotation.tidy`). Bytes of one character
    belong to its last token. A token without visible characters has an empty range, before the next character.

    Args:
        token_ids: the tokens.
        decode: decodes tokens to text.
        text: the answer.

    Returns:
        A range of characters per token; None if the text has other visible characters than the tokens.
    """
    whole = decode(token_ids)
    visible = [place for place, character in enumerate(text) if not character.isspace()]
    if [text[place] for place in visible] != [character for character in whole if not character.isspace()]:
        return None
    ends = [_num_visible(_common_prefix(decode(token_ids[:count]), whole)) for count in range(len(token_ids))]
    ends = [max(ends[: index + 1]) for index in range(len(ends))] + [len(visible)]
    starts = [*visible, len(text)]
    return [
        (visible[first], visible[last - 1] + 1) if first < last else (starts[first], starts[first])
        for first, last in pairwise(ends)
    ]


def _common_prefix(first: str, second: str) -> str:
    length = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    return first[:length]


def _num_visible(text: str) -> int:
    return sum(not character.isspace() for character in text)
