"""Special token ids of the model, read from the tokenizer, and the tokens that a run adds to it.

These are [SEG] (in systems that write it), and `<im_start>` and `<im_end>` if the conversation template has them and
the backbone was trained without. The released code of LISA, M2SA and PLUM adds them to every backbone, in this order.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plum.config import HfBackboneConfig, LlavaConfig, ModelConfig, SpecialTokensConfig
from plum.inputs.conversation import IMAGE_END, IMAGE_START, IMAGE_TOKEN, TEMPLATES
from plum.inputs.encoding import token_id
from plum.inputs.stock_inputs import image_token_id
from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import parameters_by_component
from plum.models.systems.seg_token import add_marks, written_marks

NORMAL_DEVIATION = 0.02
"""Standard deviation of a new row under `normal`: LLaMA's `initializer_range`."""
ROW_MULTIPLE = 64
"""Matrices of such a number of rows multiply faster on GPUs; transformers' LLaVA checkpoints have it, too."""


def read_special_tokens(
    tokenizer: PreTrainedTokenizerBase, backbone: LlavaConfig | HfBackboneConfig
) -> SpecialTokensConfig:
    """Read the ids of the image placeholder, padding and end.

    The placeholder, and a pad token that is not also a text token, are suppressed in the model's output. A stock model
    names its placeholder in its configuration; its end token is the one that its chat template writes.

    Raises:
        ValueError: the tokenizer lacks one of them.
    """
    where = tokenizer.name_or_path or "the tokenizer"
    pad = tokenizer.pad_token_id
    if isinstance(backbone, HfBackboneConfig):
        image: int | None = image_token_id(backbone)
        end = token_id(tokenizer, backbone.end_tokens[0]) if backbone.end_tokens else tokenizer.eos_token_id
    else:
        image = token_id(tokenizer, IMAGE_TOKEN) if IMAGE_TOKEN in tokenizer.get_vocab() else None
        end = tokenizer.eos_token_id
    if image is None or image == tokenizer.unk_token_id:
        raise ValueError(f"{where} has no {IMAGE_TOKEN} token; add it as a special token")
    if pad is None or end is None:
        raise ValueError(
            f"{where} needs a pad token (it has {tokenizer.pad_token}) and an end token (it has "
            f"{tokenizer.eos_token}); add them as special tokens"
        )
    is_text = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    suppressed = {image} if pad in is_text else {image, pad}
    return SpecialTokensConfig(image=image, pad=pad, eos=end, suppressed=tuple(sorted(suppressed)))


def add_written_tokens(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Add the tokens that the configured system and template write and the tokenizer lacks, in place.

    Returns:
        Ids of the tokens added.

    Raises:
        ValueError: the tokenizer still splits one of them.
    """
    marks = config.seg_token
    added = [] if marks is None else add_marks(tokenizer, marks.has_phrase_tags)
    if _has_delimiters(config):
        added += _add_image_delimiters(tokenizer)
    return tuple(token_id(tokenizer, token) for token in added)


def _has_delimiters(config: ModelConfig) -> bool:
    return config.llava is not None and TEMPLATES[config.llava.conversation].image != IMAGE_TOKEN


def _add_image_delimiters(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Add `<im_start>` and `<im_end>` if they are missing, and return those added."""
    added = [token for token in (IMAGE_START, IMAGE_END) if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in added], special_tokens=True)
    expected = [IMAGE_START, IMAGE_TOKEN, IMAGE_END]
    ids = tokenizer("".join(expected), add_special_tokens=False)["input_ids"]
    if tokenizer.convert_ids_to_tokens(ids) != expected:
        raise ValueError(
            f"{tokenizer.name_or_path or 'the tokenizer'} splits {''.join(expected)!r} into other tokens; give it "
            f"{IMAGE_START} and {IMAGE_END} as special tokens, or choose a model.llava.conversation without them"
        )
    return added


@torch.no_grad()
def initialise_new_rows(model: GroundedLMM, new_ids: Sequence[int], how: Literal["mean", "normal"]) -> None:
    """Set the embedding and output rows of tokens that the model has never seen.

    Args:
        model: changed in place.
        new_ids: ids of the tokens.
        how: `TrainConfig.new_token_rows`. With the mean of the text tokens' rows a token is neither likely nor unlikely
            at the start. Normal rows are drawn from torch's global generator.
    """
    silent = {*new_ids, *model.backbone.special_tokens.suppressed}
    drawn: dict[bool, Tensor] = {}
    for component, name, matrix in parameters_by_component(model):
        if component != "llava.embeddings":
            continue
        if how == "mean":
            text = [row for row in range(len(matrix)) if row not in silent]
            matrix[list(new_ids)] = matrix[text].mean(0)
            continue
        is_output = "lm_head." in name  # peft holds embed_tokens twice, and both start with the same rows
        if is_output not in drawn:
            drawn[is_output] = torch.randn(len(new_ids), matrix.shape[1]) * NORMAL_DEVIATION
        matrix[list(new_ids)] = drawn[is_output].to(matrix)


def with_added_rows(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, added: Sequence[int]) -> ModelConfig:
    """Return the configuration of a stock model with embedding rows for the tokens that a run adds to its tokenizer.

    Many published vocabularies leave no row free. LLaVA's conversion leaves some; its number of rows stays.

    Args:
        config: architecture, with the stock model's own number of rows.
        tokenizer: with the added tokens.
        added: their ids.
    """
    num_rows = config.language.vocab_size
    if config.hf is None or not len(tokenizer) - len(added) <= num_rows < len(tokenizer):
        return config
    return config.with_backbone(config.hf.with_vocabulary(-(-len(tokenizer) // ROW_MULTIPLE) * ROW_MULTIPLE))


def with_special_tokens(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> ModelConfig:
    """Return the configuration completed with the tokenizer's special tokens.

    Embedding rows beyond the tokenizer's vocabulary (LLaVA pads to 32064) represent no text and are suppressed too.

    Raises:
        ValueError: the configuration already has different ones, the tokenizer has more tokens than the model, or it
            lacks one that the system writes.
    """
    backbone = config.backbone
    found, given = read_special_tokens(tokenizer, backbone), backbone.special_tokens
    where, vocab_size = tokenizer.name_or_path or "the tokenizer", backbone.language.vocab_size
    if len(tokenizer) > vocab_size:
        name = "llava.language.vocab_size" if isinstance(backbone, LlavaConfig) else "the model's vocab_size"
        raise ValueError(
            f"{where} has {len(tokenizer)} tokens but {name} is {vocab_size}; raise it, or use the model's own "
            "tokenizer"
        )
    marks = () if config.seg_token is None else written_marks(config.seg_token.has_phrase_tags)
    if missing := [mark for mark in marks if mark not in tokenizer.get_vocab()]:
        raise ValueError(
            f"{where} has no {missing[0]}, which model.system {config.system} needs; use its own tokenizer"
        )
    if _has_delimiters(config) and not {IMAGE_START, IMAGE_END} <= tokenizer.get_vocab().keys():
        raise ValueError(
            f"{where} has no {IMAGE_START} and {IMAGE_END}, which llava.conversation "
            f"{config.of_llava.conversation} needs; use its own tokenizer"
        )
    no_text = range(len(tokenizer), vocab_size)
    whole = replace(found, suppressed=tuple(sorted({*found.suppressed, *no_text})))
    if given is not None and given not in (found, whole):  # `found`: saved before those rows were suppressed
        raise ValueError(f"special_tokens is {given} but {where} has {whole}: this is another model's tokenizer")
    return config.with_backbone(replace(backbone, special_tokens=given or whole))
