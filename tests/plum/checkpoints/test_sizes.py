"""Damaged weight files and absurd sizes in config.json end as one line, before anything is built."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import plum.checkpoints.model_weights
import plum.checkpoints.store
from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.model_weights import ModelWeights
from plum.checkpoints.published.source_files import find_weight_files, open_weights
from plum.checkpoints.sizes import require_sizes
from plum.checkpoints.store import load_pretrained, save_pretrained, saved_tensors
from plum.cli.main import main
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_pretrained(make_model(), byte_level(), folder, "A random model.")
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def set_size(folder: Path, key: str, value: int) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    *groups, name = key.split(".")
    group = content
    for one in groups:
        group = group[one]
    group[name] = value
    path.write_text(json.dumps(content))


ABSURD = {
    "llava.language.hidden_size": 10**9,
    "llava.language.intermediate_size": 10**9,
    "llava.language.num_layers": 10**6,
    "llava.language.vocab_size": 10**9,
    "llava.language.num_heads": 10**9,
    "llava.language.num_key_value_heads": 10**9,
    "llava.vision.hidden_size": 10**9,
    "llava.vision.intermediate_size": 10**9,
    "llava.vision.num_layers": 10**6,
    "llava.vision.image_size": 10**9,
    "sam.encoder_dim": 10**9,
    "sam.encoder_depth": 10**6,
    "sam.image_size": 10**9,
    "sam.prompt_dim": 10**9,
    "sam.decoder_depth": 10**6,
    "sam.decoder_mlp_dim": 10**9,
    "sam.mask_in_channels": 10**9,
    "tagger.feedforward_dim": 10**9,
}


@pytest.mark.parametrize("key", ABSURD)
def test_an_absurd_size_is_refused_before_a_module_is_built(
    folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (plum.checkpoints.store, plum.checkpoints.model_weights):
        monkeypatch.setattr(module, "build_model", lambda *words, **options: pytest.fail("built"))
    set_size(folder, key, ABSURD[key])
    with pytest.raises(ValueError, match=rf"{folder} .*{key}.* is \d+ in config\.json, .* weights"):
        load_pretrained(folder)
    with pytest.raises(ValueError, match=key):
        ModelWeights(read_model_config(folder), saved_tensors(folder), {}, str(folder), is_strict=True)


@pytest.mark.parametrize("key", ["tagger.num_heads", "feedback.num_heads", "llava.vision.patch_size"])
def test_sizes_that_fit_nothing_are_one_line(folder: Path, key: str) -> None:
    set_size(folder, key, 0)
    with pytest.raises(ValueError, match=r"(no model of these sizes can be built|another architecture)"):
        load_pretrained(folder)


def test_the_true_sizes_are_accepted(folder: Path) -> None:
    require_sizes(read_model_config(folder), {name: one.shape for name, one in saved_tensors(folder).items()}, "here")
    require_sizes(read_model_config(folder), {}, "nothing to compare")


def with_header(change: Callable[[dict[str, dict[str, object]], str], None]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        change(header, next(name for name in header if name != "__metadata__"))
        written = json.dumps(header).encode()
        return struct.pack("<Q", len(written)) + written + content[8 + size :]

    return apply


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "header too large": lambda content: struct.pack("<Q", 10**18) + content[8:],
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "offsets beyond the end": with_header(lambda header, name: header[name].update(data_offsets=[0, 10**12])),
    "a huge shape": with_header(lambda header, name: header[name].update(shape=[10**9, 10**9])),
    "no such type": with_header(lambda header, name: header[name].update(dtype="Q9")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_weight_file_is_named_by_every_reader(
    folder: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    with pytest.raises(ValueError, match=f"^{path}: damaged, or no safetensors file"):
        load_pretrained(folder)
    with pytest.raises(ValueError, match=f"^{path} is truncated or damaged"), open_weights(path):
        pass
    (tmp_path / "photo.png").write_bytes(b"")
    assert main(["export", str(folder), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: damaged")


@pytest.mark.parametrize("shard", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", 3])
def test_an_index_names_files_of_its_own_folder_only(folder: Path, shard: object) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    for read in (saved_tensors, find_weight_files):
        with pytest.raises(
            ValueError, match=r"index\.json: (the shard .* is no file name of its own folder|weight_map)"
        ):
            read(folder)
