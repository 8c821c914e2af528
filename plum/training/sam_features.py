"""Training with cached SAM embeddings: the frozen encoder only runs on images that the cache does not have."""

import torch
from torch import Tensor

from plum.data.sam_feature_cache import SamFeatureCache, SamPreprocessing, hash_encoder
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.sam import SegmentAnything
from plum.structures import Batch
from plum.train_config import TrainConfig

GIGABYTE = 10**9


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
    preprocessing = SamPreprocessing(config.model.sam.image_size, str(dtype).removeprefix("torch."))
    max_bytes = None if limit is None else int(limit * GIGABYTE)
    return SamFeatureCache(folder, hash_encoder(model.sam.image_encoder, dtype), preprocessing, max_bytes)


@torch.no_grad()
def complete_embeddings(batch: Batch, sam: SegmentAnything, cache: SamFeatureCache) -> Tensor | None:
    """Return the batch's embeddings [B, C, h, w], or None if it segments nothing.

    Missing embeddings are computed and added to the cache. Images in which nothing is segmented get zeros. Images are
    encoded one by one, so that an embedding does not depend on the batch in which it was computed.
    """
    if not batch.image_hashes:
        return None
    assert batch.sam_rows is not None, "batches with hashes are the collator's"
    embeddings = list(batch.cached_embeddings)
    for number, row in enumerate(batch.sam_rows.tolist()):
        # The image may occur twice in this batch, or have been added to the cache since the loader looked.
        found = cache.get(batch.image_hashes[row])
        if found is None:
            found = sam.encode_images(batch.sam_pixels[number : number + 1])[0]
            cache.put(batch.image_hashes[row], found)
        embeddings[row] = found
    known = [embedding for embedding in embeddings if embedding is not None]
    if not known:
        return None
    nothing = torch.zeros_like(known[0])
    device = batch.sam_pixels.device
    return torch.stack([(nothing if embedding is None else embedding).to(device) for embedding in embeddings])


def describe_feature_cache(cache: SamFeatureCache) -> str:
    """Say how much the cache holds."""
    size = f"{cache.size_in_bytes() / GIGABYTE:.3f} GB"
    return f"SAM features in {cache.root}: {cache.count_images()} images of this encoder, {size} with other encoders'"
