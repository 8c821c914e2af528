"""Store of the images in use; each tower encodes an image once, however many questions follow."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from partonomy.images import hash_image
from plum.data.sam_feature_cache import SamFeatureCache
from plum.inputs.image_transforms import ImageInputs, ImageTransform
from plum.models.grounded_lmm import GroundedLMM
from plum.structures import ImageEmbeddings, ImageTokens


@dataclass
class EncodedImage:
    """A preprocessed image and, once computed, the backbone's tokens and the segmenter's embeddings of this one image.

    `digest` identifies images by their content, because callers reuse arrays.
    """

    digest: str
    inputs: ImageInputs
    tokens: ImageTokens | None = None
    embeddings: ImageEmbeddings | None = None


class ImageStore:
    """The images in use; new ones replace the oldest.

    Args:
        model: provides both towers.
        transform: the model's image transform.
        cache: SAM's embeddings on disk, read and filled; None: SAM always runs.
    """

    def __init__(self, model: GroundedLMM, transform: ImageTransform, cache: SamFeatureCache | None = None) -> None:
        self._model = model
        self.transform = transform
        self.cache = cache
        self._images: OrderedDict[str, EncodedImage] = OrderedDict()
        self._capacity = 1

    def find(self, image: np.ndarray) -> EncodedImage:
        """Return the entry of an image (uint8 RGB (H, W, 3)); a new one replaces the oldest if the store is full."""
        digest = hash_image(image)
        if digest not in self._images:
            if len(self._images) >= self._capacity:
                self._images.popitem(last=False)
            self._images[digest] = self.read(image, digest)
        return self._images[digest]

    def reserve(self, num_images: int) -> None:
        """Keep at least this number of images."""
        self._capacity = max(self._capacity, num_images)

    def find_all(self, images: Sequence[np.ndarray]) -> list[EncodedImage]:
        """Return the entries of images that are in use together; new ones replace those used longest ago."""
        self.reserve(len(images))
        for digest in map(hash_image, images):
            if digest in self._images:
                self._images.move_to_end(digest)
        return [self.find(image) for image in images]

    def read(self, image: np.ndarray, digest: str | None = None) -> EncodedImage:
        """Preprocess an image without running the towers; runs on the CPU and may be called from any thread."""
        digest = digest or hash_image(image)
        embeddings = None if self.cache is None else self.cache.get(digest)
        inputs = self.transform(image, for_sam=embeddings is None)
        return EncodedImage(digest, inputs, embeddings=embeddings)

    def keep(self, images: Sequence[EncodedImage]) -> None:
        """Keep these images and drop all others."""
        self._images = OrderedDict((image.digest, image) for image in images)
        self._capacity = max(1, len(self._images))

    def tokens(self, images: Sequence[EncodedImage]) -> ImageTokens:
        """Return the backbone's tokens of the images; missing ones are computed in one call."""
        new = [image for image in images if image.tokens is None]
        if new:
            pixels = self.transform.stack([image.inputs for image in new]).to(self._device)
            encoded = self._model.backbone.encode_images(pixels)
            for number, image in enumerate(new):
                image.tokens = encoded[number : number + 1]
        return ImageTokens.concatenate([image.tokens for image in images if image.tokens is not None])

    def embeddings(self, images: Sequence[EncodedImage]) -> ImageEmbeddings:
        """Return the segmenter's embeddings of B images, one image at a time, which fills any device."""
        return ImageEmbeddings.concatenate([self._embeddings(image) for image in images])

    def _embeddings(self, image: EncodedImage) -> ImageEmbeddings:
        if image.embeddings is None:
            assert image.inputs.sam_pixels is not None, "images without embeddings have pixels"
            sam = self._model.sam
            image.embeddings = sam.prepare(sam.encode_images(image.inputs.sam_pixels[None].to(self._device)))
            if self.cache is not None:
                self.cache.put(image.digest, image.embeddings)
        image.embeddings = image.embeddings.to(self._device)
        return image.embeddings

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device
