"""The micro-batch that memory is estimated for, in the shape alphabet of plum.structures."""

from dataclasses import dataclass

import torch

from plum.train_config import TrainConfig


@dataclass(frozen=True)
class Assumptions:
    """What a configuration does not say about its data. The defaults are the heaviest usual micro-batch.

    Attributes:
        text_tokens: of every conversation (the longest pads the others); None: `data.max_text_tokens`.
        supervised_tokens: of them the model's own; None: all.
        spans_per_conversation: phrases of an answer that are segmented.
        tokens_per_span: of the longest phrase.
        image_size: (H, W) of the photographs, in pixels: masks are compared at that size.
    """

    text_tokens: int | None = None
    supervised_tokens: int | None = None
    spans_per_conversation: int = 4
    tokens_per_span: int = 4
    image_size: tuple[int, int] = (480, 640)


@dataclass(frozen=True)
class Workload:
    """Sizes of one micro-batch of a rank.

    Attributes:
        images: B.
        conversations: N.
        tokens: T, image patches included.
        common: of them those that the conversations about one image begin with alike.
        supervised: K, of all conversations together.
        spans: S, of each conversation.
        span_tokens: of the longest span.
        image_pixels: H * W.
        element_bytes: of the dtype that is computed in.
        dropout_mask_bytes: of an element of a dropout's mask: 1 on CUDA, where it is boolean, else as an element.
    """

    images: int
    conversations: int
    tokens: int
    common: int
    supervised: int
    spans: int
    span_tokens: int
    image_pixels: int
    element_bytes: int
    dropout_mask_bytes: int = 1

    @property
    def rows(self) -> int:
        """Token rows of the batch, N * T."""
        return self.conversations * self.tokens

    @property
    def is_shared(self) -> bool:
        """Images have several conversations: their common beginnings run once."""
        return self.conversations > self.images

    @property
    def sequence(self) -> int:
        """Tokens that the language model runs for an image (plum.models.backbones.shared_beginnings)."""
        if not self.is_shared:
            return self.tokens
        return self.common + self.conversations // self.images * (self.tokens - self.common)

    @property
    def places(self) -> int:
        """Tokens that the language model runs."""
        return (self.images if self.is_shared else self.conversations) * self.sequence

    @property
    def masks(self) -> int:
        """Spans of the batch, M."""
        return self.conversations * self.spans


def training_dtype(config: TrainConfig) -> torch.dtype:
    """Dtype of weights and activations: DeepSpeed casts the whole model."""
    return torch.bfloat16 if config.engine.precision == "bf16" else torch.float32


def build_workload(config: TrainConfig, assumptions: Assumptions) -> Workload:
    """Derive the micro-batch: as many conversations per image as the configuration allows, the image in common."""
    vision = config.model.llava.vision
    text = assumptions.text_tokens or config.data.max_text_tokens
    images = config.engine.micro_batch_size
    conversations = images * config.data.conversations_per_image
    return Workload(
        images=images,
        conversations=conversations,
        tokens=vision.num_image_tokens + text,
        common=vision.num_image_tokens,
        supervised=conversations * (assumptions.supervised_tokens or text),
        spans=assumptions.spans_per_conversation,
        span_tokens=assumptions.tokens_per_span,
        image_pixels=assumptions.image_size[0] * assumptions.image_size[1],
        element_bytes=training_dtype(config).itemsize,
    )
