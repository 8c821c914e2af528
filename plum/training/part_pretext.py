"""Part pretext of the embedded default (not in the paper): vision towers without pre-training learn parts directly.

The paper starts from the released CLIP and SAM. The tiny model starts from scratch, so its stage 0 also classifies
every pixel ("biplane:propeller", background, ...) from SAM's embedding and LLaVA's image tokens; in CALICO, whose few
tokens have no place, from the features that its layers read again. In the first updates,
before the language model knows what to ask for, SAM's decoder segments parts for learned queries, one per class. It
decodes them in one call, whereas the phrases of an answer are decoded one after another. Meanwhile a loss pulls the
phrases' queries towards those of their classes, so that the decoder already knows them when the warm-up ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, mse_loss

from plum.structures import IGNORE_INDEX, Batch, ImageFeatures, ImageTokens

SUBCELLS = 2
"""Classes are predicted on a grid SUBCELLS times finer than each tower's own."""
MIN_QUERY_SHARE = 1 / 400
"""A part that covers a smaller share of the grid is not queried: it has no shape at that resolution."""


@dataclass(frozen=True)
class PartQueries:
    """Queries to SAM's decoder and their target masks.

    image [R]: row of each query's image; queries [R, C]
    targets [R, 4h, 4w]: bool; is_counted [R, 4h, 4w]: bool, false where nothing is labelled (padding)
    """

    image: Tensor
    queries: Tensor
    targets: Tensor
    is_counted: Tensor


class PartPretext(nn.Module):
    """Linear pixel classifiers on both towers' features, and on SAM's embedding as upscaled by its mask decoder.

    Args:
        prompt_dim: C of SAM's embedding; the upscaled one has C / 8 channels.
        hidden_size: width of the image tokens, or of `ImageTokens.details` if the model has them.
        class_pixels: number of pixels of each of the L object-part classes in the training images, background first.
            The classifiers' biases start at the log shares, so that no update is spent on learning them.
    """

    def __init__(self, prompt_dim: int, hidden_size: int, class_pixels: Sequence[int]) -> None:
        super().__init__()
        num_classes = len(class_pixels)
        self.sam_head = nn.Conv2d(prompt_dim, num_classes * SUBCELLS**2, kernel_size=1)
        self.upscaled_head = nn.Conv2d(prompt_dim // 8, num_classes, kernel_size=1)
        self.llava_head = nn.Conv2d(hidden_size, num_classes * SUBCELLS**2, kernel_size=1)
        self.part_queries = nn.Embedding(num_classes, prompt_dim)
        pixels = torch.tensor(class_pixels, dtype=torch.float64) + 1
        log_share = (pixels / pixels.sum()).log().float()
        with torch.no_grad():
            for head in (self.sam_head, self.upscaled_head, self.llava_head):
                assert head.bias is not None
                head.bias.copy_(log_share.repeat_interleave(len(head.bias) // num_classes))

    def forward(self, images: ImageFeatures, upscaled: Tensor, batch: Batch, token_weight: float = 1.0) -> Tensor:
        """Return the sum of three cross-entropies, each in nats per labelled pixel; 0 if nothing is labelled.

        Args:
            images: both towers' features.
            upscaled: [B, C / 8, 4h, 4w], SAM's embedding through its mask decoder's upscaling convolutions.
            batch: holds the class maps.
            token_weight: weight of the image tokens' cross-entropy in the sum.

        Raises:
            ValueError: an image is not square: LLaVA's tokens and SAM's padded grid would not cover the same pixels.
        """
        for frame in batch.frames:
            if frame.original[0] != frame.original[1]:
                raise ValueError(f"part_pretext needs square images, got {frame.original} in {batch.sample_ids}")
        if not bool((batch.part_maps != IGNORE_INDEX).any()):
            return images.embeddings.main.new_zeros(())
        embeddings = images.embeddings.main.flatten(2).transpose(1, 2)  # [B, h * w, C]
        # Every other pixel in each direction: a quarter of the cost of the largest classifier.
        pixels, classes = upscaled[..., ::2, ::2].flatten(2).transpose(1, 2), batch.part_maps[..., ::2, ::2]
        return (
            _pixel_loss(self.upscaled_head, pixels, classes, 1)
            + _pixel_loss(self.sam_head, embeddings, batch.part_maps, SUBCELLS)
            + token_weight * _pixel_loss(self.llava_head, cells_of_tokens(images.tokens), batch.part_maps, SUBCELLS)
        )

    def draw_queries(self, part_maps: Tensor, per_image: int) -> PartQueries:
        """Draw up to `per_image` parts of each image, with torch's generator, and return their queries and targets.

        Args:
            part_maps: [B, 4h, 4w], classes at SAM's mask pixels, IGNORE_INDEX where unlabelled.
            per_image: maximum number of parts per image.
        """
        is_counted = part_maps != IGNORE_INDEX
        labelled = part_maps.clamp(min=0).flatten(1)
        pixels = is_counted.new_zeros(len(part_maps), self.part_queries.num_embeddings, dtype=torch.float32)
        pixels.scatter_add_(1, labelled, is_counted.flatten(1).float())  # [B, L]
        may_be_asked = pixels >= MIN_QUERY_SHARE * labelled.shape[1]
        may_be_asked[:, 0] = False
        luck = torch.rand(pixels.shape, device=pixels.device) * may_be_asked
        chosen = luck.topk(min(per_image, luck.shape[1]))
        image, place = chosen.values.nonzero(as_tuple=True)
        classes = chosen.indices[image, place]
        targets = part_maps[image] == classes[:, None, None]
        return PartQueries(image, self.part_queries(classes), targets, is_counted[image])

    def phrase_loss(self, queries: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared distance of the phrases' queries to their classes' learned ones (detached).

        Args:
            queries: [M, C], the queries of the batch's M spans to SAM's decoder.
            batch: its masks give the classes; phrases that name no single part (whole objects, groups) are left out.
        """
        classes = span_classes(batch, self.part_queries.num_embeddings)
        is_part = classes != IGNORE_INDEX
        if not bool(is_part.any()):
            return queries.new_zeros(())
        return mse_loss(queries[is_part].float(), self.part_queries(classes[is_part]).detach().float())


def cells_of_tokens(tokens: ImageTokens) -> Tensor:
    """Return what LLaVA reads of each cell of an image's grid, [B, cells, width].

    These are the image tokens, or CALICO's X'_global without its class token: all its image tokens see all cells.
    """
    return tokens.values if tokens.details is None else tokens.details[:, 1:]


def span_classes(batch: Batch, num_classes: int) -> Tensor:
    """Return the object-part class that each span's mask shows.

    Args:
        batch: square images, whose masks and maps cover the same pixels.
        num_classes: L, background (class 0) included.

    Returns:
        LongTensor [M]: the class of more than half of the mask's labelled pixels, sampled at the centres of the map's
        pixels; IGNORE_INDEX if no part covers that much.
    """
    maps = batch.part_maps[batch.spans.image].flatten(1)  # [M, n * n]
    masks = [_at_centres(mask, batch.part_maps.shape[-1]).flatten() for mask in batch.masks]
    is_shown = torch.stack(masks) & (maps != IGNORE_INDEX) if masks else maps.new_zeros(maps.shape, dtype=torch.bool)
    pixels = torch.zeros(len(maps), num_classes, device=maps.device)
    pixels.scatter_add_(1, maps.clamp(min=0), is_shown.float())  # [M, L]
    most, classes = pixels.max(1)
    is_part = (2 * most > pixels.sum(1)) & (classes > 0)
    return torch.where(is_part, classes, IGNORE_INDEX)


def _at_centres(pixels: Tensor, size: int) -> Tensor:
    """Sample [..., n, n] at the centres of `size` x `size` cells: [..., size, size]."""
    full = pixels.shape[-1]
    nearest = ((2 * torch.arange(size, device=pixels.device) + 1) * full) // (2 * size)
    return pixels[..., nearest, :][..., nearest]


def _pixel_loss(head: nn.Conv2d, cells: Tensor, part_maps: Tensor, subcells: int) -> Tensor:
    """Return the cross-entropy of a 1 x 1 convolution's logits against the classes at the centres of their pixels.

    The convolution is computed as a linear layer with the classes last: it needs no pixel shuffle, and the softmax runs
    over contiguous memory.

    Args:
        head: channels to L * subcells^2, in the order of `pixel_shuffle`.
        cells: [B, g * g, channels].
        part_maps: [B, n, n]; n need not be a multiple of g * subcells.
        subcells: pixels per cell in each direction.
    """
    weight = head.weight.flatten(1).unflatten(0, (-1, subcells**2)).transpose(0, 1)  # [subcells^2, L, channels]
    assert head.bias is not None
    bias = head.bias.view(-1, subcells**2).T
    logits = linear(cells, weight.flatten(0, 1), bias.flatten())  # [B, g * g, subcells^2 * L]
    grid = round(cells.shape[1] ** 0.5)
    classes = _at_centres(part_maps, grid * subcells).view(-1, grid, subcells, grid, subcells).transpose(2, 3)
    return cross_entropy(logits.float().view(classes.numel(), -1), classes.flatten(), ignore_index=IGNORE_INDEX)
