"""Part pretext of the embedded default, not in the paper: towers that nobody pre-trained learn parts directly.

The paper starts from CLIP and SAM as their authors trained them. The tiny model starts from nothing, so its stage 0
also classifies every pixel ("biplane:propeller", background, ...) from SAM's embedding and LLaVA's image tokens.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pixel_shuffle

from plum.structures import IGNORE_INDEX, Batch, ImageFeatures

SUBCELLS = 2
"""Classes are predicted on a grid SUBCELLS times finer than each tower's own."""


class PartPretext(nn.Module):
    """Linear pixel classifiers on both towers' features, and on SAM's embedding as its mask decoder upscales it.

    Args:
        prompt_dim: C of SAM's embedding; the upscaled one has C / 8 channels.
        hidden_size: D of the image tokens.
        num_classes: object-part classes, background included.
    """

    def __init__(self, prompt_dim: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.sam_head = nn.Conv2d(prompt_dim, num_classes * SUBCELLS**2, kernel_size=1)
        self.upscaled_head = nn.Conv2d(prompt_dim // 8, num_classes, kernel_size=1)
        self.llava_head = nn.Conv2d(hidden_size, num_classes * SUBCELLS**2, kernel_size=1)

    def forward(self, images: ImageFeatures, upscaled: Tensor, batch: Batch) -> Tensor:
        """Return the sum of three cross-entropies, nats per labelled pixel each; 0 when nothing is labelled.

        Args:
            images: both towers' features.
            upscaled: [B, C / 8, 4h, 4w], SAM's embedding through its mask decoder's upscaling convolutions.
            batch: gives the classes.

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
        cells = (self.sam_head(images.embeddings), self.llava_head(tokens))
        # Every other pixel each way: a quarter of the cost of the largest classifier.
        logits, classes = self.upscaled_head(upscaled[..., ::2, ::2]), batch.part_maps[..., ::2, ::2]
        upscaled_loss = cross_entropy(logits.float(), classes, ignore_index=IGNORE_INDEX)
        return upscaled_loss + sum(_pixel_loss(cell, batch.part_maps) for cell in cells)


def _pixel_loss(logits: Tensor, part_maps: Tensor) -> Tensor:
    """Cross-entropy of cell logits [B, L * SUBCELLS^2, g, g] against classes [B, 4h, 4w], read at the logits' grid."""
    fine = pixel_shuffle(logits, SUBCELLS).float()  # [B, L, SUBCELLS g, SUBCELLS g]
    size, full = fine.shape[-1], part_maps.shape[-1]
    nearest = ((2 * part_maps.new_ones(size).cumsum(0) - 1) * full) // (2 * size)  # centres of the coarser pixels
    return cross_entropy(fine, part_maps[:, nearest][:, :, nearest], ignore_index=IGNORE_INDEX)
