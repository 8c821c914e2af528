"""Names of objects and parts."""

from pathlib import Path

import pytest

from partonomy.names import clean_name, clean_names, read_text_map, split_part_name


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("airplanes--attack--part:jet_engine", "jet engine"), ("airplanes--attack", "attack"),
        ("car_(automobile)", "car"), ("trash_can", "trash can"), ("  Front__Door ", "front door"), ("(x)", "(x)"),
    ],
)  # fmt: skip
def test_clean_name(raw: str, name: str) -> None:
    assert clean_name(raw) == name


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'__' is empty once cleaned"):
        clean_name("__")


def test_qualifiers_stay_where_names_would_collide() -> None:
    names = clean_names(iter(["mouse_(animal)", "mouse_(device)", "car_(automobile)", "a--x"]), {"a--x": "big x"})
    assert names == {
        "mouse_(animal)": "mouse (animal)",
        "mouse_(device)": "mouse (device)",
        "car_(automobile)": "car",
        "a--x": "big x",
    }


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("car:side door", ("car", "side door")),
        ("airplanes--attack--part:nose", ("airplanes--attack", "nose")),
        ("wheel", (None, "wheel")),
    ],
)
def test_split_part_name(raw: str, expected: tuple[str | None, str]) -> None:
    assert split_part_name(raw) == expected


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": " "}', "{"])
def test_read_text_map_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(ValueError, match=r"map\.json: the name map file"):
        read_text_map(tmp_path / "map.json", "name map")
    with pytest.raises(FileNotFoundError, match=r"none\.json: name map file not found"):
        read_text_map(tmp_path / "none.json", "name map")


def test_the_level_above_stays_where_names_would_collide() -> None:
    objects = ["airplanes--attack", "helicopter--attack", "airplanes--private"]
    assert clean_names([*objects, "a--b--part:wing", "c--d--part:wing"], {}) == {
        "airplanes--attack": "attack (airplanes)",
        "helicopter--attack": "attack (helicopter)",
        "airplanes--private": "private",
        "a--b--part:wing": "wing",
        "c--d--part:wing": "wing",
    }
    # A name without a level keeps its own; spellings of one name below one level stay one name.
    assert set(clean_names(["attack", "airplanes--attack"], {}).values()) == {"attack", "attack (airplanes)"}
    assert set(clean_names(["boats--row_boat", "boats--row boat"], {}).values()) == {"row boat"}
    assert clean_names(["--attack", "x--attack"], {}) == {"--attack": "attack", "x--attack": "attack (x)"}
