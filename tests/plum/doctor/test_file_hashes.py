"""Hashes of weights, remembered by size and time of change."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from plum.doctor import file_hashes
from plum.doctor.file_hashes import hash_large_files
from plum.doctor.folders import hash_weight_files


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 1000)
    cache = tmp_path / "cache" / "hashes.json"
    expected = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert hash_large_files(files, cache, is_quiet=True) == expected
    read = []

    def count(file: Path, progress: object) -> str:
        read.append(file.name)
        return "fresh"

    monkeypatch.setattr(file_hashes, "_hash", count)
    assert hash_large_files(files, cache, is_quiet=True) == expected
    assert read == []
    os.utime(files[1], ns=(1, 1))
    assert hash_large_files(files, cache, is_quiet=True) == {**expected, files[1]: "fresh"}
    assert read == ["b.safetensors"]
    files[0].write_bytes(b"x" * 999)
    hash_large_files(files, cache, is_quiet=True)
    assert read == ["b.safetensors", "a.safetensors"]


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "hashes.json"
    cache.write_text('{"a": {"size": "x"}}')
    with pytest.raises(ValueError, match=r"hashes.json is damaged .*delete it"):
        hash_large_files([], cache)


def test_a_models_hash_covers_its_base_but_not_its_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "base").mkdir(parents=True)
        (tmp_path / name / "base" / "model.safetensors").write_bytes(b"base")
        (tmp_path / name / "run").mkdir()
        (tmp_path / name / "run" / "trained.safetensors").write_bytes(b"trained")
        (tmp_path / name / "run" / "base.json").write_text(
            json.dumps({"base": str(tmp_path / name / "base"), "fingerprint": ""})
        )
    cache = tmp_path / "hashes.json"
    first, second = (hash_weight_files(tmp_path / name / "run", cache, is_quiet=True) for name in ("one", "two"))
    assert first.sha256 == second.sha256
    assert [name for name, _ in first.hashes] == ["run/trained.safetensors", "base/model.safetensors"]
    (tmp_path / "two" / "base" / "model.safetensors").write_bytes(b"other")
    assert hash_weight_files(tmp_path / "two" / "run", cache, is_quiet=True).sha256 != first.sha256
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        hash_weight_files(tmp_path / "nowhere", cache)
