"""Published record files as a source, in the folder layout of their download."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from partonomy.__main__ import main
from partonomy.datasets.concept_graph import build_concept_graph
from partonomy.datasets.record_exchange import export_records, sidecar_path
from partonomy.datasets.sources.partonomy_core import find_record_file, read_record_source
from partonomy.datasets.sources.records import CocoConfig
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from partonomy.structures import ObjectInstance
from tests.partonomy.datasets.published_files import box_rle, save_image, write_json
from tests.partonomy.tiny_world import make_vehicles

REAL_DATA = Path(os.environ.get("PARTONOMY_REAL_DATA", "no folder given"))


def record(image: str, label: str, parts: dict[str, tuple[int, int, int, int]]) -> dict[str, Any]:
    """A record of `partonomy_qa_pairs.json` about all parts of an object."""
    choices = [list(parts), ["something else"]]
    return {
        "image_path": f"images/{image}",
        "image_label": label,
        "question": "What visible parts does the object in the image have?",
        "question_type": "identification",
        "answer_choices": [f"The object has the following visible parts: {', '.join(names)}." for names in choices],
        "answer_types": ["correct", "incorrect"],
        "answer_parts": choices,
        "segmentations": {name: [box_rle(box)] for name, box in parts.items()},
        "object_question": None,
        "object_answer_choices": None,
        "object_answer_types": None,
        "object_answer_classes": None,
    }


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A folder with two boats and a ship in three images, one of them asked about twice."""
    records = [
        record("a.jpg", "boats--submarine", {"hull": (0, 0, 9, 9), "periscope": (3, 0, 1, 3)}),
        record("a.jpg", "boats--submarine", {"hull": (0, 0, 9, 9), "periscope": (3, 0, 1, 3)}),
        record("b.jpg", "ships--submarine", {"hull": (1, 1, 8, 8)}),
        record("c.jpg", "boats--shell (crew boat)", {"oar": (1, 1, 8, 8)}),
    ]
    for name in "abc":
        save_image(tmp_path / "core" / "images" / f"{name}.jpg")
    write_json(tmp_path / "core" / "partonomy_qa_pairs.json", records)
    return tmp_path / "core"


def read_objects(config: CocoConfig) -> list[ObjectInstance]:
    return [one for image in read_record_source(config).dataset.images for one in image.objects]


def test_every_instance_once_with_its_category(core: Path) -> None:
    reading = read_record_source(CocoConfig(core, core))
    assert (reading.dataset.name, reading.skipped) == ("core", ())
    assert [image.file_name for image in reading.dataset.images] == ["images/a.jpg", "images/b.jpg", "images/c.jpg"]
    objects = [one for image in reading.dataset.images for one in image.objects]
    # Two raw names would become "submarine": the level above tells them apart.
    assert [(one.label, one.category, [part.label for part in one.parts]) for one in objects] == [
        ("submarine (boats)", "boats", ["hull", "periscope"]),
        ("submarine (ships)", "ships", ["hull"]),
        ("shell", "boats", ["oar"]),
    ]


def test_a_name_map_may_unite_objects_of_two_categories(core: Path, tmp_path: Path) -> None:
    names = {"boats--submarine": "submarine", "ships--submarine": "submarine", "boats--shell (crew boat)": "crew boat"}
    objects = read_objects(CocoConfig(core, core, name_map=write_json(tmp_path / "names.json", names)))
    assert [(one.label, one.category) for one in objects] == [
        ("submarine", "boats"),
        ("submarine", "boats"),
        ("crew boat", "boats"),
    ]


def test_bad_records_are_collected_by_their_place(core: Path) -> None:
    (core / "images" / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"partonomy_qa_pairs\.json, record 2: .*b\.jpg: image file not found"):
        read_record_source(CocoConfig(core, core))
    reading = read_record_source(CocoConfig(core, core, invalid="collect"))
    assert len(reading.dataset.images) == 2
    assert [row.annotation_ids for row in reading.skipped] == [(2,)]


def test_which_file_of_a_folder_is_meant(core: Path) -> None:
    assert find_record_file(core) == core / "partonomy_qa_pairs.json"
    write_json(sidecar_path(core / "partonomy_qa_pairs.json"), {})
    assert find_record_file(core) == core / "partonomy_qa_pairs.json"
    write_json(core / "partonomy_qa_pairs_val.json", [])
    with pytest.raises(
        ValueError, match=r"several record files \(partonomy_qa_pairs\.json, partonomy_qa_pairs_val\.js"
    ):
        find_record_file(core)
    assert find_record_file(core / "partonomy_qa_pairs_val.json").name == "partonomy_qa_pairs_val.json"
    with pytest.raises(FileNotFoundError, match="no record file"):
        find_record_file(core / "images")
    with pytest.raises(FileNotFoundError, match="record file not found"):
        find_record_file(core / "none")


def test_import_takes_the_folder_and_build_asks_anew(core: Path, tmp_path: Path) -> None:
    assert main(["import", "--questions", str(core), "--output", str(tmp_path / "imported")]) == 0
    assert len(load_questions(tmp_path / "imported").questions) == 4
    flags = ["--source", "partonomy_core", "--images", str(core), "--output", str(tmp_path / "built")]
    assert main(["build", *flags, "--embedding_model", "char-ngram-tfidf", "--question_types", "identification"]) == 0
    objects = {one.label for image in load_dataset(tmp_path / "built").images for one in image.objects}
    assert objects == {"submarine (boats)", "submarine (ships)", "shell"}


def test_annotations_beside_a_record_file_keep_their_boxes(tmp_path: Path) -> None:
    dataset = make_vehicles(tmp_path / "set" / "images", num_images=6)
    first = dataset.images[0]
    marked = ObjectInstance(0, "airplane", "aircraft", first.objects[0].parts, None, (1, 2, 3, 4))
    images = (type(first)(first.image_id, first.file_name, first.height, first.width, (marked,)), *dataset.images[1:])
    config = QuestionBuildConfig(embedding_model="char-ngram-tfidf")
    build_questions(type(dataset)("tiny", dataset.image_root, images), config, tmp_path / "set")
    export_records(tmp_path / "set", tmp_path / "val_qa_pairs.json")
    objects = read_objects(CocoConfig(tmp_path / "val_qa_pairs.json", tmp_path))
    original = [one for image in load_dataset(tmp_path / "set").images for one in image.objects]
    assert objects == original
    assert [one.box for one in objects] == [(1, 2, 3, 4), *[None] * 5]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="PARTONOMY_REAL_DATA does not name a folder of photographs")
def test_the_real_name_map_of_partonomy_core(tmp_path: Path) -> None:
    """Every raw object name of Partonomy-Core, once, through the published map of 562 names."""
    path = REAL_DATA / "schema" / "partonomy_object_names_to_nl.json"
    names: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    assert len(names) == 562
    save_image(tmp_path / "images" / "a.jpg")
    records = [
        record("a.jpg", raw, {"part": (number % 20, number // 20 % 10, 2, 2)}) for number, raw in enumerate(names)
    ]
    write_json(tmp_path / "partonomy_qa_pairs.json", records)
    reading = read_record_source(CocoConfig(tmp_path, tmp_path, name_map=path))
    objects = reading.dataset.images[0].objects
    assert {one.label for one in objects} == set(names.values())
    graph = build_concept_graph(reading.dataset)  # raises where an object has two categories
    assert len(graph.objects) == len(set(names.values())) == 555
    assert graph.object_category["submarine"] == "boats"  # a boat and a ship in the map
    without_map = read_record_source(CocoConfig(tmp_path, tmp_path)).dataset.images[0].objects
    labels = [one.label for one in without_map]
    assert "agricultural (airplanes)" in labels
    assert "agricultural (drones)" in labels
