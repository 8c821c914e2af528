"""The language model's share of a training step, with conversations about one image together and each from its start.

Apart, every conversation of a batch is a row of its own, padded to the longest, in student and teacher, as LISA and its
forks run them. Kinder than they are: the teacher shares the weights and the image tokens, and stops behind the last
span.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from plum.models.backbones.backbone import Backbone
from plum.models.backbones.shared_beginnings import lay_out
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.teacher import span_teacher_states
from plum.structures import Batch

Way = Literal["together", "apart"]


class LanguageStep:
    """One batch before the language model: image tokens are made, adapters have an effect, gradients are drawn.

    Args:
        model: its adapters change.
        batch: on the model's device.
    """

    def __init__(self, model: GroundedLMM, batch: Batch) -> None:
        self.model = model
        self.batch = batch
        with torch.no_grad():
            for name, parameter in model.backbone.named_parameters():
                if "lora_B" in name:  # zero at the start
                    parameter.normal_(std=0.02)
            self.image_tokens = model.backbone.encode_images(batch.clip_pixels)
        width = self.image_tokens.values.shape[-1]
        self.gradient = torch.randn(*batch.input_ids.shape, width, device=batch.input_ids.device)
        self.gradient *= batch.attention_mask[..., None]

    def student(self, way: Way) -> Tensor:
        """States [N, T, D] of all tokens, with a graph; of padding zeros."""
        batch = self.batch
        with _arranged(self.model.backbone, way):
            states = self.model.backbone.shared_hidden_states(
                batch.input_ids, batch.attention_mask, batch.shown, self.image_tokens
            )
        return states * batch.attention_mask[..., None]

    def gradients(self, states: Tensor) -> list[Tensor]:
        """Gradients of the language model's trained tensors."""
        trained = [parameter for parameter in self.model.backbone.parameters() if parameter.requires_grad]
        found = torch.autograd.grad((states * self.gradient).sum(), trained, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]

    def teacher(self, way: Way) -> Tensor:
        """States [N, T, D] with the adapters off, of what comes before the end of a span."""
        with _arranged(self.model.backbone, way):
            return span_teacher_states(self.model.backbone, self.batch, self.image_tokens)

    def count_tokens(self) -> dict[str, int]:
        """Tokens of the student: as the conversations hold them, and as they are run."""
        batch, tokens = self.batch, self.model.backbone.special_tokens
        layout = lay_out(batch.input_ids, batch.attention_mask, batch.shown, tokens.image, tokens.pad)
        return {
            "tokens": int(batch.attention_mask.sum()),
            "run_together": layout.num_places,
            "run_apart": batch.input_ids.numel(),
        }


@contextmanager
def _arranged(backbone: Backbone, way: Way) -> Iterator[None]:
    """Let whatever asks for shared states get those of conversations apart, or not."""
    if way == "apart":
        backbone.shared_hidden_states = lambda *given: backbone.hidden_states(*given[:4])  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(backbone).pop("shared_hidden_states", None)
