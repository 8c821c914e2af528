"""What turns queries into masks: the interface of SAM, SAM 2 and its relatives, which the rest of PLUM uses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from plum.structures import ImageEmbeddings


class Segmenter(nn.Module, ABC):
    """Image encoder, prompt encoder and mask decoder.

    A further segmenter implements these methods, gets a configuration in `plum.config.SegmenterConfig` with the fields
    that other modules read, a row in `plum.models.segmenters.build`, and its parameters' prefixes in
    `plum.models.parameter_counts`.
    """

    can_keep_embeddings = True
    """Whether `encode_images` depends on the image encoder alone, so that a frozen encoder's results may be kept."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Height and width (h, w) of the image embedding; masks are decoded at (4h, 4w)."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square input in pixels."""

    @property
    @abstractmethod
    def prepares_with_trained_weights(self) -> bool:
        """Whether `prepare` applies trained weights, so that only unprepared embeddings may be kept."""

    @abstractmethod
    def map_shapes(self, is_prepared: bool = True) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of one image's `ImageEmbeddings.maps`, before or after `prepare`."""

    @abstractmethod
    def weights_of_embeddings(self, is_prepared: bool) -> Mapping[str, Tensor]:
        """Return the weights that embeddings depend on, by name, before or after `prepare`."""

    @abstractmethod
    def encode_images(self, sam_pixels: Tensor) -> ImageEmbeddings:
        """Encode normalised images [B, 3, P, P].

        A frozen encoder builds no graph and runs one image at a time. At full size, one image fills a GPU and bounds
        the memory. Embeddings then do not depend on other images of the batch, not even by rounding, so they may be
        kept.
        """

    def prepare(self, embeddings: ImageEmbeddings) -> ImageEmbeddings:
        """Apply what the mask decoder needs once per image; embeddings that are prepared already are returned."""
        return embeddings

    @abstractmethod
    def dense_position(self) -> Tensor:
        """Return the dense positional encoding [1, C, h, w]."""

    @abstractmethod
    def decode_masks(
        self, embeddings: ImageEmbeddings, queries: Tensor, dense: Tensor | None, position: Tensor
    ) -> Tensor:
        """Decode one mask per query.

        Args:
            embeddings: prepared, of each query's image (R rows).
            queries: [R, C], one sparse prompt token per row.
            dense: [R, C, h, w] mask prompts; None: no mask, encoded by the prompt encoder's `no_mask_embed`.
            position: `dense_position()`.

        Returns:
            Mask logits [R, 4h, 4w], float32, in the frame of the square input.
        """

    @abstractmethod
    def mask_layers(self) -> nn.Sequential:
        """Return the prompt encoder's mask encoder (conv, norm, GELU, conv, norm, GELU, 1 x 1 conv)."""

    def no_embeddings(self, num_images: int, like: Tensor) -> ImageEmbeddings:
        """Return embeddings of images in which nothing is segmented: zeros, in the dtype and on the device of `like`.

        All images share one map's memory, because nothing reads them.
        """
        zeros = [like.new_zeros(1, *shape) for shape in self.map_shapes()]
        return ImageEmbeddings.of_maps([one.expand(num_images, -1, -1, -1) for one in zeros])

    def bytes_per_image(self, dtype: torch.dtype, is_prepared: bool = True) -> int:
        """Return the size of one image's embeddings in bytes."""
        return dtype.itemsize * sum(prod(shape) for shape in self.map_shapes(is_prepared))
