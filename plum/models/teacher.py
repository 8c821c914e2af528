"""The KL term's teacher: the same network with its adapters off, so no second copy of the weights (paper, section 4).

The authors keep a float32 deep copy of the whole language model. With frozen embeddings, or embeddings trained through
peft's `modules_to_save`, switching the adapters off gives the same states.
"""

import torch
from torch import Tensor

from plum.models.llava import LlavaBackbone
from plum.models.lora import adapters_off
from plum.structures import Batch


@torch.no_grad()
def span_teacher_states(llava: LlavaBackbone, batch: Batch, image_tokens: Tensor) -> Tensor:
    """Return the teacher's states [N, T, D] of the conversations that have spans, and zeros for the others.

    Only span tokens are constrained (paper, section 4), so conversations without any, such as VQA, need no teacher.
    """
    states = image_tokens.new_zeros(*batch.input_ids.shape, image_tokens.shape[-1])
    if len(batch.spans) == 0:
        return states
    rows = batch.spans.conversation.unique()
    text = (batch.input_ids[rows], batch.attention_mask[rows], batch.image_index[rows])
    found = teacher_states(llava, *text, image_tokens)
    return states.to(found.dtype).index_copy(0, rows, found)


@torch.no_grad()
def teacher_states(
    llava: LlavaBackbone, input_ids: Tensor, attention_mask: Tensor, image_index: Tensor, image_tokens: Tensor
) -> Tensor:
    """Return the states [N, T, D] of whatever lies under the adapters; arguments as `LlavaBackbone.hidden_states`.

    Raises:
        ValueError: there are no adapters, so the network would be its own teacher.
    """
    if llava.network is llava.stock:
        raise ValueError("the model has no adapters, so it has no teacher: set losses.kl to 0, or model.lora")
    with adapters_off(llava.network):
        return llava.hidden_states(input_ids, attention_mask, image_index, image_tokens)
