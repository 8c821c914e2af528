"""Weights on a shared disk are read by others."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from plum.checkpoints.weights import ShardWriter, write_tensors


@pytest.fixture
def umask() -> Iterator[int]:
    """Group may read, others not."""
    earlier = os.umask(0o027)
    yield 0o027
    os.umask(earlier)


def test_weights_have_the_mode_of_other_files(tmp_path: Path, umask: int) -> None:
    write_tensors({"weight": torch.ones(2)}, tmp_path, "model")
    writer = ShardWriter(tmp_path, "streamed", max_bytes=8)
    for name in ("a", "b"):
        writer.add(name, torch.ones(2))
    writer.finish()
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~umask} == {0o640}
