"""Reads a published LLaVA folder's tokenizer as a fast one, with exactly the ids of the checkpoint's training.

transformers 5 rebuilds LLaMA's tokenizer if tokenizer_config.json names its class. Unless that file says `legacy:
true`, the rebuilt tokenizer no longer puts `▁` in front of text after a special token, whatever tokenizer.json says.
Therefore, tokenizer.json is read unchanged and saved under the neutral class. With tokenizer.model alone, `legacy`
decides; if absent, it is true, as when these checkpoints were made.

Systems with heads (LISA, M2SA, GLaMM, PLUM's authors) add tokens of their own. Most train with the slow tokenizer of
transformers 4.31, which strips white space and line breaks on both sides of an added token (`Marks.is_stripped`).
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from partonomy.files import read_json
from plum.inputs.conversation import BEGIN_TOKEN, END_TOKEN, IMAGE_END, IMAGE_START, IMAGE_TOKEN
from plum.inputs.tokenizer import PAD_TOKEN, UNKNOWN_TOKEN, check_tokenizer

FAST_FILE, SENTENCEPIECE_FILE, SETTINGS_FILE = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
SPECIAL_FILE, ADDED_FILE = "special_tokens_map.json", "added_tokens.json"
PROBES = (
    "A chat between a curious human and an artificial intelligence assistant. USER: What's 128 + 7? ASSISTANT: 135.",
    "the left front wheel, a façade, two  spaces\nand a line break",
)


@dataclass(frozen=True)
class Marks:
    """Tokens that the training of a system with heads adds to LLaVA's vocabulary.

    Attributes:
        tokens: in the order in which the training adds those that its base lacks.
        text: those that answers carry as text; decoding keeps them.
        is_stripped: the training tokenizes with a slow tokenizer, which strips white space and line breaks on both
            sides of an added token; otherwise with a fast one, which keeps them and puts `▁` before every piece.
    """

    tokens: tuple[str, ...]
    text: tuple[str, ...]
    is_stripped: bool


@dataclass(frozen=True)
class SourceTokenizer:
    """A checked tokenizer, and the tokens added to it (the converter adds their embeddings).

    Attributes:
        tokenizer: the tokenizer.
        added_tokens: tokens that the folder's tokenizer lacks.
        is_legacy: every piece of text between added tokens begins with `▁` (`legacy` is not false).
    """

    tokenizer: PreTrainedTokenizerFast
    added_tokens: tuple[str, ...]
    is_legacy: bool = True


def read_source_tokenizer(folder: Path, marks: Marks | None = None, adds_marks: bool = False) -> SourceTokenizer:
    """Read a folder's tokenizer and give it `<image>` and a pad token if it lacks them.

    Args:
        folder: folder of the tokenizer's files.
        marks: tokens of a system with heads; its code pads with `<unk>`. None: LLaVA itself.
        adds_marks: the folder is the system's base: add the marks that it lacks, as the training did.

    Raises:
        FileNotFoundError: the folder has no tokenizer.
        ValueError: its ids differ from SentencePiece's, it lacks a mark, or plum cannot use it (see
            `check_tokenizer`).
    """
    settings = _read_settings(folder)
    if marks is not None and not marks.is_stripped:
        settings["legacy"] = True  # LLaMA's fast tokenizer of transformers 4.31 knows no other way
    backend = _read_backend(folder, settings, marks is not None and marks.is_stripped)
    if marks is not None:
        backend = _with_marks(backend, marks, adds_marks, folder)
    known = backend.get_vocab()
    pad = _text(settings.get("pad_token")) or (PAD_TOKEN if PAD_TOKEN in known else None)
    pad = pad or (None if marks is None else UNKNOWN_TOKEN)
    added = tuple(token for token in (IMAGE_TOKEN, pad or PAD_TOKEN) if token not in known)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    limit = settings.get("model_max_length")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BEGIN_TOKEN,
        eos_token=END_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        pad_token=pad or PAD_TOKEN,
        additional_special_tokens=[IMAGE_TOKEN],
        clean_up_tokenization_spaces=False,
        model_max_length=limit if isinstance(limit, int) else None,
    )
    check_tokenizer(tokenizer, str(folder))
    if tokenizer(PROBES[0])["input_ids"][0] != tokenizer.bos_token_id:
        raise ValueError(f"{folder}: the tokenizer does not put {BEGIN_TOKEN} in front of a text, as LLaVA's does")
    return SourceTokenizer(tokenizer, added, settings.get("legacy") is not False)


def _read_backend(folder: Path, settings: Mapping[str, object], prefers_sentencepiece: bool) -> Tokenizer:
    """Read tokenizer.json unchanged, or convert tokenizer.model; a slow tokenizer's training reads the latter."""
    fast, model = folder / FAST_FILE, folder / SENTENCEPIECE_FILE
    if fast.is_file() and not (prefers_sentencepiece and model.is_file()):
        return Tokenizer.from_file(str(fast))
    if model.is_file():
        return _from_sentencepiece(folder, settings)
    raise FileNotFoundError(f"{folder} has neither {FAST_FILE} nor {SENTENCEPIECE_FILE}: no tokenizer")


def _with_marks(backend: Tokenizer, marks: Marks, adds_marks: bool, folder: Path) -> Tokenizer:
    """Give added tokens the ways of the system's training."""
    known = backend.get_vocab()
    missing = [token for token in marks.tokens if token not in known]
    if adds_marks:
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    elif missing:
        raise ValueError(f"{folder}: the tokenizer has no {missing[0]} ({ADDED_FILE} missing?)")
    num_pieces = backend.get_vocab_size(with_added_tokens=False)
    content = json.loads(backend.to_str())
    for token in content["added_tokens"]:
        if token["id"] >= num_pieces or token["content"] in marks.tokens:
            is_text = token["content"] in marks.text
            token.update(normalized=False, special=not is_text, lstrip=marks.is_stripped, rstrip=marks.is_stripped)
    return Tokenizer.from_str(json.dumps(content))


def require_image_delimiters(tokenizer: PreTrainedTokenizerFast, where: str) -> None:
    """Check that `<im_start>` and `<im_end>` are tokens, also directly next to `<image>`.

    Raises:
        ValueError: they are not, although the checkpoint says that it was trained with them.
    """
    expected = [IMAGE_START, IMAGE_TOKEN, IMAGE_END]
    ids = tokenizer("".join(expected), add_special_tokens=False)["input_ids"]
    if tokenizer.convert_ids_to_tokens(ids) != expected:
        raise ValueError(
            f"{where}: config.json says mm_use_im_start_end, but its tokenizer has no {IMAGE_START} and {IMAGE_END} "
            "(added_tokens.json missing?)"
        )


def _read_settings(folder: Path) -> dict[str, object]:
    """Return the settings of tokenizer_config.json, completed with those of special_tokens_map.json."""
    settings: dict[str, object] = {}
    for file in (SPECIAL_FILE, SETTINGS_FILE):
        if (folder / file).is_file():
            content = read_json(folder / file)
            settings |= {key: value for key, value in content.items() if value is not None}
    return settings


def _text(token: object) -> str | None:
    """Return the text of a token that is given as text or as an object with "content"."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _from_sentencepiece(folder: Path, settings: Mapping[str, object]) -> Tokenizer:
    """Convert tokenizer.model with transformers, with the begin token and the spaces of its training."""
    with _without_fast_file(folder) as files:
        backend = _split_before_normalizing(AutoTokenizer.from_pretrained(str(files)).backend_tokenizer)
    if settings.get("add_bos_token") is not False:  # absent: true for LLaMA's slow tokenizer, not for transformers 5
        begin = (BEGIN_TOKEN, backend.token_to_id(BEGIN_TOKEN))
        backend.post_processor = processors.TemplateProcessing(f"{BEGIN_TOKEN} $A", special_tokens=[begin])
    if settings.get("legacy") is not False:
        # Every piece of text between special tokens begins with the word mark.
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    else:
        # Only the beginning of the text does, and the piece after `<image>`, which LLaVA tokenizes separately. It is
        # the only piece that begins with a line break.
        backend.normalizer = normalizers.Replace(Regex(r"\A\n"), "▁\n")
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    _require_sentencepiece_ids(backend, folder / SENTENCEPIECE_FILE, PROBES)
    return backend


@contextmanager
def _without_fast_file(folder: Path) -> Iterator[Path]:
    """Yield a folder with the slow tokenizer's files alone, because transformers prefers tokenizer.json."""
    if not (folder / FAST_FILE).is_file():
        yield folder
        return
    with TemporaryDirectory() as copied:
        for file in (SENTENCEPIECE_FILE, SETTINGS_FILE, SPECIAL_FILE, ADDED_FILE):
            if (folder / file).is_file():
                shutil.copy(folder / file, copied)
        yield Path(copied)


def _split_before_normalizing(backend: Tokenizer) -> Tokenizer:
    """Cut added tokens (`<im_start>`) out of the raw text, as LLaMA's slow tokenizer does.

    transformers 5 normalises those of added_tokens.json, which puts `▁` in front of them.
    """
    content = json.loads(backend.to_str())
    for token in content["added_tokens"]:
        token.update(normalized=False, special=True)
    return Tokenizer.from_str(json.dumps(content))


def _require_sentencepiece_ids(backend: Tokenizer, model: Path, texts: Sequence[str]) -> None:
    """Raise if the ids differ from SentencePiece's own."""
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text in texts:
        ours = backend.encode(text, add_special_tokens=False).ids
        if ours != (theirs := reference.encode(text)):
            raise ValueError(f"{model}: the fast tokenizer reads {text!r} as {ours}, SentencePiece as {theirs}")
