import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from partonomy.structures import CharSpan
from plum.checkpoints.published.llava_tokenizer import read_source_tokenizer
from plum.inputs.bio_labels import TokenSpan, decode_tags
from plum.inputs.conversation import TEMPLATES, TemplateName
from plum.inputs.encoding import ConversationEncoder, EncodedConversation, token_chars, token_id
from plum.structures import IGNORE_INDEX, Exchange
from tests.plum.checkpoints.published.published_llava import write_tokenizer
from tests.plum.data.tokenizers_for_tests import FAMILIES, byte_level, word_level

FIRST = Exchange(
    "What visible parts does the biplane have?",
    "It has a front wheel, a wheel and a propeller.",
    (CharSpan(9, 20), CharSpan(24, 29), CharSpan(36, 45)),
)
SECOND = Exchange("And the rest?", "wheel (visible), window (missing).", (CharSpan(0, 5),))
UNTAGGED = Exchange("Where is the horizontal stabilizer?", "It is the horizontal stabilizer.", is_tagged=False)


def _phrases(row: EncodedConversation) -> list[str]:
    found = [token_chars(row.encoded, span) for span in row.spans]
    return [row.encoded.text[chars.start : chars.end] for chars in found]


@pytest.mark.parametrize("num_image_tokens", [1, 4, 256, 576])
@pytest.mark.parametrize("family", FAMILIES)
def test_phrases_tags_and_labels_round_trip(family: str, num_image_tokens: int) -> None:
    tokenizer = FAMILIES[family]()
    row = ConversationEncoder(tokenizer, "plain", num_image_tokens).encode([FIRST, SECOND])
    assert _phrases(row) == ["front wheel", "wheel", "propeller", "wheel"]
    assert decode_tags(row.tags) == list(row.spans)
    (image,) = row.encoded.images
    assert image.end - image.start == num_image_tokens
    image_id = token_id(tokenizer, "<image>")
    assert [i for i, token in enumerate(row.encoded.input_ids) if token == image_id] == list(range(*_range(image)))
    assert len(row.labels) == len(row.tags) == len(row.encoded.offsets) == len(row.encoded.input_ids)


def _range(span: TokenSpan) -> tuple[int, int]:
    return span.start, span.end


@pytest.mark.parametrize("family", FAMILIES)
def test_every_image_has_its_own_number_of_tokens_without_characters(family: str) -> None:
    tokenizer = FAMILIES[family]()
    encoder = ConversationEncoder(tokenizer, "plain", 4)
    one, three = (
        encoder.encode([FIRST, SECOND], [encoder.slot(length) for length in lengths]).encoded
        for lengths in ([1, 1, 1], [2, 1, 5])
    )
    assert [image.end - image.start for image in three.images] == [2, 1, 5]
    # A token more in the first image, four more in the third, which starts one token later.
    starts = [image.start for image in one.images]
    assert [image.start for image in three.images] == [starts[0], starts[1] + 1, starts[2] + 1]
    assert len(three.input_ids) == len(one.input_ids) + 5
    assert three.num_text_tokens == one.num_text_tokens == len(one.input_ids) - 3
    marks = [match.start() for match in re.finditer("<image>", three.text)]
    for image, mark in zip(three.images, marks, strict=True):
        assert {three.input_ids[i] for i in range(*_range(image))} == {token_id(tokenizer, "<image>")}
        assert set(three.offsets[image.start : image.end]) == {(mark, mark)}
        assert token_chars(three, TokenSpan(image.start, image.end)) == CharSpan(mark, mark)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_decode_to_exactly_the_answers(family: str, template: TemplateName) -> None:
    tokenizer = FAMILIES[family]()
    row = ConversationEncoder(tokenizer, template, 4).encode([FIRST, SECOND])
    supervised = [i for i, label in enumerate(row.labels) if label != IGNORE_INDEX]
    assert supervised == [i for answer in row.answers for i in range(*_range(answer))]
    assert all(row.labels[i] == row.encoded.input_ids[i] for i in supervised)
    for answer, exchange in zip(row.answers, (FIRST, SECOND), strict=True):
        decoded = str(tokenizer.decode(list(row.labels[answer.start : answer.end])))
        assert "".join(decoded.split()) == "".join(exchange.answer.split()) + "</s>"
    assert [tag != IGNORE_INDEX for tag in row.tags] == [label != IGNORE_INDEX for label in row.labels]


TURNS = (
    Exchange("Where is the wheel?", "It is the wheel.", (CharSpan(10, 15),)),
    Exchange("And the window?", "window (missing).", (CharSpan(0, 6),)),
    Exchange("Sure?", "Yes."),
)
SUPERVISED: dict[TemplateName, tuple[str, ...]] = {
    "llava_v1": (" It is the wheel.</s>", " window (missing).</s>", " Yes.</s>"),
    "vicuna_v1.1": (" It is the wheel.</s>", " window (missing).</s>", " Yes.</s>"),
    "llava_llama_2": (" It is the wheel. </s>", " window (missing). </s>", " Yes. </s>"),
}
"""What LLaVA's own masks leave: the answer with the space before it, and the end token; no role, no question."""
PUBLISHED_KINDS: dict[str, dict[str, object]] = {"legacy": {}, "newer": {"legacy": False}}
"""Settings of SentencePiece tokenizers as LLaVA's checkpoints have them."""


@pytest.mark.parametrize("num_turns", [1, 2, 3])
@pytest.mark.parametrize("template", SUPERVISED)
@pytest.mark.parametrize("kind", ["byte_level", *PUBLISHED_KINDS])
def test_exactly_the_answers_of_every_turn_are_supervised(
    kind: str, template: TemplateName, num_turns: int, tmp_path: Path
) -> None:
    if kind in PUBLISHED_KINDS:
        write_tokenizer(tmp_path, **PUBLISHED_KINDS[kind])
        tokenizer = read_source_tokenizer(tmp_path).tokenizer
    else:
        tokenizer = byte_level()
    row = ConversationEncoder(tokenizer, template, 4).encode(TURNS[:num_turns])
    runs: list[list[int]] = []
    for i, label in enumerate(row.labels):
        if label != IGNORE_INDEX:
            assert label == row.encoded.input_ids[i]
            if not runs or runs[-1][-1] != i - 1:
                runs.append([])
            runs[-1].append(i)
    texts = [row.encoded.text[row.encoded.offsets[run[0]][0] : row.encoded.offsets[run[-1]][1]] for run in runs]
    assert texts == list(SUPERVISED[template][:num_turns])
    assert [row.labels[run[-1]] for run in runs] == [tokenizer.eos_token_id] * num_turns
    assert _phrases(row) == ["wheel", "window"][:num_turns]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompts_tokens_are_a_prefix(family: str, template: TemplateName) -> None:
    encoder = ConversationEncoder(FAMILIES[family](), template, 4)
    row = encoder.encode([FIRST, SECOND])
    prompt = encoder.encode_prompt([FIRST], SECOND.question)
    assert prompt.input_ids == row.encoded.input_ids[: len(prompt.input_ids)]
    assert row.answers[-1].start == len(prompt.input_ids)


def test_untagged_answers_have_labels_but_no_tags() -> None:
    row = ConversationEncoder(byte_level(), "plain", 4).encode([UNTAGGED, SECOND])
    first, second = row.answers
    assert set(row.tags[first.start : first.end]) == {IGNORE_INDEX}
    assert IGNORE_INDEX not in row.labels[first.start : first.end]
    assert IGNORE_INDEX not in row.tags[second.start : second.end]


def test_text_only_conversations_have_no_image_tokens() -> None:
    row = ConversationEncoder(byte_level(), "plain", 4).encode([FIRST], [])
    assert row.encoded.images == ()
    assert row.encoded.num_text_tokens == len(row.encoded.input_ids)
    assert _phrases(row) == ["front wheel", "wheel", "propeller"]


def test_the_limit_counts_text_tokens_and_names_the_sample() -> None:
    length = ConversationEncoder(byte_level(), "plain", 4).encode([FIRST]).encoded.num_text_tokens
    ConversationEncoder(byte_level(), "plain", 576, length).encode([FIRST])
    with pytest.raises(ValueError, match=f"world/7: .*{length} text tokens.*max_text_tokens = {length - 1}"):
        ConversationEncoder(byte_level(), "plain", 4, length - 1).encode([FIRST], name="world/7")


def test_phrases_out_of_reading_order_name_the_sample() -> None:
    exchange = Exchange("Where?", "wheel and window", (CharSpan(10, 16), CharSpan(0, 5)))
    with pytest.raises(ValueError, match="world/7: .*not in reading order"):
        ConversationEncoder(byte_level(), "plain", 4).encode([exchange], name="world/7")


def test_a_phrase_on_no_token_names_sample_and_phrase() -> None:
    exchange = Exchange("Where?", "the wheel", (CharSpan(3, 4),))  # the space between the words
    with pytest.raises(ValueError, match="world/7: phrase ' ' .*on no token"):
        ConversationEncoder(word_level(), "plain", 4).encode([exchange], name="world/7")


def test_two_phrases_in_one_token_name_the_sample() -> None:
    exchange = Exchange("Where?", "the wheel", (CharSpan(4, 6), CharSpan(6, 9)))
    with pytest.raises(ValueError, match="world/7: phrase 'eel' .*another phrase"):
        ConversationEncoder(word_level(), "plain", 4).encode([exchange], name="world/7")


def test_a_tokenizer_that_merges_prompt_and_answer_is_refused() -> None:
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "<image>": 3}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("ASSISTANT: [a-z]+"), "isolated")
    backend.add_special_tokens([AddedToken(token, special=True) for token in vocabulary])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )
    with pytest.raises(ValueError, match="merges the prompt's end with the answer"):
        ConversationEncoder(tokenizer, "plain", 4).encode([Exchange("Where?", "there")])


WORDS = st.lists(
    st.text(
        st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="<>"), min_size=1, max_size=8
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(words=WORDS, data=st.data(), template=st.sampled_from(sorted(TEMPLATES)))
def test_any_words_round_trip_through_byte_level_offsets(
    words: list[str], data: st.DataObject, template: TemplateName
) -> None:
    chosen = sorted(data.draw(st.sets(st.integers(0, len(words) - 1))))
    answer = " ".join(words)
    starts = [sum(len(word) + 1 for word in words[:i]) for i in range(len(words))]
    spans = tuple(CharSpan(starts[i], starts[i] + len(words[i])) for i in chosen)
    row = ConversationEncoder(byte_level(), template, 4).encode([Exchange("Where?", answer, spans)])
    assert _phrases(row) == [words[i] for i in chosen]
    assert decode_tags(row.tags) == list(row.spans)
