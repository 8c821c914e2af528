"""Fold adapters into the base: the backbone is a plain LLaVA again, everything else stays, mask feedback included."""

from dataclasses import dataclass, replace

import torch
from peft import PeftModel
from torch import Tensor

from plum.models.grounded_lmm import GroundedLMM
from plum.models.lora import merge_adapters
from plum.structures import TEXT_ONLY

PROBE_LENGTH = 16


@dataclass(frozen=True)
class MergeResult:
    """max_logit_difference: largest absolute change of a next-token logit on a probe text (natural-log units)."""

    max_logit_difference: float


def merge_lora(model: GroundedLMM) -> MergeResult:
    """Merge a model's adapters, in place: summed in float32, then cast back; `model.config.lora` becomes None.

    Raises:
        ValueError: the model has no adapters.
    """
    network = model.llava.network
    if not isinstance(network, PeftModel):
        raise ValueError("the model has no adapters to merge (model.lora is null)")
    was_training = model.training
    model.eval()
    before = _probe_logits(model)
    model.llava.network = merge_adapters(network)
    model.config = replace(model.config, lora=None)
    difference = float((before - _probe_logits(model)).abs().max())
    model.train(was_training)
    return MergeResult(max_logit_difference=difference)


@torch.no_grad()
def _probe_logits(model: GroundedLMM) -> Tensor:
    """Return logits [PROBE_LENGTH, V], float32, on a fixed text of ordinary tokens spread over the vocabulary."""
    tokens = model.llava.special_tokens
    vocab_size = model.config.llava.language.vocab_size
    stride = max(1, vocab_size // (4 * PROBE_LENGTH))
    ordinary = [token for token in range(0, vocab_size, stride) if token not in (tokens.image, tokens.pad)]
    device = next(model.parameters()).device
    input_ids = torch.tensor([(ordinary * PROBE_LENGTH)[:PROBE_LENGTH]], device=device)
    text_only = torch.tensor([TEXT_ONLY], device=device)
    no_images = torch.zeros(0, model.llava.num_image_tokens, model.config.llava.language.hidden_size, device=device)
    states = model.hidden_states(input_ids, torch.ones_like(input_ids), text_only, no_images)
    # Suppressed tokens are -inf before and after.
    return model.token_logits(states[0]).float().nan_to_num(neginf=0.0)
