"""Tokenizers: train the embedded default's byte-level BPE on texts of the data sources, and load any tokenizer.

The trained tokenizer represents any text and decodes it to itself. Its offsets are exact, and part and object names
become one or two tokens.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from plum.config import ModelConfig
from plum.inputs.conversation import BEGIN_TOKEN, END_TOKEN, IMAGE_TOKEN

PAD_TOKEN = "<pad>"
UNKNOWN_TOKEN = "<unk>"
SPECIAL_TOKENS = (PAD_TOKEN, BEGIN_TOKEN, END_TOKEN, UNKNOWN_TOKEN, IMAGE_TOKEN)
_CURE = "use the tokenizer of the model's own release, or make one with `python -m plum train-tokenizer`"
_PROBES = (
    "USER: the front wheel ASSISTANT: It is the front wheel.",
    "USER: <image>\nthe wheel and the wheel ASSISTANT: It is the wheel.</s>USER: the front wheel",
)
_STOCK_PROBE = "What parts are visible? It is the front wheel, the wheel and the wheel."


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Args:
        texts: the training corpus; the order affects only ties.
        vocab_size: number of tokens, special tokens and the 256 bytes included; the result is smaller if the texts
            offer too few merges.

    Raises:
        ValueError: the size leaves no room for bytes and special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size {vocab_size} is too small: 256 bytes and the special tokens need {smallest}")
    backend = Tokenizer(models.BPE(byte_fallback=False))
    # One digit, one punctuation mark, or one word with the space before it: no token crosses a phrase boundary.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BEGIN_TOKEN,
        eos_token=END_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        pad_token=PAD_TOKEN,
        additional_special_tokens=[IMAGE_TOKEN],
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """Load a tokenizer saved by `save_pretrained` and check that plum can use it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: see `check_tokenizer`.
    """
    tokenizer = _read_tokenizer(folder)
    check_tokenizer(tokenizer, str(folder))
    return tokenizer


def load_stock_tokenizer(folder: Path | str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a stock model, with its chat template; padding falls back to the end token.

    Args:
        folder: holds its files.
        chat_template: what it takes if its files have none; some checkpoints keep the template with the processor.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no fast backend or no chat template, or its offsets are useless; see `check_tokenizer`.
    """
    tokenizer = _read_tokenizer(folder)
    if not tokenizer.is_fast:
        raise ValueError(f"{folder}: the tokenizer has no fast backend and so no character offsets; {_CURE}")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = chat_template
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{folder}: the tokenizer has no chat template, so the model's conversation format is unknown; use the "
            "instruction-tuned variant, or put its chat_template.jinja into the folder"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _check_offsets(tokenizer, _STOCK_PROBE, str(folder))
    return tokenizer


def load_model_tokenizer(folder: Path | str, config: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model: LLaVA's, or a stock model's with its chat template.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: see `load_tokenizer` and `load_stock_tokenizer`.
    """
    return load_tokenizer(folder) if config.hf is None else load_stock_tokenizer(folder)


def _read_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such tokenizer folder; make one with `python -m plum train-tokenizer`")
    return AutoTokenizer.from_pretrained(str(folder))


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Check offsets and special tokens.

    Args:
        tokenizer: the tokenizer to check.
        where: its name in error messages.

    Raises:
        ValueError: it has no fast backend, its offsets leave the text, do not cover it or join two words, its ids do
            not decode to the text, or `<image>`, a pad or an end token is missing.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{where}: the tokenizer has no fast backend and so no character offsets; {_CURE}")
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image_id is None or image_id == tokenizer.unk_token_id or len(tokenizer.tokenize(IMAGE_TOKEN)) != 1:
        raise ValueError(f"{where}: the tokenizer has no {IMAGE_TOKEN} token; add it as a special token")
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{where}: the tokenizer has no pad token; add one as a special token")
    if tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id or -1) != END_TOKEN:
        raise ValueError(
            f"{where}: the tokenizer's end token must be {END_TOKEN}, the one the templates close answers with; set "
            "its eos_token"
        )
    for probe in _PROBES:
        _check_offsets(tokenizer, probe, where)


def _check_offsets(tokenizer: PreTrainedTokenizerBase, probe: str, where: str) -> None:
    """Check a text's offsets, and that its ids decode to it, white space apart."""
    output = tokenizer(probe, return_offsets_mapping=True)
    offsets: list[tuple[int, int]] = [(int(start), int(end)) for start, end in output["offset_mapping"]]
    if outside := [(start, end) for start, end in offsets if not 0 <= start <= end <= len(probe)]:
        raise ValueError(f"{where}: the tokenizer's offsets {outside} lie outside of {probe!r}; {_CURE}")
    covered = {i for start, end in offsets for i in range(start, end)}
    if missing := [i for i, character in enumerate(probe) if not character.isspace() and i not in covered]:
        raise ValueError(f"{where}: the tokenizer's offsets miss the characters {missing} of {probe!r}; {_CURE}")
    if joined := [probe[start:end] for start, end in offsets if len(probe[start:end].split()) > 1]:
        raise ValueError(
            f"{where}: the tokenizer joins words in the tokens {joined}: phrases could not be told apart; {_CURE}"
        )
    decoded = str(tokenizer.decode(output["input_ids"])).removeprefix(tokenizer.bos_token or "")
    # A line break may be unknown to a small vocabulary; a word may not.
    decoded = decoded.replace(tokenizer.unk_token or "\n", "")
    if "".join(decoded.split()) != "".join(probe.split()):
        raise ValueError(f"{where}: the tokenizer reads {probe!r} as {decoded!r}; {_CURE}")
