"""Part pretext of the embedded default, not in the paper: towers that nobody pre-trained learn parts directly.

The paper starts from CLIP and SAM as their authors trained them. The tiny model starts from nothing, so its stage 0
also classifies every pixel ("biplane:propeller", background, ...) from SAM's embedding and LLaVA's image tokens.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pixel_shuffle

from plum.structures import IGNORE_INDEX, Batch, ImageFeatures

SUBCELLS = 2
"""Classes are predicted on a grid SUBCELLS times finer than each tower's own: SAM's low-resolution masks' grid."""


class PartPretext(nn.Module):
    """Linear pixel classifiers on both towers' features.

    Args:
        prompt_dim: C of SAM's embedding.
        hidden_size: D of the image tokens.
        num_classes: object-part classes, background included.
    """

    def __init__(self, prompt_dim: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.sam_head = nn.Conv2d(prompt_dim, num_classes * SUBCELLS**2, kernel_size=1)
        self.llava_head = nn.Conv2d(hidden_size, num_classes * SUBCELLS**2, kernel_size=1)

    def forward(self, images: ImageFeatures, batch: Batch) -> Tensor:
        """Return the sum of both towers' cross-entropies, nats per labelled pixel; 0 when nothing is labelled.

        Raises:
            ValueError: an image is not square: LLaVA's tokens and SAM's padded grid would not cover the same pixels.
        """
        for frame in batch.frames:
            if frame.original[0] != frame.original[1]:
                raise ValueError(f"part_pretext needs square images, got {frame.original} in {batch.sample_ids}")
        if not bool((batch.part_maps != IGNORE_INDEX).any()):
            return images.embeddings.new_zeros(())
        side = round(images.tokens.shape[1] ** 0.5)
        tokens = images.tokens.transpose(1, 2).unflatten(2, (side, side))  # [B, D, side, side]
        return _pixel_loss(self.sam_head(images.embeddings), batch.part_maps) + _pixel_loss(
            self.llava_head(tokens), batch.part_maps
        )


def _pixel_loss(logits: Tensor, part_maps: Tensor) -> Tensor:
    """Cross-entropy of cell logits [B, L * SUBCELLS^2, g, g] against classes [B, 4h, 4w], read at the logits' grid."""
    fine = pixel_shuffle(logits, SUBCELLS).float()  # [B, L, SUBCELLS g, SUBCELLS g]
    size, full = fine.shape[-1], part_maps.shape[-1]
    nearest = ((2 * part_maps.new_ones(size).cumsum(0) - 1) * full) // (2 * size)  # centres of the coarser pixels
    return cross_entropy(fine, part_maps[:, nearest][:, :, nearest], ignore_index=IGNORE_INDEX)
