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
    """Return the teacher's states [N, T, D] of each conversation up to its last span, and zeros everywhere else.

    Only span tokens are constrained (paper, section 4). Conversations without any, such as VQA, need no teacher, and
    what follows a span is out of a causal model's sight: the pass is as short as the last span of the batch allows.
    """
    spans, (num_rows, length) = batch.spans, batch.input_ids.shape
    if len(spans) == 0:
        return image_tokens.new_zeros(num_rows, length, image_tokens.shape[-1])
    rows = spans.conversation.unique()
    ends = spans.end.new_zeros(num_rows).scatter_reduce(0, spans.conversation, spans.end, "amax")[rows]  # [R]
    longest = int(ends.max())
    text = (batch.input_ids[rows, :longest], batch.attention_mask[rows, :longest], batch.image_index[rows])
    found = teacher_states(llava, *text, image_tokens)  # [R, longest, D]
    is_beyond = torch.arange(longest, device=ends.device) >= ends[:, None]
    states = found.new_zeros(num_rows, length, found.shape[-1])
    states[rows, :longest] = found.masked_fill(is_beyond[..., None], 0)
    return states


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
