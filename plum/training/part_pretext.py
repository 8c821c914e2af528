"""Part pretext of the embedded default, not in the paper: towers that nobody pre-trained learn parts directly.

The paper starts from CLIP and SAM as their authors trained them. The tiny model starts from nothing, so its stage 0
also classifies every pixel ("biplane:propeller", background, ...) from SAM's embedding and LLaVA's image tokens.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

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
        embeddings = images.embeddings.flatten(2).transpose(1, 2)  # [B, h * w, C]
        # Every other pixel each way: a quarter of the cost of the largest classifier.
        pixels, classes = upscaled[..., ::2, ::2].flatten(2).transpose(1, 2), batch.part_maps[..., ::2, ::2]
        return (
            _pixel_loss(self.upscaled_head, pixels, classes, 1)
            + _pixel_loss(self.sam_head, embeddings, batch.part_maps, SUBCELLS)
            + _pixel_loss(self.llava_head, images.tokens, batch.part_maps, SUBCELLS)
        )


def _pixel_loss(head: nn.Conv2d, cells: Tensor, part_maps: Tensor, subcells: int) -> Tensor:
    """Cross-entropy of a 1 x 1 convolution's logits against the classes at the centres of their pixels.

    Computed as a linear layer with the classes last: nothing is shuffled, the softmax runs over neighbours in memory.

    Args:
        head: channels to L * subcells^2, in the order of `pixel_shuffle`.
        cells: [B, g * g, channels].
        part_maps: [B, n, n], n a multiple of g * subcells or not.
        subcells: pixels of a cell each way.
    """
    weight = head.weight.flatten(1).unflatten(0, (-1, subcells**2)).transpose(0, 1)  # [subcells^2, L, channels]
    assert head.bias is not None
    bias = head.bias.view(-1, subcells**2).T
    logits = linear(cells, weight.flatten(0, 1), bias.flatten())  # [B, g * g, subcells^2 * L]
    grid = round(cells.shape[1] ** 0.5)
    size, full = grid * subcells, part_maps.shape[-1]
    nearest = ((2 * part_maps.new_ones(size).cumsum(0) - 1) * full) // (2 * size)  # centres of the coarser pixels
    classes = part_maps[:, nearest][:, :, nearest].view(-1, grid, subcells, grid, subcells).transpose(2, 3)
    return cross_entropy(logits.float().view(classes.numel(), -1), classes.flatten(), ignore_index=IGNORE_INDEX)
