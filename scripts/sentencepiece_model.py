"""Train a LLaMA-style tokenizer in the published file formats: SentencePiece BPE with byte fallback."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import sentencepiece


def train_sentencepiece(texts: Iterable[str], num_pieces: int) -> bytes:
    """Train on texts; a few hundred pieces need each text several times.

    Args:
        texts: the training texts.
        num_pieces: size of the vocabulary, special pieces and 256 bytes included.

    Returns:
        Content of `tokenizer.model`; the word mark `▁` precedes each word.
    """
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=num_pieces,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return written.getvalue()


def write_tokenizer_files(folder: Path, model: bytes, settings: Mapping[str, object] | None = None) -> None:
    """Write `tokenizer.model` and its settings as in LLaVA's folders; `settings` are added to the defaults."""
    (folder / "tokenizer.model").write_bytes(model)
    content: dict[str, object] = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": None,
    }
    text = json.dumps(content | dict(settings or {}))
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
