"""Images that are being asked about, each encoded once by each tower however many questions follow."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plum.data.sam_feature_cache import SamFeatureCache, hash_image
from plum.inputs.image_transforms import ImageInputs, ImageTransform
from plum.models.grounded_lmm import GroundedLMM


@dataclass
class EncodedImage:
    """An image as the towers read it and, once needed, what they make of it: tokens [1, n, D], embedding [1, C, h, w].

    `digest` tells images apart by their content, since callers reuse arrays.
    """

    digest: str
    inputs: ImageInputs
    tokens: Tensor | None = None
    embedding: Tensor | None = None


class ImageStore:
    """The images used last.

    Args:
        model: both towers.
        transform: the model's.
        cache: SAM's embeddings on disk, read and filled; None: SAM is asked.
    """

    def __init__(self, model: GroundedLMM, transform: ImageTransform, cache: SamFeatureCache | None = None) -> None:
        self._model = model
        self.transform = transform
        self.cache = cache
        self._images: OrderedDict[str, EncodedImage] = OrderedDict()
        self._capacity = 1

    def find(self, image: np.ndarray) -> EncodedImage:
        """Return the entry of an image (uint8 RGB (H, W, 3)); it takes the oldest one's place if it is new."""
        digest = hash_image(image)
        if digest not in self._images:
            if len(self._images) >= self._capacity:
                self._images.popitem(last=False)
            self._images[digest] = self.read(image, digest)
        return self._images[digest]

    def read(self, image: np.ndarray, digest: str | None = None) -> EncodedImage:
        """Prepare an image for the towers without asking them; needs no device, any thread may call it."""
        digest = digest or hash_image(image)
        embedding = None if self.cache is None else self.cache.get(digest)
        inputs = self.transform(image, for_sam=embedding is None)
        return EncodedImage(digest, inputs, embedding=None if embedding is None else embedding[None])

    def keep(self, images: Sequence[EncodedImage]) -> None:
        """Hold these images and let go of all others."""
        self._images = OrderedDict((image.digest, image) for image in images)
        self._capacity = max(1, len(self._images))

    def tokens(self, images: Sequence[EncodedImage]) -> Tensor:
        """CLIP's tokens [B, image tokens, D]; those not known yet in one call."""
        new = [image for image in images if image.tokens is None]
        if new:
            pixels = torch.stack([image.inputs.clip_pixels for image in new]).to(self._device)
            for image, tokens in zip(new, self._model.llava.encode_images(pixels).split(1), strict=True):
                image.tokens = tokens
        return torch.cat([image.tokens for image in images if image.tokens is not None])

    def embeddings(self, images: Sequence[EncodedImage]) -> Tensor:
        """SAM's embeddings [B, C, h, w]; one image at a time fills any device."""
        return torch.cat([self._embedding(image) for image in images])

    def _embedding(self, image: EncodedImage) -> Tensor:
        if image.embedding is None:
            assert image.inputs.sam_pixels is not None, "images without an embedding have pixels"
            image.embedding = self._model.sam.encode_images(image.inputs.sam_pixels[None].to(self._device))
            if self.cache is not None:
                self.cache.put(image.digest, image.embedding[0])
        image.embedding = image.embedding.to(self._device)
        return image.embedding

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device
