"""Teacher of the KL term: the same network with its adapters off, so no second copy of the weights (paper, section 4).

The authors keep a float32 deep copy of the whole language model. With frozen embeddings, or embeddings trained through
peft's `modules_to_save`, switching the adapters off gives the same states.
"""

import torch
from torch import Tensor

from plum.models.backbones.backbone import Backbone
from plum.models.backbones.lora import adapters_off
from plum.models.backbones.shared_beginnings import SequenceLayout
from plum.models.batch_plan import span_plan, teacher_layout
from plum.structures import Batch, ConversationImages, ImageTokens


@torch.no_grad()
def span_teacher_states(backbone: Backbone, batch: Batch, image_tokens: ImageTokens) -> Tensor:
    """Return the teacher's states [N, T, D] of each conversation up to its last span, and zeros everywhere else.

    Only span tokens are constrained (paper, section 4). Conversations without spans, such as VQA, need no teacher. A
    causal model's states do not depend on later tokens, so each conversation is truncated after its last span.
    """
    num_rows, length = batch.input_ids.shape
    if len(batch.spans) == 0:
        return image_tokens.values.new_zeros(num_rows, length, image_tokens.values.shape[-1])
    plan = span_plan(batch.spans)
    rows, is_needed = plan.constrained, plan.is_constrained
    longest = is_needed.shape[1]
    text = (batch.input_ids[rows, :longest], is_needed.long(), batch.shown[rows])
    found = teacher_states(backbone, *text, image_tokens, layout=teacher_layout(batch))  # [R, longest, D]
    states = found.new_zeros(num_rows, length, found.shape[-1])
    states[rows, :longest] = found.masked_fill(~is_needed[..., None], 0)
    return states


@torch.no_grad()
def teacher_states(
    backbone: Backbone,
    input_ids: Tensor,
    attention_mask: Tensor,
    shown: ConversationImages,
    image_tokens: ImageTokens,
    *,
    layout: SequenceLayout | None = None,
) -> Tensor:
    """Return the states [N, T, D] of the network without its adapters; see `Backbone.shared_hidden_states`.

    Raises:
        ValueError: there are no adapters, so the network would be its own teacher.
    """
    if backbone.network is backbone.stock:
        raise ValueError("the model has no adapters, so it has no teacher: set losses.kl to 0, or model.lora")
    with adapters_off(backbone.network):
        return backbone.shared_hidden_states(input_ids, attention_mask, shown, image_tokens, layout)
