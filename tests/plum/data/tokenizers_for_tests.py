"""Small tokenizers of every family that offsets have to work for."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from plum.inputs.tokenizer import SPECIAL_TOKENS, train_tokenizer

TEXTS = (
    "USER: What visible parts does the biplane have? ASSISTANT: It has a front wheel, a wheel and a propeller.",
    "USER: Where is the horizontal stabilizer? ASSISTANT: It is the horizontal stabilizer.",
    "USER: And the rest? ASSISTANT: wheel (visible), window (missing).",
    "A chat between a curious human and an artificial intelligence assistant. [INST] <<SYS>> <</SYS>> [/INST]",
    "The assistant gives helpful, detailed, and polite answers to the user's questions. human's",
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.",
)
_SPECIAL = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]


@lru_cache(maxsize=1)
def byte_level() -> PreTrainedTokenizerFast:
    """The project's own tokenizer: a word's offsets hold the space before it."""
    return train_tokenizer(TEXTS, 600)


@lru_cache(maxsize=1)
def byte_level_trimmed() -> PreTrainedTokenizerFast:
    """GPT-2's manner: the space belongs to the token, not to its offsets."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return _wrap(backend)


@lru_cache(maxsize=1)
def sentencepiece_like() -> PreTrainedTokenizerFast:
    """LLaMA's manner: `▁` for spaces, a begin token put in front, unknown characters as bytes."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL_TOKENS.index("<s>"))]
    )
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=_SPECIAL, show_progress=False)
    spaced = [text.replace(",", " ,").replace(".", " .").replace(":", " :") for text in TEXTS]
    backend.train_from_iterator([*TEXTS, *spaced], trainer)
    return _wrap(backend)


@lru_cache(maxsize=1)
def word_level() -> PreTrainedTokenizerFast:
    """Whole words and punctuation marks."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=_SPECIAL, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return _wrap(backend)


def _wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


FAMILIES: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "byte_level_trimmed": byte_level_trimmed,
    "sentencepiece_like": sentencepiece_like,
    "word_level": word_level,
}
