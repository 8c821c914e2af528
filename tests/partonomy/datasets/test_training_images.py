"""The list of training images: photographs are recognised under other names, different pictures of one name are not."""

from pathlib import Path

import pytest

from partonomy.datasets.photographs import (
    StageImages,
    TrainingImageList,
    copy_training_images,
    count_trained_on,
    image_key,
    num_photographs,
    read_training_images,
    write_training_images,
)


def make(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_keys_follow_the_photograph(tmp_path: Path) -> None:
    first = make(tmp_path / "a" / "000001.jpg", b"one picture" * 1000)
    copied = make(tmp_path / "b" / "000001.jpg", b"one picture" * 1000)
    other = make(tmp_path / "c" / "000001.jpg", b"one pictura" * 1000)
    assert image_key(first) == image_key(copied) != image_key(other)
    assert image_key(tmp_path / "train2017" / "000000391895.jpg") == "coco/000000391895"
    assert image_key(tmp_path / "COCO_train2014_000000391895.jpg") == "coco/000000391895"
    assert image_key(tmp_path / "gone.jpg") == "gone.jpg/missing"
    assert num_photographs([first, copied, other]) == 2


def test_a_models_folder_says_what_it_was_trained_on(tmp_path: Path) -> None:
    seen, unseen = make(tmp_path / "seen.jpg", b"a"), make(tmp_path / "unseen.jpg", b"b")
    coco = tmp_path / "COCO_train2014_000000000009.jpg"
    model, exported = tmp_path / "model", tmp_path / "exported"
    model.mkdir()
    exported.mkdir()
    assert read_training_images(model) is None
    assert count_trained_on(model, [seen]) is None
    assert count_trained_on(None, [seen]) is None
    copy_training_images((model, None), exported)  # nothing to copy
    stage = StageImages("stage0", 2, ("data/core",), 5, (), 0)
    written = TrainingImageList((stage,), frozenset({image_key(seen), "coco/000000000009"}))
    write_training_images(model, written)
    copy_training_images((None, tmp_path, model), exported)
    assert read_training_images(exported) == written
    assert count_trained_on(exported, [seen, unseen]) == 1
    assert count_trained_on(exported, [seen, seen, coco, tmp_path / "000000000009.jpg"]) == 2


def test_a_broken_list_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "training_images.json").write_text('{"stages": []}')
    with pytest.raises(ValueError, match=r"training_images\.json: not a list of training images"):
        read_training_images(tmp_path)
