import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plum.checkpoints.model_weights import read_saved
from plum.checkpoints.weights import ShardWriter, copy_tensors, list_tensors, write_tensors


def _write(folder: Path) -> Path:
    write_tensors({"a": torch.ones(4, 4), "b": torch.zeros(3)}, folder, "model")
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content[:8] + b"x" * (len(content) - 8),
        lambda content: content.replace(b"[4,4]", b"[9,9]"),
        lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=("cut", "empty", "endless_header", "no_json", "other_shape", "git_lfs_pointer"),
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = _write(tmp_path)
    saved = list_tensors(tmp_path, "model")["a"]
    path.write_bytes(damage(path.read_bytes()))
    for read in (lambda: list_tensors(tmp_path, "model"), lambda: read_saved(saved, "a")):
        with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or no safetensors file"):
            read()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 5)])
def test_tensors_of_any_kind_come_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape, dtype=dtype)
    write_tensors({"a": tensor}, tmp_path, "model")
    read = read_saved(list_tensors(tmp_path, "model")["a"], "a")
    assert read.dtype == dtype
    assert torch.equal(read, tensor)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path)
    saved = list_tensors(tmp_path, "model")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last tensor is b: its value stays finite
    path.write_bytes(content)
    assert torch.equal(read_saved(saved["a"], "a"), torch.ones(4, 4))
    targets = [(torch.empty(3), "b")]
    for read in (lambda: read_saved(saved["b"], "b"), lambda: copy_tensors(targets, saved)):
        with pytest.raises(ValueError, match=r"model\.safetensors: the tensor b was changed since it was written"):
            read()


def test_damaged_checksums_are_named(tmp_path: Path) -> None:
    _write(tmp_path)
    saved = list_tensors(tmp_path, "model")["a"]
    (tmp_path / "model.crc32").write_text("{")
    with pytest.raises(ValueError, match=r"model\.crc32: damaged .*delete it to read the weights unchecked"):
        read_saved(saved, "a")


def test_tensors_of_all_shards_are_compared(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "model", max_bytes=8)
    for name in ("a", "b"):
        writer.add(name, torch.ones(2))
    writer.finish()
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    for name, saved in list_tensors(tmp_path, "model").items():
        content = bytearray(saved.file.read_bytes())
        content[-4] ^= 1
        saved.file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{saved.file.name}: the tensor {name} was changed"):
            read_saved(saved, name)


def test_a_file_without_checksums_is_taken(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(read_saved(list_tensors(tmp_path, "model")["a"], "a"), torch.ones(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "index.json: not valid JSON .*; copy or write the folder again"),
        ("{}", "index.json: 'weight_map' is missing; copy or write the folder again"),
        ("[1]", "index.json: the content must be an object"),
        (json.dumps({"weight_map": [["a", "b"]]}), "index.json: 'weight_map' must be an object"),
        (
            json.dumps({"weight_map": {"a": "../../etc/passwd"}}),
            "the shard '../../etc/passwd' is no file name of its own",
        ),
        (json.dumps({"weight_map": {"a": 7}}), r"index.json: weight_map\[...\] must be a text"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        list_tensors(tmp_path, "model")
