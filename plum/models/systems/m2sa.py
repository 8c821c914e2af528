"""M2SA: LISA with many [SEG] tokens and early local feature fusion (MMR/M2SA paper, section 4).

The output of SAM's first block with global attention, which still represents edges, passes through two convolutions and
is added to SAM's embedding, once per image and before masks are decoded. In ViT-H this is block 8; here it is the first
global block of an encoder of any size. (The released code hard-codes 1280 channels.)

Source: jdg900/MMR (`model/segment_anything/modeling/{image_encoder,mask_decoder}.py`, `compress_vit`).
"""

import torch
from torch import Tensor, nn

from plum.config import ModelConfig, SamConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.sam import SegmentAnything
from plum.models.segmenters.sam_modules import LayerNorm2d
from plum.models.systems.components import Backbones
from plum.models.systems.lisa import build_around
from plum.structures import ImageEmbeddings


class EarlyFusion(nn.Module):
    """Convolution 3 x 3 (E -> C), LayerNorm2d, GELU, convolution 3 x 3 (C -> C); torch's own initialisation."""

    def __init__(self, encoder_dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(encoder_dim, prompt_dim, kernel_size=3, padding=1),
            LayerNorm2d(prompt_dim),
            nn.GELU(),
            nn.Conv2d(prompt_dim, prompt_dim, kernel_size=3, padding=1),
        )

    def forward(self, early: Tensor) -> Tensor:
        """Refine a block's output [B, h, w, E] to [B, C, h, w]."""
        return self.layers(early.permute(0, 3, 1, 2))


class EarlyFusionSam(SegmentAnything):
    """SAM with features of an early encoder block added to its embedding.

    Args:
        sam: provides the modules, which keep the names of SAM's published checkpoints.
        early_fusion: refines the block's output.
        block: index of the block, from 0.
    """

    can_keep_embeddings = False

    def __init__(self, sam: SegmentAnything, early_fusion: EarlyFusion, block: int) -> None:
        super().__init__(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, sam.position_dtype)
        self.early_fusion = early_fusion
        self.block = block

    def encode_images(self, sam_pixels: Tensor) -> ImageEmbeddings:
        """Encode normalised, padded images [B, 3, P, P], early features added to their embedding."""
        early: list[Tensor] = []
        listener = self.image_encoder.blocks[self.block].register_forward_hook(
            lambda _block, _inputs, output: early.append(output)
        )
        try:
            embeddings = super().encode_images(sam_pixels)
        finally:
            listener.remove()
        # A frozen encoder runs a few images at a time.
        return ImageEmbeddings(embeddings.main + self.early_fusion(torch.cat(early)))


def build_m2sa(config: ModelConfig, backbones: Backbones) -> GroundedLMM:
    """Build M2SA with random weights.

    Raises:
        ValueError: the configuration is for another system, or has SAM 2, or SAM's encoder has no block with global
            attention.
    """
    sizes = config.sam
    if not isinstance(sizes, SamConfig):
        raise ValueError(
            f"model.system m2sa adds features of SAM's first global block, which {sizes.model_type} does not have: "
            "give model.sam the sizes of SAM (no model_type), or choose another model.system"
        )
    if not sizes.encoder_global_blocks:
        raise ValueError("model.system m2sa reads SAM's first global block; model.sam.encoder_global_blocks is empty")
    fusion = EarlyFusion(sizes.encoder_dim, sizes.prompt_dim)
    sam = EarlyFusionSam(backbones.build_sam(sizes), fusion, min(sizes.encoder_global_blocks))
    return build_around(config, backbones, sam)
