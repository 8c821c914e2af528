"""A question set as a Hugging Face data set in a folder, and back."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from partonomy.__main__ import main
from partonomy.datasets import hub_dataset
from partonomy.datasets.hub_dataset import CardRequest, read_hub_dataset, write_hub_dataset
from partonomy.datasets.seal import describe_files
from partonomy.datasets.store import DatasetOrigin, load_questions, save_dataset
from partonomy.files import write_json
from partonomy.masks import decode_mask
from partonomy.structures import AnnotatedImage, PartDataset
from tests.partonomy.quick_fits import quick_fits
from tests.partonomy.tiny_world import VEHICLES, make_image, make_instance
from validate_partonomy import main as validate_main

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (requirements-hub.txt)")
REQUEST = CardRequest("cc-by-4.0", split="val")
BOX = (1, 2, 8, 9)


def _images() -> list[AnnotatedImage]:
    """Images of two planes each, some of one class and so marked; one without objects, one with an object alone."""
    images = []
    labels = [*sorted(VEHICLES), *sorted(VEHICLES)]
    for number, label in enumerate(labels):
        other = label if number % 3 == 0 else labels[number - 1]
        first = make_instance(2 * number, label, list(VEHICLES[label])[: 3 + number % 3], box=BOX)
        second = make_instance(2 * number + 1, other, list(VEHICLES[other])[:-1], box=(9, 2, 8, 9))
        images.append(make_image(number + 1, first, second))
    images.append(make_image(50))
    images.append(make_image(51, make_instance(90, "kite", [])))
    return images


def _noise(path: Path, seed: int) -> None:
    """An image file that no compression makes smaller."""
    values = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built question set whose images lie in another folder, in a folder of their own name."""
    folder = tmp_path_factory.mktemp("sets")
    images = [AnnotatedImage(i.image_id, f"deep/ü {i.file_name}", 16, 20, i.objects) for i in _images()]
    for image in images:
        _noise(folder / "photos" / image.file_name, image.image_id)
    save_dataset(PartDataset("planes", folder / "photos", tuple(images)), folder / "raw", DatasetOrigin("test"))
    flags = ["--source", "dataset", "--images", str(folder / "raw"), "--embedding_model", "char-ngram-tfidf"]
    with quick_fits():
        assert main(["build", *flags, "--instances", "class", "--output", str(folder / "set")]) == 0
    return folder / "set"


@pytest.fixture(scope="module")
def published(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "hub"
    write_hub_dataset(original, folder, REQUEST)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _copy(source: Path, target: Path, *, without: str = "") -> Path:
    for name, content in _files(source).items():
        if name != without:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
    return target


def _table(folder: Path, configuration: str) -> Path:
    (path,) = (folder / configuration).glob("*.parquet")
    return path


def _edit(path: Path, changes: Mapping[str, Any]) -> None:
    """Change cells of the first row of a table."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0] |= changes
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)


def test_what_is_read_back_is_byte_identical(original: Path, published: Path, tmp_path: Path) -> None:
    counts = read_hub_dataset(published, tmp_path / "back")
    first, again = load_questions(original), load_questions(tmp_path / "back")
    assert counts.num_questions == len(first.questions) > 20
    assert counts.num_images == 14
    found = _files(tmp_path / "back")
    for name in ("questions.jsonl", "annotations.json"):
        assert found[name] == (original / name).read_bytes()
    assert again.content_hash == first.content_hash
    pictures = _files(original.parent / "photos")
    assert {name.removeprefix("images/"): found[name] for name in found if name.startswith("images/")} == pictures
    objects = {(question.image_id, question.instance_id) for question in first.questions}
    assert len(objects) > len({image_id for image_id, _ in objects}), "several objects of an image"
    assert any(question.box for question in first.questions)


def test_the_scores_are_the_same(original: Path, published: Path, tmp_path: Path) -> None:
    read_hub_dataset(published, tmp_path / "back")
    for model in ("random", "oracle"):
        summaries = [
            validate_main(
                ["--model", model, "--questions", str(folder), "--output", str(tmp_path / f"{model}{number}")]
            )
            for number, folder in enumerate((original, tmp_path / "back"))
        ]
        first, again = [{name: one.metrics for name, one in summary.groups.items()} for summary in summaries if summary]
        assert first == again
        assert any(metric.count for metrics in first.values() for metric in metrics.values())


def test_no_path_of_the_machine_is_published(original: Path, published: Path) -> None:
    place = str(original.parent)
    assert any(place in path.read_text(errors="replace") for path in original.glob("*.json"))
    for name, content in _files(published).items():
        assert place.encode() not in content, name
    for configuration in ("questions", "other_images"):
        table = pq.read_table(_table(published, configuration))
        assert place not in str(table.drop_columns(["image"]).to_pylist())
        assert {row["image"]["path"][:5] for row in table.to_pylist()} == {"deep/"}


def test_an_image_is_stored_once_for_all_its_questions(original: Path, published: Path) -> None:
    file = pq.ParquetFile(_table(published, "questions"))
    asked = {question.image_path for question in load_questions(original).questions}
    size = sum(path.stat().st_size for path in asked)
    (column,) = [file.metadata.row_group(0).column(0)]
    assert (file.num_row_groups, column.path_in_schema) == (1, "image.bytes")
    assert size <= column.total_uncompressed_size < 1.2 * size
    assert file.metadata.num_rows > 2 * len(asked)


def test_row_groups_and_files_have_a_limited_size(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Counter(question.image_id for question in load_questions(original).questions)
    monkeypatch.setattr(hub_dataset, "GROUP_BYTES", 1)  # one image in a row group
    monkeypatch.setattr(hub_dataset, "MEGABYTE", 1)
    write_hub_dataset(original, tmp_path / "small", REQUEST, shard_megabytes=80_000)
    paths = sorted((tmp_path / "small" / "questions").iterdir())
    files = [pq.ParquetFile(path) for path in paths]
    assert [path.name for path in paths] == [f"val-{n:05d}-of-{len(paths):05d}.parquet" for n in range(len(paths))]
    assert 1 < len(paths) < len(images)
    assert max(path.stat().st_size for path in paths) < 80_000
    groups = [file.metadata.row_group(number).num_rows for file in files for number in range(file.num_row_groups)]
    assert groups == list(images.values())
    read_hub_dataset(tmp_path / "small", tmp_path / "back")
    assert load_questions(tmp_path / "back").content_hash == load_questions(original).content_hash

    monkeypatch.setattr(hub_dataset, "LARGEST_GROUP_BYTES", 2_000)  # less than the rows of an image
    write_hub_dataset(original, tmp_path / "tiny", REQUEST, shard_megabytes=10**9)
    file = pq.ParquetFile(_table(tmp_path / "tiny", "questions"))
    assert file.num_row_groups > len(images)


def test_anybody_can_load_it(published: Path, original: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (requirements-hub.txt)")
    loaded = datasets.load_dataset(str(published), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["val"]
    rows, questions = loaded["val"], load_questions(original).questions
    assert rows.num_rows == len(questions)
    for row, question in zip(rows, questions, strict=True):
        assert row["image"].size == (20, 16)
        assert (row["question"], row["question_type"]) == (question.text, question.question_type.value)
        assert row["choices"][row["answer"]] == question.correct_choice.text
        for part, true in zip(row["parts"], question.masks, strict=True):
            assert part["label"] == true.label
            assert np.array_equal(coco_mask.decode(part["mask"]).astype(bool), decode_mask(true.mask))
        asked = question.object_question
        assert row["object_question"] == (asked and asked.text)
        if asked is not None:
            assert row["object_choices"][row["object_answer"]] == asked.correct_choice.text
    assert datasets.get_dataset_config_names(str(published)) == ["questions", "annotations", "other_images"]
    others = datasets.load_dataset(str(published), "other_images", split="val", cache_dir=str(tmp_path / "cache"))
    assert {50, 51} <= set(others["image_id"])
    streamed = next(iter(datasets.load_dataset(str(published), "annotations", split="val", streaming=True)))
    assert streamed["object"] == "airplane"


def test_the_card_says_what_the_hub_reads(published: Path) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(published / "README.md")
    assert (card.data.license, card.data.pretty_name) == ("cc-by-4.0", "planes")
    assert "visual-question-answering" in card.data.task_categories
    assert card.data.size_categories == ["n<1K"]
    (first, *_) = card.data.to_dict()["configs"]
    assert first["default"]
    assert first["data_files"] == [{"split": "val", "path": "questions/val-*.parquet"}]
    assert "| `object_choice_labels` | the object that each of its choices names |" in card.text


def test_a_missing_image_is_named(original: Path, tmp_path: Path) -> None:
    folder = _copy(original, tmp_path / "set")
    _copy(original.parent / "photos", tmp_path / "set" / "images", without="deep/ü 51.png")
    description = json.loads((folder / "dataset.json").read_text()) | {"image_root": "images"}
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(FileNotFoundError, match=r"deep/ü 51\.png: this image is missing"):
        write_hub_dataset(folder, tmp_path / "hub", REQUEST)
    (folder / "images" / "deep" / "ü 1.png").unlink()
    with pytest.raises(ValueError, match=r"record 0 .*deep/ü 1\.png does not exist"):
        write_hub_dataset(folder, tmp_path / "hub", REQUEST)
    assert not list(tmp_path.glob("*hub*"))


def test_what_could_not_be_read_back_is_refused(original: Path, tmp_path: Path) -> None:
    folder = _copy(original, tmp_path / "set")
    content = json.loads((folder / "annotations.json").read_text())
    (folder / "annotations.json").write_text(json.dumps(content, indent=1))
    with pytest.raises(ValueError, match=r"annotations\.json: was changed since it was built"):
        write_hub_dataset(folder, tmp_path / "hub", REQUEST)
    build = json.loads((folder / "build.json").read_text())
    write_json(folder / "build.json", build | {"files": describe_files(folder)})
    with pytest.raises(ValueError, match=r"annotations\.json: was edited by hand or written by another program"):
        write_hub_dataset(folder, tmp_path / "hub", REQUEST)
    (folder / "build.json").unlink()
    with pytest.raises(FileNotFoundError, match="unfinished; run the command that builds it again"):
        write_hub_dataset(folder, tmp_path / "hub", REQUEST)
    assert not list(tmp_path.glob("*hub*"))


def test_a_full_folder_is_refused_and_an_empty_one_is_filled(original: Path, published: Path, tmp_path: Path) -> None:
    for name in ("hub", "back"):
        (tmp_path / name).mkdir()
    write_hub_dataset(original, tmp_path / "hub", REQUEST)
    read_hub_dataset(published, tmp_path / "back")
    with pytest.raises(FileExistsError, match="hub exists; choose a new folder"):
        write_hub_dataset(original, tmp_path / "hub", REQUEST)
    with pytest.raises(FileExistsError, match="back exists; choose a new folder"):
        read_hub_dataset(published, tmp_path / "back")


@pytest.mark.parametrize("split", ["../val", "a-b", "", "val*"])
def test_a_split_that_the_hub_does_not_know_is_refused(original: Path, tmp_path: Path, split: str) -> None:
    with pytest.raises(ValueError, match="a split's name consists of letters, digits and underscores"):
        write_hub_dataset(original, tmp_path / "hub", CardRequest("mit", split=split))


def test_a_data_set_of_others_is_refused_with_the_missing_columns(published: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="it holds no Parquet file with the columns image, question, choices"):
        read_hub_dataset(tmp_path / "other", tmp_path / "back")
    table = pq.read_table(_table(published, "questions"))
    pq.write_table(table.select(["image", "question", "choices"]), tmp_path / "other" / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet lacks the columns answer, parts, object, question_type"):
        read_hub_dataset(tmp_path / "other", tmp_path / "back")
    copy = _copy(published, tmp_path / "copy")
    pq.write_table(table.drop_columns(["box", "answer"]), _table(copy, "questions"))
    with pytest.raises(ValueError, match=r"00001\.parquet: lacks the columns answer, box; only data sets"):
        read_hub_dataset(copy, tmp_path / "back")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_hub_dataset(tmp_path / "nowhere", tmp_path / "back")


@pytest.mark.parametrize(
    ("configuration", "changes", "message"),
    [
        ("questions", {"question": "What else?"}, r"differs from the question set that was pushed: questions\.jsonl"),
        ("questions", {"question": ""}, r"parquet, row 0: 'question' must be a non-empty string"),
        ("questions", {"image_id": 77}, r"parquet, row 0: image 77 is not in the table annotations"),
        ("questions", {"choice_parts": []}, r"parquet, row 0: zip\(\) argument 2 is shorter"),
        ("questions", {"image": None}, r"parquet, row 0: a value is of the wrong type"),
        ("annotations", {"file_name": "../evil.png"}, r"parquet, row 0: 'file_name' .* leaves the image folder"),
        ("annotations", {"object": "rocket"}, r"differs from the question set that was pushed: annotations\.json"),
        ("annotations", {"width": 21}, r"parquet, row 0: .*mask"),
        (
            "other_images",
            {"image": {"bytes": b"x", "path": "x"}},
            r"pushed: images/deep/ü \d+\.png: this image was changed",
        ),
    ],
)
def test_a_changed_data_set_is_refused(
    published: Path, tmp_path: Path, configuration: str, changes: Mapping[str, Any], message: str
) -> None:
    copy = _copy(published, tmp_path / "copy")
    _edit(_table(copy, configuration), changes)
    with pytest.raises(ValueError, match=message):
        read_hub_dataset(copy, tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_a_half_downloaded_data_set_is_refused(published: Path, tmp_path: Path) -> None:
    copy = _copy(published, tmp_path / "copy")
    path = _table(copy, "questions")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"not a readable Parquet file .*download the data set again"):
        read_hub_dataset(copy, tmp_path / "back")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="holds 0 of the Parquet files of the split val"):
        read_hub_dataset(copy, tmp_path / "back")
    copy = _copy(
        published, tmp_path / "again", without=_table(published, "other_images").relative_to(published).as_posix()
    )
    with pytest.raises(ValueError, match=r"the image deep/ü \d+\.png is in none of its tables"):
        read_hub_dataset(copy, tmp_path / "back")
    (copy / "partonomy.json").write_text("{}")
    with pytest.raises(ValueError, match=r"partonomy\.json: the key 'format' is missing; download"):
        read_hub_dataset(copy, tmp_path / "back")


def test_the_commands_say_what_to_install(
    original: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    output = str(tmp_path / "out")
    for command in (
        ["push-dataset", str(original), "--license", "mit", "--output", output],
        ["pull-dataset", str(published), output],
    ):
        assert main(command) == 1
        assert "needs pyarrow: pip install 'plum-partonomy[hub]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
