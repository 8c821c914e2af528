"""The micro-batch for which memory is estimated, with the shape letters of plum.structures."""

from dataclasses import dataclass

import torch

from plum.config import HfBackboneConfig
from plum.doctor.assumptions import Assumptions
from plum.doctor.stock_images import StockImage, read_stock_image
from plum.train_config import TrainConfig

PAIRS = "mixed_parts"
"""Kind of the source whose samples are pairs of images."""


@dataclass(frozen=True)
class Workload:
    """Sizes of one micro-batch of a rank.

    Attributes:
        images: B.
        conversations: N.
        tokens: T, image patches included.
        common: length of the token prefix that conversations about one image share.
        supervised: K, over all conversations.
        spans: S, spans of each conversation.
        span_tokens: tokens of the longest span.
        image_pixels: H * W.
        element_bytes: bytes per element of the compute dtype.
        dropout_mask_bytes: bytes per element of a dropout mask: 1 on CUDA (boolean), otherwise `element_bytes`.
        images_per_conversation: images of every conversation.
        can_share: whether conversations about the same images may share their beginning; with modules that follow the
            prompt (CALICO), other questions may not.
        stock_image: an image as a stock model takes it; None: the backbone is LLaVA.
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
    images_per_conversation: int = 1
    can_share: bool = True
    stock_image: StockImage | None = None

    @property
    def rows(self) -> int:
        """Number of token positions in the padded batch, N * T."""
        return self.conversations * self.tokens

    @property
    def is_shared(self) -> bool:
        """Whether images have several conversations, whose common prefixes run once."""
        return self.can_share and self.conversations > self.samples

    @property
    def samples(self) -> int:
        """Number of images, or of sets of images that conversations are about together."""
        return self.images // self.images_per_conversation

    @property
    def pairs(self) -> int:
        """Number of pairs of a conversation and an image that it shows."""
        return self.conversations * self.images_per_conversation

    @property
    def sequence(self) -> int:
        """Number of tokens that the language model runs per sample (plum.models.backbones.shared_beginnings)."""
        if not self.is_shared:
            return self.tokens
        return self.common + self.conversations // self.samples * (self.tokens - self.common)

    @property
    def places(self) -> int:
        """Number of tokens that the language model runs for the batch."""
        return (self.samples if self.is_shared else self.conversations) * self.sequence

    @property
    def masks(self) -> int:
        """Number of spans in the batch, M."""
        return self.conversations * self.spans


def training_dtype(config: TrainConfig) -> torch.dtype:
    """Return the dtype of weights and activations: DeepSpeed casts the whole model."""
    return torch.bfloat16 if config.engine.precision == "bf16" else torch.float32


def build_workload(config: TrainConfig, assumptions: Assumptions) -> Workload:
    """Derive the micro-batch, with the most conversations per image that the configuration allows; they share the
    image.

    Raises:
        ValueError: a stock model's sizes or image processor are refused.
    """
    backbone, calico = config.model.backbone, config.model.calico
    image = None
    if isinstance(backbone, HfBackboneConfig):
        image = read_stock_image(backbone, *assumptions.image_size)
        slot = image.slot
    else:
        slot = backbone.vision.num_image_tokens
    text = assumptions.text_tokens or config.data.max_text_tokens
    has_pairs = any(source.kind == PAIRS for source in config.data.sources)
    shown = assumptions.images_per_conversation or (2 if has_pairs else 1)
    conversations = config.engine.micro_batch_size * config.data.conversations_per_image
    return Workload(
        images=config.engine.micro_batch_size * shown,
        conversations=conversations,
        tokens=shown * slot + text,
        common=shown * slot,
        supervised=conversations * (assumptions.supervised_tokens or text),
        spans=assumptions.spans_per_conversation,
        span_tokens=assumptions.tokens_per_span,
        image_pixels=assumptions.image_size[0] * assumptions.image_size[1],
        element_bytes=training_dtype(config).itemsize,
        images_per_conversation=shown,
        can_share=calico is None or calico.adaptation is None or not calico.adaptation.follows_prompt,
        stock_image=image,
    )
