import logging
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from partonomy.datasets.question_file import AnnotationIndex, QuestionLine
from partonomy.datasets.record_exchange import export_records
from plum.data.build import build_mixture
from plum.data.excluded_images import ExcludedImages
from plum.train_config import DataConfig, SourceConfig
from tests.plum.data.miniature_world import make_encoder
from tests.plum.data.part_world import VOCABULARY, write_world


def _source(folder: Path, kind: Literal["explanatory", "part_referring"] = "part_referring") -> SourceConfig:
    return SourceConfig(kind, str(folder))


def test_sources_share_one_vocabulary(tmp_path: Path) -> None:
    write_world(tmp_path)
    mixture = build_mixture(DataConfig((_source(tmp_path), _source(tmp_path, "explanatory"))), seed=0)
    assert [source.name for source in mixture.sources] == ["part_referring", "explanatory"]
    assert [len(source) for source in mixture.sources] == [6, 3]
    assert mixture.part_vocabulary == VOCABULARY
    assert mixture.class_pixels == (6 * 24 * 32 - 316, 3 * 16, 16, 3 * 16, 3 * 36, 3 * 32)  # 316: all parts together
    assert all(mixture[k].part_map is not None for k in range(8))


def test_excluded_images_are_left_out_of_every_source_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_world(tmp_path / "train")
    shutil.copytree(tmp_path / "train", tmp_path / "benchmark")
    for name in ("000.png", "002.png"):  # same names, other pictures: they stay in training
        Image.fromarray(np.zeros((24, 32, 3), dtype=np.uint8)).save(tmp_path / "benchmark" / "images" / name)
    data = DataConfig(
        (_source(tmp_path / "train"), _source(tmp_path / "train", "explanatory")),
        exclude_images=(str(tmp_path / "benchmark"),),
    )
    with caplog.at_level(logging.INFO):
        mixture = build_mixture(data, seed=0)
    # The benchmark asks about 000, 002 and 004; only 004 is the same picture as in training.
    assert [len(source) for source in mixture.sources] == [len(dataset.images) - 1, 2]
    assert {mixture[k].sample_id for k in range(60)} == {f"world/{i}" for i in (0, 1, 2, 3, 5)}
    assert "5 images, 1 excluded" in caplog.text
    assert "3 images, 1 of them excluded" in caplog.text


def test_the_same_folder_excludes_itself(tmp_path: Path) -> None:
    write_world(tmp_path)
    data = DataConfig((_source(tmp_path, "explanatory"),), exclude_images=(str(tmp_path),))
    with pytest.raises(ValueError, match="3 of its 3 images are excluded"):
        build_mixture(data, seed=0)


def test_an_absent_file_is_excluded_by_name(tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(b"1")
    excluded = ExcludedImages([tmp_path / "elsewhere" / "here.png"])
    assert tmp_path / "here.png" in excluded
    assert tmp_path / "other.png" not in excluded


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.*partonomy build"):
        build_mixture(DataConfig((_source(tmp_path / "nothing"),)), seed=0)


def test_question_types_belong_to_explanatory(tmp_path: Path) -> None:
    write_world(tmp_path)
    source = SourceConfig("part_vqa", str(tmp_path), question_types=("identification",))
    with pytest.raises(ValueError, match="belong to `explanatory`"):
        build_mixture(DataConfig((source,)), seed=0)


def test_published_records_train_without_annotations(tmp_path: Path) -> None:
    write_world(tmp_path / "own")
    export_records(tmp_path / "own", tmp_path / "own" / "published.json")
    source = SourceConfig("explanatory", str(tmp_path / "own" / "published.json"))
    mixture = build_mixture(DataConfig((source,)), seed=0)
    assert mixture.part_vocabulary == ()
    sample = mixture[0]
    assert sample.part_map is None
    assert len(sample.conversations) == 3


def test_part_maps_are_drawn_only_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(tmp_path)
    data = DataConfig(tuple(SourceConfig(kind, str(tmp_path)) for kind in ("explanatory", "part_vqa")))
    wanted = [build_mixture(data, seed=0)[k] for k in range(8)]
    monkeypatch.setattr("plum.data.sources.part_images.draw_part_map", pytest.fail)
    plain = [build_mixture(data, seed=0, with_part_maps=False)[k] for k in range(8)]
    for one, other in zip(wanted, plain, strict=True):
        assert one.part_map is not None
        assert other.part_map is None
        assert (one.sample_id, one.conversations) == (other.sample_id, other.conversations)


def test_a_sample_parses_only_the_questions_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of millions of questions are parsed line by line, when a line is needed."""
    write_world(tmp_path)
    mixture = build_mixture(DataConfig((SourceConfig("explanatory", str(tmp_path)),), conversations_per_image=1), 0)
    build_question, parsed = AnnotationIndex.build_question, []

    def count(self: AnnotationIndex, line: QuestionLine) -> object:
        parsed.append(line.question_id)
        return build_question(self, line)

    monkeypatch.setattr(AnnotationIndex, "build_question", count)
    for position in range(6):
        assert len(mixture[position].conversations) == 1
    assert len(parsed) == 6


def test_images_that_the_pretext_cannot_use_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    write_world(tmp_path)
    source = _source(tmp_path)
    message = r"part_pretext needs square images, but 6 of 6 images of .* are not, such as .* \(32 x 24\)"
    with pytest.raises(ValueError, match=message):
        build_mixture(DataConfig((source,)), 0, make_encoder())
    build_mixture(DataConfig((source,)), 0, make_encoder(), with_part_maps=False)
