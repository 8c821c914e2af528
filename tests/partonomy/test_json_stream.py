"""Reading large JSON files record by record."""

import itertools
import json
from math import nan as NAN
from pathlib import Path

import pytest

from partonomy import files as json_stream
from partonomy.files import (
    MissingListsError,
    compact_json,
    iterate_lists,
    iterate_records,
    iterate_tables,
    read_json,
    write_json,
)

CONTENT = {
    "info": {"images": [1, 2], "year": 2022},
    "annotations": [{"id": 1, "text": 'a "quoted" ] } text, \\ and ü'}, {"id": -2.5e3, "nested": [[1, [2]], {}]}, 7],
    "empty": [],
    "other": [[1], [2]],
    "images": [{"id": number} for number in range(30)],
    "last": None,
}


def write(folder: Path, text: str) -> Path:
    path = folder / "file.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_records_are_the_same_however_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", chunk)
    path = write(tmp_path, json.dumps(CONTENT, indent=indent, ensure_ascii=False))
    found = list(iterate_lists(path, ("images", "annotations", "empty", "absent")))
    assert found == [("annotations", one) for one in CONTENT["annotations"]] + [
        ("images", one) for one in CONTENT["images"]
    ]


@pytest.mark.parametrize("text", ["{}", " { } \n", '{"images": []}', "\ufeff{}"])
def test_files_without_records(tmp_path: Path, text: str) -> None:
    assert list(iterate_lists(write(tmp_path, text), ("images",))) == []


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the top-level object: expected {, found the end of the file"),
        ("[]", r"expected \{, found \["),
        ('{"images": {}}', "'images' must be a list"),
        ('{"images": [1, 2', "record 1 of 'images': expected ], found the end of the file"),
        ('{"images": [{"a": 1}, {"a" 2}]}', "record 1 of 'images': Expecting ':' delimiter, near character 27"),
        ('{"images": ["a]}', "record 0 of 'images': Unterminated string"),
        ('{"images": [1] "b": 2}', 'the top-level object: expected }, found "'),
        ('{"images": [1]} x', "expected the end of the file, found x"),
        ("{1: 2}", 'expected ", found 1'),
        ('{"images": [tru]}', "record 0 of 'images': Expecting value"),
    ],
)
def test_broken_files_are_named_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", chunk)
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=reason) as caught:
        list(iterate_lists(path, ("images",)))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("chunk", [1, 3, 64, 1 << 20])
def test_a_file_that_is_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", chunk)
    records = [{"id": 1, "text": 'a "quoted" ] } text'}, [[1]], -2.5e3, None]
    assert list(iterate_records(write(tmp_path, json.dumps(records, indent=1)))) == records
    assert list(iterate_records(write(tmp_path, " [ ] \n"))) == []
    for text, reason in (
        ("{}", r"the list: expected \[, found \{"),
        ("[1, 2", "record 1: expected ], found the end of the file"),
        ("[1] 2", "record 0: expected the end of the file, found 2"),
        ("", r"the list: expected \[, found the end of the file"),
    ):
        path = write(tmp_path, text)
        with pytest.raises(ValueError, match=reason) as caught:
            list(iterate_records(path))
        assert str(path) in str(caught.value)


def test_a_deeply_nested_record_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, '{"images": [' + "[" * 100_000 + "]" * 100_000 + "]}")
    with pytest.raises(ValueError, match="record 0 of 'images': nested too deeply"):
        list(iterate_lists(path, ("images",)))


def test_other_encodings_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"images": ["\xe4"]}')
    with pytest.raises(ValueError, match=r"latin\.json: not valid JSON.*not UTF-8"):
        list(iterate_lists(path, ("images",)))
    with pytest.raises(FileNotFoundError, match=r"none\.json: annotation file not found"):
        list(iterate_lists(tmp_path / "none.json", ("images",)))


def test_only_a_part_of_the_file_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 records of some 1,000 characters, read in steps of 2,000: the buffer holds a few records, not a million."""
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", 2000)
    path = write(tmp_path, json.dumps({"images": ["x" * 1000] * 1000}))
    sizes = []
    read_more = json_stream._Buffer._read_more

    def watch(buffer: json_stream._Buffer) -> bool:
        more = read_more(buffer)
        sizes.append(len(buffer._text))
        return more

    monkeypatch.setattr(json_stream._Buffer, "_read_more", watch)
    assert sum(1 for _ in iterate_lists(path, ("images",))) == 1000
    assert max(sizes) < 5000


TABLES = ("first", "second", "long")


@pytest.mark.parametrize("order", list(itertools.permutations([*TABLES, "other"])))
def test_tables_come_in_the_given_order_wherever_they_are(tmp_path: Path, order: tuple[str, ...]) -> None:
    content = {"first": [1, 2], "second": [], "long": [{"a": [3]}, 4], "other": {"long": [5]}}
    path = write(tmp_path, json.dumps({name: content[name] for name in order}))
    found = list(iterate_tables(path, TABLES))
    assert found == [("first", 1), ("first", 2), ("long", {"a": [3]}), ("long", 4)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "expected a JSON object, got list"),
        ("", r"not valid JSON \("),
        ('{"first": [], "second": [], "long": [], "first": []}', r"not valid JSON \(the key 'first' occurs twice"),
        ('{"first": [], "second": [], "long": [{"a": 1, "a": 2}]}', r"not valid JSON \(the key 'a' occurs .* record 0"),
        ('{"first": [], "second": [], "long": [1 2]}', r"not valid JSON \(expected \], found 2; record 0 of 'long'"),
        ('{"first": [], "second": [], "long": []', r"not valid JSON \(expected }, found the end of the file"),
    ],
)
def test_tables_are_refused_for_what_a_whole_file_is_refused_for(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)
    for read in (lambda: list(iterate_tables(path, TABLES)), lambda: list(compact_json(path)), lambda: read_json(path)):
        with pytest.raises(ValueError, match="expected a JSON object" if text == "[]" else "not valid JSON"):
            read()
    with pytest.raises(ValueError, match=reason):
        list(iterate_tables(path, TABLES))


def test_missing_tables_are_named(tmp_path: Path) -> None:
    for text, names in (('{"long": []}', ("first", "second")), ('{"first": {}, "second": []}', ("first",))):
        with pytest.raises(MissingListsError) as caught:
            list(iterate_tables(write(tmp_path, text), TABLES))
        assert caught.value.names == names


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_an_object_is_written_again_as_a_whole_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", chunk)
    for content in (CONTENT, {}, {"empty": [], "half": "\ud800", "ü": [NAN, "\u2028"]}):
        path = write(tmp_path, "\ufeff" + json.dumps(content, indent=3))
        write_json(tmp_path / "whole.json", json.loads(json.dumps(content)))
        assert b"".join(compact_json(path)) + b"\n" == (tmp_path / "whole.json").read_bytes()
