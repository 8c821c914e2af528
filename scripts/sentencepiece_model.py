"""A tokenizer of LLaMA's kind in the files that are published: SentencePiece, BPE, bytes for unknown characters."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import sentencepiece


def train_sentencepiece(texts: Iterable[str], num_pieces: int) -> bytes:
    """Train on texts; a few hundred pieces need each text several times.

    Args:
        texts: what the pieces are learned from.
        num_pieces: size of the vocabulary, special pieces and 256 bytes included.

    Returns:
        Content of `tokenizer.model`; a word's mark `▁` stands in front of it.
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
    """Write `tokenizer.model` and its settings as LLaVA's folders have them; `settings` come on top."""
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
