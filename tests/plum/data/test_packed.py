"""Batches that come from loader processes in one buffer."""

import pickle
from dataclasses import fields, replace

import torch
from torch import Tensor

from plum.data.packed_batch import pack_batch, unpack_batch
from plum.models.tiny import tiny_batch, tiny_model_config
from plum.structures import TEXT_ONLY, Batch, ConversationImages, SpanBounds


def make_batch() -> Batch:
    """A batch with every kind of tensor: four dtypes, an odd number of bools, empty, missing, not contiguous."""
    batch = tiny_batch(tiny_model_config(40), (2, TEXT_ONLY, 1), torch.Generator().manual_seed(0))
    return replace(
        batch,
        tags=batch.tags.T.contiguous().T,
        ignore_masks=(None, torch.ones(3, 5, dtype=torch.bool)),
        cached_embeddings=(torch.randn(2, 3, 3).bfloat16(), None),
        image_hashes=("a", "b"),
        masks=(*batch.masks, torch.zeros(0, 4, dtype=torch.bool), torch.ones(7, 4, dtype=torch.bool)),
    )


def tensors_of(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, SpanBounds | ConversationImages):
        return [tensor for field in fields(value) for tensor in tensors_of(getattr(value, field.name))]
    return [tensor for item in value for tensor in tensors_of(item)] if isinstance(value, tuple) else []


def test_a_batch_returns_as_it_was() -> None:
    batch = make_batch()
    found = unpack_batch(pickle.loads(pickle.dumps(pack_batch(batch))))
    for field in fields(Batch):
        expected, value = getattr(batch, field.name), getattr(found, field.name)
        ours, theirs = tensors_of(value), tensors_of(expected)
        assert [(one.dtype, one.shape) for one in ours] == [(one.dtype, one.shape) for one in theirs], field.name
        assert all(map(torch.equal, ours, theirs)), field.name
        if not theirs:
            assert value == expected, field.name
    assert [mask is None for mask in found.ignore_masks] == [True, False]
    assert [embedding is None for embedding in found.cached_embeddings] == [False, True]


def test_all_tensors_share_the_buffer() -> None:
    packed = pack_batch(make_batch())
    found = unpack_batch(packed)
    tensors = [tensor for field in fields(Batch) for tensor in tensors_of(getattr(found, field.name))]
    assert len(tensors) > 10
    storage = packed.buffer.untyped_storage().data_ptr()
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors} == {storage}
    assert sum(tensor.nbytes for tensor in tensors) == packed.buffer.nbytes
