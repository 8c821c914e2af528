"""Files that this project wrote itself are read strictly: no value is converted, and the message names the place."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from partonomy.cli.stats import stats
from partonomy.datasets.curation.derived import read_input
from partonomy.datasets.kept_values import kept_counts
from partonomy.datasets.photographs import read_training_images
from partonomy.datasets.published_records import sidecar_path
from partonomy.datasets.record_exchange import read_exported
from partonomy.datasets.shard_results import ShardResults
from partonomy.datasets.store import DatasetOrigin, load_dataset, save_dataset
from partonomy.files import convert_json, hash_files, read_json_as
from partonomy.harness.provenance import read_code_states, read_marks, read_merged, read_model_description
from partonomy.harness.ranks import RANKS_FILE, Rank, sign_off, sign_on
from partonomy.models.chat_endpoint import AnswerCache
from partonomy.models.contract import ModelUnavailable
from partonomy.names import CallbackComparator, SynonymFileComparator
from partonomy.questions.build_config import QuestionBuildConfig
from partonomy.questions.fits import load_fits
from partonomy.questions.question_writer import QuestionWriter
from partonomy.questions.sharded_build import read_preparation
from partonomy.reporting.loss_curves import read_curves
from partonomy.reporting.paper_tables.tag_table import read_tag_scores
from partonomy.sharding import Shard
from tests.partonomy.tiny_world import make_dataset, make_image, make_instance

Json = Any


class Row(msgspec.Struct):
    """A row of a file."""

    id: int
    name: str
    share: float = 0.0
    is_whole: bool = True
    note: str | None = None


class Content(msgspec.Struct):
    """A file."""

    rows: list[Row]
    counts: dict[str, int] = {}


GOOD = {"id": 1, "name": "wing"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "'rows' is missing"),
        ([], "the content must be an object, got []"),
        ({"rows": None}, "'rows' must be a list, got None"),
        ({"rows": [GOOD, 5]}, "rows[1] must be an object, got 5"),
        ({"rows": [{"id": 1}]}, "rows[0]: 'name' is missing"),
        ({"rows": [GOOD | {"id": "1"}]}, "rows[0]: 'id' must be an integer, got '1'"),
        ({"rows": [GOOD | {"id": 1.0}]}, "rows[0]: 'id' must be an integer, got 1.0"),
        ({"rows": [GOOD | {"id": True}]}, "rows[0]: 'id' must be an integer, got True"),
        ({"rows": [GOOD | {"name": None}]}, "rows[0]: 'name' must be a text, got None"),
        ({"rows": [GOOD | {"share": "0.5"}]}, "rows[0]: 'share' must be a number, got '0.5'"),
        ({"rows": [GOOD | {"is_whole": 1}]}, "rows[0]: 'is_whole' must be true or false, got 1"),
        ({"rows": [GOOD | {"note": 1}]}, "rows[0]: 'note' must be a text or null, got 1"),
        ({"rows": [], "counts": {"a": "1"}}, "counts[...] must be an integer"),
    ],
)
def test_a_mismatch_is_named_with_its_place(content: Json, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"some.json: {message}; write it again")) as caught:
        convert_json(content, Content, "some.json", "write it again")
    assert "\n" not in str(caught.value)


def test_a_good_value_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"rows": [GOOD], "further": 1}))
    assert read_json_as(path, Content, "write it again").rows == [Row(1, "wing")]
    path.write_text("{")
    with pytest.raises(ValueError, match=r"some\.json: not valid JSON .*; write it again$"):
        read_json_as(path, Content, "write it again")
    with pytest.raises(FileNotFoundError, match=r"other\.json: not found"):
        read_json_as(tmp_path / "other.json", Content, "write it again")


ORIGIN = {"id": 1, "source": "q", "source_id": 7, "source_file_name": "7.png"}


@pytest.fixture
def derived(tmp_path: Path) -> Path:
    dataset = make_dataset(tmp_path / "photos", [make_image(1, make_instance(1, "jet", ("wing",))), make_image(2)])
    save_dataset(dataset, tmp_path / "set", DatasetOrigin("prune"))
    write_origins(tmp_path / "set", [ORIGIN, ORIGIN | {"id": 2, "source_id": 8}])
    return tmp_path / "set"


def write_origins(folder: Path, rows: Json) -> None:
    (folder / "curation.json").write_text(json.dumps({"images": rows}))


def test_origins_are_read(derived: Path) -> None:
    origins = read_input(derived).origins
    assert {number: (one.source, one.image_id) for number, one in origins.items()} == {1: ("q", 7), 2: ("q", 8)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows[1].pop("source"), "images[1]: 'source' is missing"),
        (lambda rows: rows[1].update(source_id="q"), "images[1]: 'source_id' must be an integer, got 'q'"),
        (lambda rows: rows[1].update(source_id=5.7), "images[1]: 'source_id' must be an integer, got 5.7"),
        (lambda rows: rows[0].update(id="1"), "images[0]: 'id' must be an integer, got '1'"),
        (lambda rows: rows[0].update(id=99), "images[0]: 'id': annotations.json has no image 99"),
        (lambda rows: rows[1].update(id=1), "images[1]: 'id': the image 1 occurs twice"),
        (lambda rows: rows[0].update(source=None), "images[0]: 'source' must be a text, got None"),
        (lambda rows: rows[0].update(source=""), "images[0]: 'source' must be a non-empty string, got ''"),
        (lambda rows: rows[0].update(source_file_name=3), "images[0]: 'source_file_name' must be a text, got 3"),
        (lambda rows: rows.pop(), "'images' has no row for the image 2"),
        (lambda rows: rows.append(None), "images[2] must be an object, got None"),
    ],
)
def test_a_damaged_origin_is_named(derived: Path, damage: Callable[[Json], object], message: str) -> None:
    rows = [dict(ORIGIN), ORIGIN | {"id": 2, "source_id": 8}]
    damage(rows)
    write_origins(derived, rows)
    cure = "make the data set again with `python -m partonomy prune`, `merge` or `split`"
    with pytest.raises(ValueError, match=re.escape(f"{derived / 'curation.json'}: {message}; {cure}")):
        read_input(derived)


@pytest.mark.parametrize("content", [{}, {"images": {}}])
def test_a_curation_file_without_rows_is_named(derived: Path, content: Json) -> None:
    (derived / "curation.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"curation\.json: 'images' (is missing|must be a list, got {}); make the data"
    ):
        read_input(derived)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_id", True, "image True does not exist"),
        ("category_id", 1.0, r"category 1\.0 does not exist"),
        ("obj_ann_id", "1", "'obj_ann_id' must be an integer, got '1'"),
        ("obj_ann_id", True, "'obj_ann_id' must be an integer, got True"),
    ],
)
def test_references_of_annotations_are_integers(derived: Path, key: str, value: Json, message: str) -> None:
    path = derived / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][-1][key] = value  # the part
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"annotations\.json, annotation \d+: {message}"):
        load_dataset(derived)


class ShardContent(msgspec.Struct):
    """The content of a shard."""

    count: int


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "5"}, "'count' must be an integer, got '5'"),
        ({"count": None}, "'count' must be an integer, got None"),
        ({"shard": "2/2"}, "'shard' must be '1/2', got '2/2'"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, change: Json, message: str) -> None:
    results = ShardResults(tmp_path, "work", {"seed": 1})
    for shard in (Shard(0, 2), Shard(1, 2)):
        results.write(shard, {"count": 3})
    assert [content.count for _, content in results.read_all(ShardContent)] == [3, 3]
    path = results.path(Shard(0, 2))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    cure = "delete it and run --shard 1/2 again"
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}; {cure}")):
        results.read_all(ShardContent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": ["a"]}, "'keys' must be an object"),
        ({"keys": {"a": "1"}}, "must be an integer"),
        ({"united": "1"}, "'united' must be an integer, got '1'"),
        ({"reordered": None}, "'reordered' must be an integer, got None"),
    ],
)
def test_damaged_counts_of_kept_values_are_named(change: Json, message: str) -> None:
    good = {"keys": {"a": 1}, "reordered": 0, "united": 0, "united_parts": 0}
    assert kept_counts({"kept_values": good}, Path("build.json")).keys == Counter(a=1)
    with pytest.raises(ValueError, match=rf"build\.json: 'kept_values': .*{message}.*; import the record file again"):
        kept_counts({"kept_values": good | change}, Path("build.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "'name' must be a text, got None"),
        ({"dtype": 16}, "'dtype' must be a text or null, got 16"),
        ({"marks": {"note": 3}}, "marks: 'note' must be a text, got 3"),
        ({"marks": {"has_mask_per_phrase": "no"}}, "marks: 'has_mask_per_phrase' must be true or false, got 'no'"),
    ],
)
def test_a_damaged_model_description_is_named(tmp_path: Path, change: Json, message: str) -> None:
    good = {"name": "m", "dtype": None, "device": None}
    path = tmp_path / "model.json"
    path.write_text(json.dumps(good))
    description = read_model_description(tmp_path)
    assert description is not None
    assert description.name == "m"
    assert read_code_states(tmp_path) == []
    path.write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}; delete the file")):
        read_model_description(tmp_path)


def test_damaged_code_states_and_merged_runs_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"code": [{"commit": "a", "is_modified": "no"}]}))
    with pytest.raises(ValueError, match=r"model\.json: code\[0\]: 'is_modified' must be true or false or null"):
        read_code_states(tmp_path)
    (tmp_path / "merged_from.json").write_text(json.dumps([{"path": "a", "shard": None, "model": None}]))
    with pytest.raises(ValueError, match=r"merged_from\.json: \[0\]: 'num_records' is missing; merge the runs again"):
        read_merged(tmp_path)
    with pytest.raises(ValueError, match="'answer_marks': 'note' must be a text, got 1; resume the run"):
        read_marks({"answer_marks": {"note": 1}})


@pytest.mark.parametrize("content", ["[]", '{"[\\"a\\", \\"b\\"]": "yes"}', '{"[\\"a\\", \\"b\\"]": 1}', "{"])
def test_a_damaged_file_of_name_answers_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"answers\.json: .*; delete it to ask all pairs again"):
        CallbackComparator(lambda pairs: [True] * len(pairs), path, "letters")
    if content.startswith("{"):
        with pytest.raises(ValueError, match=r"answers\.json: not a JSON file of synonyms"):
            SynonymFileComparator(path)


@pytest.mark.parametrize("line", ['{"update": "1"}', '{"update": 1.5}', "{}", "5", "{"])
def test_a_damaged_line_of_metrics_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"update": 1, "loss_total": 2.0}}\n{line}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a training metric \(.*\); delete the line"):
        read_curves(path)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ({"left_out_annotations": [{"count": "1", "example_ids": [], "reason": "r"}]}, "'count' must be an integer"),
        ({"left_out_annotations": [{"count": 1, "reason": "r"}]}, "'example_ids' is missing"),
        ({"invalid_records": [{"record_index": 1}]}, "'reason' is missing"),
    ],
)
def test_what_a_build_left_out_is_read_strictly(derived: Path, build: Json, message: str) -> None:
    (derived / "build.json").write_text(json.dumps(build))
    with pytest.raises(ValueError, match=rf"build\.json: .*\[0\]: {message}.*; build the data set again"):
        stats([str(derived)])


def test_damaged_files_of_a_sharded_build_are_named(tmp_path: Path) -> None:
    (tmp_path / "fits.json").write_text('{"object_parts": {"jet": "wing"}}')
    with pytest.raises(ValueError, match=r"fits\.json: .*object_parts.* must be a list.*; prepare the build anew"):
        load_fits(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "prepared.json").write_text("{}")
    with pytest.raises(ValueError, match=r"prepared\.json: 'source' is missing; prepare anew"):
        read_preparation(tmp_path, QuestionBuildConfig(), {})


@pytest.mark.parametrize("line", ["5", "{}", '{"num_images": 1, "num_bytes": 0, "sha256": 3}', "\0\0", "\udcff"])
def test_a_damaged_step_of_a_build_is_made_again(tmp_path: Path, line: str) -> None:
    content = '{"inputs": "a"}\n' + line + "\n"
    (tmp_path / "build.progress.tmp").write_bytes(content.encode(errors="surrogateescape"))
    with QuestionWriter(tmp_path, "a") as writer:
        assert writer.num_images == 0
    assert (tmp_path / "build.progress.tmp").read_text() == '{"inputs": "a"}\n'


@pytest.mark.parametrize("content", ["[]", "{", '{"world_size": 2}', '{"world_size": 2, "finished": 5}'])
def test_a_damaged_list_of_finished_ranks_counts_as_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / RANKS_FILE).write_text(content)
    sign_on(tmp_path, Rank(0, 2))
    assert not sign_off(tmp_path, Rank(0, 2))
    assert sign_off(tmp_path, Rank(1, 2))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"num_images": "5"}, "'num_images' must be an integer, got '5'"),
        ({"num_images": 5.7}, r"'num_images' must be an integer, got 5\.7"),
        ({"num_images": 5, "tags": {"B": "0.5"}}, "must be a number or null"),
        ({"num_images": 5, "tags": {"B": 0.5}}, "the key 'I' is missing"),
    ],
)
def test_damaged_tag_accuracies_are_named(tmp_path: Path, entry: Json, message: str) -> None:
    (tmp_path / "teacher_forced.json").write_text(json.dumps({"explanatory": entry}))
    with pytest.raises(ValueError, match=rf"teacher_forced\.json, explanatory: not a result .*{message}.*run it again"):
        read_tag_scores(tmp_path)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"text": 1, "is_refusal": False}, "'text' must be a text, got 1"),
        ({"text": "a", "is_refusal": "no"}, "'is_refusal' must be true or false, got 'no'"),
        ({"text": "a"}, "'is_refusal' is missing"),
    ],
)
def test_a_damaged_answer_of_an_endpoint_is_named(tmp_path: Path, answer: Json, message: str) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "abc.json").write_text(json.dumps({"answer": answer}))
    with pytest.raises(ModelUnavailable, match=rf"abc\.json is not a cached answer: .*answer: {message}; delete it"):
        AnswerCache(tmp_path).find("abc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": {}}, "'questions' must be a list, got {}"),
        ({"questions": [1]}, r"questions\[0\] must be an object, got 1"),
        ({"build": []}, r"'build' must be an object or null, got \[\]"),
        ({"dataset": {"image_root": 3}}, "'image_root' must be a non-empty string, got 3"),
    ],
)
def test_damaged_annotations_next_to_records_are_named(tmp_path: Path, change: Json, message: str) -> None:
    record_file = tmp_path / "q.json"
    record_file.write_text("[]")
    good = {
        "record_sha256": hash_files([record_file]),
        "dataset": {"name": "q", "image_root": "."},
        "build": None,
        "questions": [],
        "annotations": {"images": [], "categories": [], "annotations": []},
    }
    sidecar_path(record_file).write_text(json.dumps(good))
    assert read_exported(record_file).images == ()
    sidecar_path(record_file).write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match=rf"{sidecar_path(record_file).name}: {message}; export both files again"):
        read_exported(record_file)


def test_a_list_of_training_images_is_read_strictly(tmp_path: Path) -> None:
    (tmp_path / "training_images.json").write_text('{"stages": [], "images": [1]}')
    with pytest.raises(ValueError, match=r"training_images\.json: not a list of training images \(images.*; delete it"):
        read_training_images(tmp_path)
