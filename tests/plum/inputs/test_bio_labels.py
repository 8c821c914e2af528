import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partonomy.structures import CharSpan
from plum.inputs.bio_labels import (
    Tag,
    TokenSpan,
    classes_of_tags,
    decode_tags,
    number_of_classes,
    phrase_tokens,
    trim_offsets,
    write_tags,
)

O, B, I = Tag.O, Tag.B, Tag.I  # noqa: E741


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ([], []),
        ([O, O], []),
        ([B], [(0, 1)]),
        ([O, B, I, I, O, B], [(1, 4), (5, 6)]),
        ([B, I, B, I], [(0, 2), (2, 4)]),  # a B inside a chain starts a new span
        ([I, I, B, O, I], [(2, 3)]),  # an I without a B is ignored
        ([B, -100, I], [(0, 1)]),  # anything else ends a chain
    ],
)
def test_decode_tags(tags: list[int], spans: list[tuple[int, int]]) -> None:
    assert decode_tags(tags) == [TokenSpan(start, end) for start, end in spans]


@settings(deadline=None)  # a busy machine takes long over any example
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=8))
def test_written_tags_decode_to_the_same_spans(gaps_and_lengths: list[tuple[int, int]]) -> None:
    spans, position = [], 0
    for gap, length in gaps_and_lengths:
        spans.append(TokenSpan(position + gap, position + gap + length))
        position += gap + length
    tags = [int(O)] * (position + 2)
    for span in spans:
        write_tags(tags, span)
    assert decode_tags(tags) == spans


def test_phrases_may_not_share_a_token() -> None:
    tags = [int(O)] * 4
    write_tags(tags, TokenSpan(0, 2))
    with pytest.raises(ValueError, match="already belong"):
        write_tags(tags, TokenSpan(1, 3))


def test_offsets_with_and_without_the_leading_space_agree() -> None:
    text = "a front wheel."
    with_space = [(0, 1), (1, 7), (7, 13), (13, 14)]
    without = [(0, 1), (2, 7), (8, 13), (13, 14)]
    assert trim_offsets(text, with_space) == without == trim_offsets(text, without)
    assert phrase_tokens(without, CharSpan(2, 13)) == TokenSpan(1, 3)


def test_tokens_of_white_space_are_empty() -> None:
    assert trim_offsets("a  b", [(0, 1), (1, 3), (3, 4), (0, 0)]) == [(0, 1), (3, 3), (3, 4), (0, 0)]


def test_a_phrase_on_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="2:4 fall on no token"):
        phrase_tokens([(0, 2), (4, 6)], CharSpan(2, 4))


def test_a_token_is_found_by_any_shared_character() -> None:
    # "wheels" is cut into "whe" + "els": the phrase "wheel" needs both tokens.
    assert phrase_tokens([(0, 3), (3, 6)], CharSpan(0, 5)) == TokenSpan(0, 2)


@pytest.mark.parametrize(
    ("classes", "spans"),
    [
        ([0, 1, 1, 0, 1], [(1, 3), (4, 5)]),
        ([1, 1, 1], [(0, 3)]),
        ([0, 0], []),
        ([], []),
        ([1, 0, 1, 1, 0, 0, 1], [(0, 1), (2, 4), (6, 7)]),
        ([1, 2, 1], [(0, 1), (2, 3)]),  # a binary tagger has no class 2
    ],
)
def test_binary_decoding_reads_contiguous_runs(classes: list[int], spans: list[tuple[int, int]]) -> None:
    assert [(span.start, span.end) for span in decode_tags(classes, "binary")] == spans


def test_bio_tags_as_classes_of_either_scheme() -> None:
    tags = torch.tensor([0, 1, 2, 2, -100, 1])
    assert classes_of_tags(tags, number_of_classes("bio")).tolist() == tags.tolist()
    assert classes_of_tags(tags, number_of_classes("binary")).tolist() == [0, 1, 1, 1, -100, 1]


def test_two_phrases_side_by_side_become_one_in_the_binary_scheme() -> None:
    tags = [int(Tag.B), int(Tag.I), int(Tag.B), int(Tag.O)]
    classes = classes_of_tags(torch.tensor(tags), 2).tolist()
    assert decode_tags(tags) == [TokenSpan(0, 2), TokenSpan(2, 3)]
    assert decode_tags(classes, "binary") == [TokenSpan(0, 3)]
