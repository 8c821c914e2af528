"""Training with cached SAM embeddings: the frozen encoder only runs on images that the cache does not have."""

import torch

from plum.constants import constant
from plum.data.sam_feature_cache import SamFeatureCache, open_cache
from plum.inputs.image_transforms import segmenter_input
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.segmenter import Segmenter
from plum.structures import Batch, ImageEmbeddings, KnownEmbeddings
from plum.train_config import TrainConfig

GIGABYTE, MEGABYTE = 10**9, 10**6


def open_feature_cache(config: TrainConfig, model: GroundedLMM) -> SamFeatureCache | None:
    """Open the cache that the run's configuration names, for the run's initial encoder; None if it names none.

    Raises:
        ValueError: the cache is limited but not set, or SAM's embeddings depend on trained weights.
    """
    folder, limit = config.data.sam_feature_cache, config.data.sam_feature_cache_gb
    if folder is None:
        if limit is not None:
            raise ValueError("data.sam_feature_cache_gb limits data.sam_feature_cache, which is not set")
        return None
    if config.trainable.sam_image_encoder:
        raise ValueError(
            "data.sam_feature_cache keeps a frozen encoder's embeddings, but trainable.sam_image_encoder is true: "
            "do not set the cache"
        )
    if not model.sam.can_keep_embeddings:
        raise ValueError(
            "data.sam_feature_cache keeps the output of SAM's encoder, but this system adds trained features of its "
            "early blocks to it: do not set the cache"
        )
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    given, max_bytes = segmenter_input(config.model.sam), None if limit is None else int(limit * GIGABYTE)
    is_prepared = not model.sam.prepares_with_trained_weights
    return open_cache(folder, model.sam, given, dtype, is_prepared=is_prepared, max_bytes=max_bytes)


@torch.no_grad()
def complete_embeddings(batch: Batch, sam: Segmenter, cache: SamFeatureCache) -> KnownEmbeddings | None:
    """Return the embeddings of the batch's images in which something is segmented; None if there are none.

    Missing embeddings are computed and added to the cache. Images are encoded one by one, so that an embedding does not
    depend on the batch in which it was computed. Embeddings are prepared for the decoder unless that applies trained
    weights.
    """
    if not batch.image_hashes:
        return None
    assert batch.sam_rows is not None, "batches with hashes are the collator's"
    embeddings = list(batch.cached_embeddings)
    missing = batch.sam_rows.tolist() if len(batch.sam_rows) else []  # without a missing one, no wait for the device
    for number, row in enumerate(missing):
        # The image may occur twice in this batch, or have been added to the cache since the loader looked.
        found = cache.get(batch.image_hashes[row])
        if found is None:
            found = sam.encode_images(batch.sam_pixels[number : number + 1])
            if not sam.prepares_with_trained_weights:
                found = sam.prepare(found)
            cache.put(batch.image_hashes[row], found)
        embeddings[row] = found
    known = {row: one for row, one in enumerate(embeddings) if one is not None}
    if not known:
        return None
    device = batch.sam_pixels.device
    together = ImageEmbeddings.concatenate([one.to(device) for one in known.values()])
    return KnownEmbeddings(together, constant(tuple(known), torch.long, device))


def describe_feature_cache(cache: SamFeatureCache, sam: Segmenter, precision: str) -> str:
    """Say how much the cache holds, and how much an image takes in a run of this precision ("bf16" or "fp32")."""
    size = f"{cache.size_in_bytes() / GIGABYTE:.3f} GB"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    is_prepared = not sam.prepares_with_trained_weights
    per_image = f"{sam.bytes_per_image(dtype, is_prepared) / MEGABYTE:.1f} MB per image"
    if not is_prepared:
        smaller = sam.bytes_per_image(dtype) / MEGABYTE
        per_image += (
            f" ({smaller:.1f} MB with trainable.sam_mask_decoder false: the maps are kept as they are before the "
            "decoder's trained convolutions)"
        )
    return (
        f"SAM features in {cache.root}: {cache.count_images()} images of this encoder, {per_image}; {size} with other "
        "encoders'"
    )
