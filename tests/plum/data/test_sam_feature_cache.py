import json
import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from plum.data.sam_feature_cache import SamFeatureCache, SamPreprocessing, hash_encoder, open_cache
from plum.inputs.image_transforms import SegmenterInput
from plum.models.segmenters.sam import build_sam
from plum.models.tiny import tiny_model_config
from plum.structures import ImageEmbeddings

PREPROCESSING = SamPreprocessing(image_size=32, dtype="float32")
KEY = "ab" * 32


def _cache(folder: Path, max_bytes: int | None = None) -> SamFeatureCache:
    return SamFeatureCache(folder, "weights", PREPROCESSING, max_bytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_put_comes_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    cache, embedding = _cache(tmp_path / "new" / "folder"), torch.randn(1, 3, 2, 2).to(dtype)
    assert cache.get(KEY) is None
    cache.put(KEY, ImageEmbeddings(embedding))
    found = pickle.loads(pickle.dumps(cache)).get(KEY)  # loader processes get a copy
    assert found is not None
    assert found.main.dtype == dtype
    assert torch.equal(found.main, embedding)
    assert found.finer == ()
    assert cache.count_images() == 1
    assert cache.size_in_bytes() >= embedding.nbytes


def test_a_view_of_a_batch_is_kept_alone(tmp_path: Path) -> None:
    cache, batch = _cache(tmp_path), torch.randn(50, 3, 2, 2)
    cache.put(KEY, ImageEmbeddings(batch[7:8]))
    found = cache.get(KEY)
    assert found is not None
    assert torch.equal(found.main[0], batch[7])
    assert cache.size_in_bytes() < 2 * batch[7].nbytes + 200


@pytest.mark.parametrize(
    "other",
    [
        SamPreprocessing(image_size=64, dtype="float32"),
        SamPreprocessing(image_size=32, dtype="bfloat16"),
        SamPreprocessing(image_size=32, dtype="float32", mean=(0.0, 0.0, 0.0)),
    ],
)
def test_another_preprocessing_is_another_cache(tmp_path: Path, other: SamPreprocessing) -> None:
    _cache(tmp_path).put(KEY, ImageEmbeddings(torch.ones(1, 1)))
    assert SamFeatureCache(tmp_path, "weights", other).get(KEY) is None
    assert SamFeatureCache(tmp_path, "other weights", PREPROCESSING).get(KEY) is None
    assert SamFeatureCache(tmp_path, "weights", PREPROCESSING).get(KEY) is not None


def test_folders_of_sam_keep_their_name(tmp_path: Path) -> None:
    """Embeddings that runs kept before there was another segmenter are found."""
    assert _cache(tmp_path).folder.name == "95a7f9abc6e8dfe9"
    stretched = SamFeatureCache(tmp_path, "weights", SamPreprocessing(image_size=32, dtype="float32", fit="stretch"))
    assert stretched.folder.name != "95a7f9abc6e8dfe9"
    sam = build_sam(tiny_model_config(40).sam)  # type: ignore[arg-type]
    opened = open_cache(tmp_path, sam, SegmenterInput(32), torch.float32)
    own = SamFeatureCache(tmp_path, hash_encoder(sam.image_encoder, torch.float32), PREPROCESSING)
    assert opened.folder == own.folder


def test_maps_of_several_resolutions_come_back_to_the_bit(tmp_path: Path) -> None:
    cache, maps = _cache(tmp_path), [torch.randn(1, 3, 2 * n, 2 * n) for n in (1, 4, 2)]
    cache.put(KEY, ImageEmbeddings.of_maps(maps))
    found = cache.get(KEY)
    assert found is not None
    assert all(torch.equal(ours, given) for ours, given in zip(found.maps, maps, strict=True))


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    cache.put(KEY, ImageEmbeddings(torch.ones(1, 1)))
    about = json.loads((cache.folder / "about.json").read_text())
    assert about["weights_hash"] == "weights"
    assert about["preprocessing"]["image_size"] == 32


def test_a_full_cache_adds_nothing_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = ImageEmbeddings(torch.zeros(1, 100))  # 400 bytes, and a header of less than 100
    cache = _cache(tmp_path, max_bytes=1100)
    for number in range(4):
        cache.put(f"{number}" * 64, one)
    assert [cache.get(f"{number}" * 64) is not None for number in range(4)] == [True, True, False, False]
    assert caplog.text.count("is full") == 1
    again = _cache(tmp_path, max_bytes=1100)  # what earlier runs wrote counts
    again.put(KEY, one)
    assert again.get(KEY) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    cache.put(KEY, ImageEmbeddings(torch.ones(1, 10)))
    (file,) = cache.folder.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(ValueError, match=f"{file.name} is damaged.*delete it"):
        cache.get(KEY)


def test_a_folder_that_cannot_be_written_ends_the_keeping_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = _cache(tmp_path)
    cache.folder.write_text("in the way")
    cache.put(KEY, ImageEmbeddings(torch.ones(1, 1)))
    cache.put(KEY, ImageEmbeddings(torch.ones(1, 1)))
    assert cache.get(KEY) is None
    assert caplog.text.count("cannot be written") == 1
    with pytest.raises(ValueError, match="is a file"):
        SamFeatureCache(cache.folder, "weights", PREPROCESSING)


def _put_all(folder: Path) -> None:
    cache = _cache(folder)
    for number in range(40):
        cache.put(f"{number:064}", ImageEmbeddings(torch.full((1, 64, 8, 8), float(number))))


def test_processes_may_write_the_same_images_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_put_all, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    cache = _cache(tmp_path)
    assert cache.count_images() == 40
    for number in range(40):
        found = cache.get(f"{number:064}")
        assert found is not None
        assert torch.equal(found.main, torch.full((1, 64, 8, 8), float(number)))
    assert list(tmp_path.rglob("*.partial")) == []


def test_weights_are_told_apart_as_they_compute() -> None:
    torch.manual_seed(0)
    encoder = nn.Linear(3, 3)
    in_float32, in_bfloat16 = (hash_encoder(encoder, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert in_float32 != in_bfloat16
    assert hash_encoder(encoder.to(torch.bfloat16), torch.bfloat16) == in_bfloat16
    with torch.no_grad():
        encoder.bias[0] += 1
    assert hash_encoder(encoder, torch.bfloat16) != in_bfloat16
