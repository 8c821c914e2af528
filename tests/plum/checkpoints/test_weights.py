import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plum.checkpoints.model_weights import read_saved
from plum.checkpoints.weights import list_tensors, write_tensors


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
