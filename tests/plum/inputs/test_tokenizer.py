from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from plum.inputs.tokenizer import SPECIAL_TOKENS, check_tokenizer, load_tokenizer, train_tokenizer
from tests.plum.data.tokenizers_for_tests import FAMILIES, TEXTS, byte_level


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_decodes_to_itself(text: str) -> None:
    tokenizer = byte_level()
    if not any(token in text for token in SPECIAL_TOKENS):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_come_first_and_survive_saving(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.save_pretrained(str(tmp_path))
    loaded = load_tokenizer(tmp_path)
    assert loaded.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    for text in (*TEXTS, "USER: <image>\nà la carte</s>USER:  two  spaces"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_words_of_the_texts_are_single_tokens() -> None:
    tokenizer = train_tokenizer(["It is the front wheel."] * 20, 400)
    assert tokenizer.tokenize(" front wheel") == ["Ġfront", "Ġwheel"]


def test_training_is_deterministic() -> None:
    assert train_tokenizer(TEXTS, 500).get_vocab() == train_tokenizer(TEXTS, 500).get_vocab()


def test_no_token_crosses_a_words_edge() -> None:
    tokenizer = train_tokenizer(["wheel, wheel, (wheel) wheel. 12 12"] * 50, 600)
    pieces = tokenizer.tokenize("wheel, (wheel) wheel. 12")
    assert pieces == ["wheel", ",", "Ġ(", "wheel", ")", "Ġwheel", ".", "Ġ1", "2"]


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size 260 is too small"):
        train_tokenizer(TEXTS, 260)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_the_check(family: str) -> None:
    check_tokenizer(FAMILIES[family](), family)


def test_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train-tokenizer"):
        load_tokenizer(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("tokens", "pad", "end", "message"),
    [
        (["<unk>", "<pad>", "</s>"], "<pad>", "</s>", "has no <image> token"),
        (["<unk>", "<image>", "</s>"], None, "</s>", "has no pad token"),
        (["<unk>", "<image>", "<pad>", "<end>"], "<pad>", "<end>", "end token must be </s>"),
    ],
)
def test_missing_special_tokens_are_named(tokens: list[str], pad: str | None, end: str, message: str) -> None:
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(tokens)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token=pad, eos_token=end)
    with pytest.raises(ValueError, match=f"here: .*{message}"):
        check_tokenizer(tokenizer, "here")


def test_tokens_over_two_words_are_refused() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<image>": 1, "<pad>": 2, "</s>": 3}, unk_token="<unk>"))
    backend.add_special_tokens(["<image>", "<pad>", "</s>"])  # no pre-tokenizer: a stretch is one token
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )
    with pytest.raises(ValueError, match=r"joins words in the tokens \['USER: the front wheel"):
        check_tokenizer(tokenizer, "here")


def test_words_that_do_not_come_back_are_refused() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<image>": 1, "<pad>": 2, "</s>": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<image>", "<pad>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )
    with pytest.raises(ValueError, match=r"here: the tokenizer reads 'USER: the front wheel .*' as"):
        check_tokenizer(tokenizer, "here")


def test_offsets_that_miss_text_are_refused() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<image>": 1, "<pad>": 2, "</s>": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(":")  # drops the colon
    backend.add_special_tokens(["<image>", "<pad>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )
    with pytest.raises(ValueError, match=r"offsets miss the characters \[4, "):
        check_tokenizer(tokenizer, "here")
