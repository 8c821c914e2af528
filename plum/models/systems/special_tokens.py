"""Which token ids the model needs, read from the tokenizer, and the one that a system with [SEG] tokens adds to it."""

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from plum.config import ModelConfig, SpecialTokensConfig
from plum.inputs.conversation import IMAGE_TOKEN
from plum.inputs.encoding import token_id
from plum.models.systems.seg_token import SEG_TOKEN, add_seg_token


def read_special_tokens(tokenizer: PreTrainedTokenizerBase) -> SpecialTokensConfig:
    """Read the ids of `<image>`, padding and end.

    `<image>`, and a pad token that is no text token, are suppressed in the model's output.

    Raises:
        ValueError: the tokenizer lacks one of them.
    """
    where = tokenizer.name_or_path or "the tokenizer"
    image, pad, end = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), tokenizer.pad_token_id, tokenizer.eos_token_id
    if not isinstance(image, int) or image == tokenizer.unk_token_id:
        raise ValueError(f"{where} has no {IMAGE_TOKEN} token; add it as a special token")
    if pad is None or end is None:
        raise ValueError(
            f"{where} needs a pad token (it has {tokenizer.pad_token}) and an end token (it has {tokenizer.eos_token})"
        )
    is_text = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    suppressed = (image,) if pad in is_text else (image, pad)
    return SpecialTokensConfig(image=image, pad=pad, eos=end, suppressed=tuple(sorted(suppressed)))


def add_written_tokens(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Add the tokens that the configuration's system writes and the tokenizer lacks, in place.

    Returns:
        Ids of the tokens added.

    Raises:
        ValueError: the tokenizer takes one of them apart all the same.
    """
    if config.seg_token is None or not add_seg_token(tokenizer):
        return ()
    return (token_id(tokenizer, SEG_TOKEN),)


def with_special_tokens(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> ModelConfig:
    """Return the configuration with the tokenizer's special tokens in it.

    Embedding rows beyond the tokenizer (LLaVA's are padded to 32064) stand for no text: they are suppressed too.

    Raises:
        ValueError: the configuration already holds other ones, or the tokenizer has more tokens than the model, or
            lacks one that the system writes.
    """
    found, given = read_special_tokens(tokenizer), config.llava.special_tokens
    where = tokenizer.name_or_path or "the tokenizer"
    if len(tokenizer) > config.llava.language.vocab_size:
        raise ValueError(
            f"{where} has {len(tokenizer)} tokens but llava.language.vocab_size is {config.llava.language.vocab_size}"
        )
    if config.seg_token is not None and SEG_TOKEN not in tokenizer.get_vocab():
        raise ValueError(f"{where} has no {SEG_TOKEN}, which model.system {config.system} writes: another model's?")
    no_text = range(len(tokenizer), config.llava.language.vocab_size)
    whole = replace(found, suppressed=tuple(sorted({*found.suppressed, *no_text})))
    if given is not None and given not in (found, whole):  # `found`: saved before those rows were suppressed
        raise ValueError(f"llava.special_tokens is {given} but {where} has {whole}: this is another model's tokenizer")
    return replace(config, llava=replace(config.llava, special_tokens=given or whole))
