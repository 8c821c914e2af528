"""The paper's mixture on the miniature: proportions, exclusion of the benchmark's photographs, missing downloads."""

import logging
import shutil
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from partonomy.datasets.sources.paco import read_paco
from partonomy.datasets.sources.part_imagenet import read_part_imagenet
from partonomy.datasets.sources.pascal_part import read_pascal_part
from partonomy.datasets.sources.records import CocoConfig
from partonomy.datasets.store import DatasetOrigin, save_dataset
from plum.data.build import build_mixture, share_weights
from plum.data.collate import check_sample, write_targets
from plum.data.excluded_images import ExcludedImages, TrainingImages
from plum.data.mixture import BLOCK, MixtureDataset
from plum.data.sources.part_semantic import PartSemanticSource
from plum.data.sources.reasoning import ReasoningSource
from plum.data.sources.referring import ReferringSource
from plum.data.sources.semantic import SemanticSource
from plum.data.sources.targets import AskedTargets
from plum.data.sources.wordings import LISA_WORDINGS
from plum.models.systems.registry import build_notation
from plum.train_config import DataConfig, GroupConfig, SourceConfig
from plum.training.config_file import load_train_config
from tests.plum.data.miniature_world import make_encoder, miniature, miniature_copy
from tests.plum.data.part_world import write_world

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
STAGE_0 = ("plum_7b_0shot", "plum_13b_0shot")
GROUPS = {"semantic": 9, "referring": 5, "vqa": 5, "reasoning": 1}


def build_parts(root: Path, output: Path) -> None:
    """The three part data sets in the project's own form, as `partonomy build` reads the downloads."""
    parts = root / "vlpart"
    readings = {
        "paco": read_paco(CocoConfig(parts / "paco/annotations/paco_lvis_v1_train.json", root / "coco")),
        "pascal": read_pascal_part(CocoConfig(parts / "pascal_part/train.json", parts / "pascal_part/VOCdevkit")),
        "part_imagenet": read_part_imagenet(CocoConfig(parts / "partimagenet/train.json", parts / "partimagenet")),
    }
    for name, reading in readings.items():
        save_dataset(reading.dataset, output / name, DatasetOrigin(name))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    build_parts(miniature(), folder)
    return folder


@cache
def shipped(name: str) -> DataConfig:
    return load_train_config(["--config", str(CONFIGS / f"{name}.yaml")]).data


def on_miniature(data: DataConfig, parts: Path, root: Path | None = None, **changes: Any) -> DataConfig:
    """A shipped configuration with its paths turned to the miniature."""
    sources = tuple(
        replace(source, path=str(parts / Path(source.path).name)) if source.path else source for source in data.sources
    )
    return replace(data, sources=sources, dataset_dir=str(root or miniature()), exclude_images=(), **changes)


def group_counts(mixture: MixtureDataset, data: DataConfig) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for source, share in zip(data.sources, mixture.block_counts, strict=True):
        counts[source.group] += share
    return dict(counts)


@pytest.mark.parametrize("name", STAGE_0)
def test_shipped_stage_0_builds_and_draws_9_5_5_1(name: str, parts: Path) -> None:
    data = on_miniature(shipped(name), parts)
    mixture = build_mixture(data, seed=1, encoder=make_encoder(data.max_text_tokens), with_part_maps=False)
    assert group_counts(mixture, data) == {group: BLOCK * share // 20 for group, share in GROUPS.items()}
    drawn = Counter(data.sources[mixture.locate(position).source].group for position in range(2 * BLOCK))
    assert drawn == {group: BLOCK * share // 10 for group, share in GROUPS.items()}
    names = Counter(source.name for source in mixture.sources)
    assert names == Counter(
        [
            "ade20k",
            "cocostuff",
            *["part_semantic"] * 3,
            "refclef",
            "refcoco",
            "refcoco+",
            "refcocog",
            "llava_instruct",
            "reason_seg",
        ]
    )
    encoder, seen = make_encoder(data.max_text_tokens), set()
    for position in range(120):
        sample = mixture[position]
        seen.add(sample.source)
        check_sample(sample)
        for conversation in sample.conversations:
            encoder.encode(conversation, name=sample.sample_id)
    assert seen == set(names)


@pytest.mark.parametrize("name", ["plum_7b", "plum_13b"])
def test_both_stages_exclude_the_benchmark_and_the_overlay_counts_it(name: str) -> None:
    for stage in ("0shot", "ft"):
        base = CONFIGS / f"{name}_{stage}.yaml"
        overlay = CONFIGS / "overlays" / "paper_overlap.yaml"
        plain = load_train_config(["--config", str(base)])
        paper = load_train_config(["--config", str(base), "--config", str(overlay)])
        assert plain.data.exclude_images
        assert not plain.data.count_images
        assert paper == replace(
            plain, data=replace(plain.data, exclude_images=(), count_images=plain.data.exclude_images)
        )


def test_a_group_keeps_its_share_when_sources_are_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = miniature_copy(tmp_path / "data")
    for folder in ("refer_seg/refclef", "refer_seg/refcocog", "cocostuff"):
        shutil.rmtree(root / folder)
    data = on_miniature(shipped("plum_7b_0shot"), tmp_path / "no_parts", root)
    with pytest.raises(FileNotFoundError, match=r"cocostuff|refs\(unc\)\.p|no_parts"):
        build_mixture(data, seed=0, encoder=make_encoder())
    data = replace(data, allow_missing=True)
    mixture = build_mixture(data, seed=0, encoder=make_encoder())
    assert [source.name for source in mixture.sources] == [
        "ade20k",
        "refcoco",
        "refcoco+",
        "llava_instruct",
        "reason_seg",
    ]
    assert mixture.block_counts == (450, 125, 125, 250, 50)
    assert "refclef/refs(unc).p is not there: referring refclef is left out" in caplog.text
    shutil.rmtree(root / "reason_seg")
    mixture = build_mixture(data, seed=0, encoder=make_encoder())
    assert "no source of the group 'reasoning' is available" in caplog.text
    assert mixture.block_counts == (474, 132, 131, 263)  # 1000 x 9, 2.5, 2.5, 5 of 19, rounded to sum to 1000
    with pytest.raises(ValueError, match="none of the 11 data sources is there"):
        build_mixture(replace(data, dataset_dir=str(tmp_path / "nothing")), seed=0, encoder=make_encoder())


def test_half_a_download_is_an_error_even_where_missing_ones_are_allowed(tmp_path: Path) -> None:
    root = miniature_copy(tmp_path / "data")
    (root / "refer_seg/refcoco/instances.json").unlink()
    data = DataConfig((SourceConfig("referring", dataset="refcoco"),), dataset_dir=str(root), allow_missing=True)
    with pytest.raises(FileNotFoundError, match=r"instances\.json"):
        build_mixture(data, seed=0)


def test_shares_of_groups_and_of_single_sources() -> None:
    groups = (GroupConfig("a", 9.0), GroupConfig("b", 1.0))
    sources = (
        SourceConfig("semantic", dataset="ade20k", group="a", weight=2.0),
        SourceConfig("semantic", dataset="cocostuff", group="a", weight=1.0),
        SourceConfig("reasoning", group="b", weight=7.0),
        SourceConfig("part_vqa", "folder", weight=4.0),
    )
    assert share_weights(sources, DataConfig(sources, groups)) == [6.0, 3.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SourceConfig("semantic"), "`semantic` and `referring` need dataset"),
        (SourceConfig("reasoning", dataset="x"), "other kinds must not set it"),
        (SourceConfig("reasoning", path="folder"), "it reads dataset_dir; remove path"),
        (SourceConfig("part_vqa"), "path is missing"),
        (SourceConfig("llava_instruct", group="vqa"), "its group 'vqa' is not among data.groups"),
        (SourceConfig("semantic", dataset="cityscapes"), "unknown semantic data set 'cityscapes'"),
        (SourceConfig("referring", dataset="refcoco++"), r"unknown referring data set 'refcoco\+\+'"),
        (SourceConfig("llava_instruct"), "build its mixture with an encoder"),
        (SourceConfig("referring", dataset="refcoco", targets="lists"), "targets belongs to `semantic` and `part_sem"),
        (SourceConfig("reasoning", targets_per_question=3), "targets_per_question belongs to .* `referring` alone"),
        (SourceConfig("semantic", dataset="ade20k", targets_per_question=0), "is 0, it must be at least 1"),
        (
            SourceConfig("semantic", dataset="ade20k", targets="lists", targets_per_question=3),
            "semantic of ade20k: targets: lists draws its own lists",
        ),
        (SourceConfig("semantic", dataset="ade20k", answers="the_target"), "answers belongs to `reasoning` alone"),
    ],
)
def test_sources_that_contradict_themselves_are_refused(source: SourceConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mixture(DataConfig((source,), dataset_dir=str(miniature())), seed=0)


def test_answers_with_marks_need_a_system_that_writes_them() -> None:
    data = DataConfig((SourceConfig("reasoning"),), dataset_dir=str(miniature()), wordings="lisa")
    with pytest.raises(ValueError, match=r"data\.wordings lisa needs a system that writes marks"):
        build_mixture(data, seed=0)
    assert build_mixture(data, seed=0, has_marks=True)[0].conversations


def test_settings_reach_their_sources(parts: Path) -> None:
    sources = (
        SourceConfig("semantic", dataset="ade20k", targets_per_question=3),
        SourceConfig("referring", dataset="refcoco", targets_per_question=2),
        SourceConfig("part_semantic", str(parts / "paco"), targets="lists"),
        SourceConfig("part_semantic", str(parts / "paco"), targets_per_question=3),
        SourceConfig("reasoning", answers="the_target"),
        SourceConfig("reasoning"),
    )
    data = DataConfig(sources, dataset_dir=str(miniature()), sampling="replacement", wordings="lisa")
    mixture = build_mixture(data, seed=0, has_marks=True)
    assert mixture.with_replacement
    semantic, referring, lists, instances, plain, named = mixture.sources
    assert isinstance(semantic, SemanticSource)
    assert isinstance(referring, ReferringSource)
    assert isinstance(lists, PartSemanticSource)
    assert isinstance(instances, PartSemanticSource)
    assert semantic.asked == instances.asked == AskedTargets("authors", 3, LISA_WORDINGS)
    assert referring.asked == AskedTargets("authors", 2, LISA_WORDINGS)
    assert lists.asked == AskedTargets("lists")
    assert isinstance(plain, ReasoningSource)
    assert isinstance(named, ReasoningSource)
    assert plain.wordings is named.wordings is LISA_WORDINGS
    assert {item.target_name for items in plain.images for item in items} == {""}
    assert all(item.target_name for items in named.images for item in items)
    defaults = build_mixture(DataConfig(sources[:1], dataset_dir=str(miniature())), seed=0)
    assert not defaults.with_replacement


@pytest.mark.parametrize("name", ["lisa_7b", "lisa_13b", "m2sa_7b", "m2sa_13b"])
def test_seg_systems_train_on_marks_alone(name: str, parts: Path) -> None:
    """Every answer of their mixture comes out with as many [SEG] as masks."""
    config = load_train_config(["--config", str(CONFIGS / f"{name}.yaml")])
    data = on_miniature(config.data, parts)
    notation = build_notation(config.model)
    mixture = build_mixture(
        data, seed=1, encoder=make_encoder(data.max_text_tokens), with_part_maps=False, has_marks=True
    )
    sizes: dict[str, set[int]] = {}
    for position in range(400):
        sample = write_targets(mixture[position], notation)
        check_sample(sample)
        for exchange in (exchange for conversation in sample.conversations for exchange in conversation):
            assert exchange.answer.count("[SEG]") == len(exchange.masks)
            assert "{seg}" not in exchange.answer
            assert all(exchange.answer[span.start : span.end] == "[SEG]" for span in exchange.spans)
            sizes.setdefault(sample.source, set()).add(len(exchange.masks))
    assert sizes["llava_instruct"] == {0}
    if name.startswith("lisa"):
        assert {size for found in sizes.values() for size in found} == {0, 1}
    else:
        assert sizes["part_semantic"] == {1, 2, 3}
        assert max(sizes["mmr"]) > 1


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_reason_seg_can_be_trained_on_alone(size: str, parts: Path) -> None:
    overlay = CONFIGS / "overlays" / "reasonseg_ft.yaml"
    config = load_train_config(["--config", str(CONFIGS / f"plum_{size}_0shot.yaml"), "--config", str(overlay)])
    assert config.num_updates == 500
    mixture = build_mixture(on_miniature(config.data, parts), seed=0)
    assert [source.name for source in mixture.sources] == ["reason_seg"]


def test_downloads_need_their_root() -> None:
    with pytest.raises(ValueError, match=r"set data\.dataset_dir"):
        build_mixture(DataConfig((SourceConfig("reasoning"),)), seed=0)


def benchmark_of(folder: Path, file_names: list[str]) -> str:
    """A question folder whose images (000, 002, 004 of the rectangles' world) have COCO's names."""
    write_world(folder)
    for old, new in zip(("000.png", "002.png", "004.png"), file_names, strict=True):
        (folder / "images" / old).rename(folder / "images" / new)
        annotations = folder / "annotations.json"
        annotations.write_text(annotations.read_text().replace(old, new))
    return str(folder)


def test_photographs_are_excluded_under_all_of_their_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["train2017_000000100000.png", "000000100001.png", "000000999999.png"]
    benchmark = benchmark_of(tmp_path / "benchmark", names)
    sources = (
        SourceConfig("referring", dataset="refcoco"),  # train: pictures 0, 1 and 3
        SourceConfig("semantic", dataset="cocostuff"),
        SourceConfig("llava_instruct"),
        SourceConfig("semantic", dataset="ade20k"),
    )
    data = DataConfig(sources, dataset_dir=str(miniature()), exclude_images=(benchmark,))
    with caplog.at_level(logging.INFO):
        mixture = build_mixture(data, seed=0, encoder=make_encoder())
    assert [len(source) for source in mixture.sources] == [1, 4, 4, 6]
    assert "refcoco: 3 images, 2 excluded" in caplog.text
    assert "cocostuff: 6 images, 2 excluded" in caplog.text
    assert "6 dialogues, 2 excluded by their image" in caplog.text
    assert "2 of 3 found and left out (exclude_images), 0 of 0 found and trained on" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        mixture = build_mixture(
            replace(data, exclude_images=(), count_images=(benchmark,)), seed=0, encoder=make_encoder()
        )
    assert [len(source) for source in mixture.sources] == [3, 6, 6, 6]
    assert "0 of 0 found and left out (exclude_images), 2 of 3 found and trained on" in caplog.text


def test_names_that_are_not_cocos_need_the_same_bytes(tmp_path: Path) -> None:
    for folder, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "000001.jpg").write_bytes(content)
    excluded = ExcludedImages([tmp_path / "a" / "000001.jpg"])
    assert tmp_path / "b" / "000001.jpg" in excluded
    assert tmp_path / "c" / "000001.jpg" not in excluded
    images = TrainingImages(excluded, ExcludedImages([]))
    assert tmp_path / "b" / "000001.jpg" in images
    assert tmp_path / "a" / "000001.jpg" in images
    assert "1 of 1 found and left out" in images.describe()
    assert "anything" not in images
