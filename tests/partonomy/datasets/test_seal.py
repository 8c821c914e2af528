"""A data set folder whose files were changed since it was built is refused by every command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets.curation.check import CheckConfig, check_folder
from partonomy.datasets.seal import list_changes
from partonomy.datasets.store import load_dataset, load_questions

FLAGS = ["--source", "synthetic", "--images", "4", "--image_size", "64", "--embedding_model", "char-ngram-tfidf"]
CHECK = CheckConfig(headers_only=True)


def build(folder: Path, *flags: str) -> int:
    return main(["build", *FLAGS, "--output", str(folder), *flags])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "set"
    assert build(folder) == 0
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "set"
    for path in original.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(original)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


def questions_changed(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], Path]:
    def apply(folder: Path) -> Path:
        path = folder / "questions.jsonl"
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
        return path

    return apply


def edit_a_mask(folder: Path) -> Path:
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    part = next(one for one in content["annotations"] if one["id"] != one["obj_ann_id"])
    other = next(one for one in reversed(content["annotations"]) if one["segmentation"] != part["segmentation"])
    part["segmentation"]["counts"] = other["segmentation"]["counts"]
    path.write_text(json.dumps(content))
    return path


def replace_an_image(folder: Path) -> Path:
    path = sorted((folder / "images").rglob("*.*"))[0]
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size).save(path)
    return path


def keep_the_size(folder: Path) -> Path:
    path = folder / "questions.jsonl"
    content = path.read_bytes()
    at = content.index(b'"question":"') + len(b'"question":"')
    path.write_bytes(content[:at] + content[at : at + 1].swapcase() + content[at + 1 :])
    assert path.read_bytes() != content
    return path


CHANGES = {
    "cut": questions_changed(lambda lines: lines[:-2]),
    "emptied": questions_changed(lambda lines: []),
    "half a line": questions_changed(lambda lines: [*lines[:-1], lines[-1][:40]]),
    "a line twice": questions_changed(lambda lines: [*lines, lines[0]]),
    "swapped lines": questions_changed(lambda lines: lines[::-1]),
    "an edited word": keep_the_size,
    "an edited mask": edit_a_mask,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_folder_is_refused_by_every_command(
    folder: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = CHANGES[name](folder)
    commands = [
        ["build", *FLAGS, "--output", str(folder)],
        ["run", "partonomy", "--questions", str(folder), "--model", "random", "--output", str(tmp_path / "run")],
        ["describe", str(folder), "--output", str(tmp_path / "described")],
        ["stats", str(folder)],
        ["prune", str(folder), "--output", str(tmp_path / "pruned")],
        ["merge", str(folder), "--output", str(tmp_path / "merged")],
        ["split", str(folder), "--output_train", str(tmp_path / "train"), "--output_val", str(tmp_path / "val")],
        ["build", "--source", "dataset", "--images", str(folder), "--output", str(tmp_path / "other")],
        ["export", "--questions", str(folder), "--output", str(tmp_path / "out.json")],
    ]
    for command in commands:
        capsys.readouterr()
        assert main(command) == 1, command
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"error: {changed}: was changed since it was built ("), command
        assert last.endswith(f"to keep the change on purpose: python -m partonomy seal {folder}")
    assert main(["check", str(folder), "--headers_only"]) == 2
    printed = capsys.readouterr().out
    assert "file changed since the build" in printed
    assert str(changed) in printed


def test_an_image_of_another_size_is_found(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A run goes on, as with an image that cannot be read, but says so."""
    path = replace_an_image(folder)
    assert [change.split(": ")[0] for change in list_changes(folder)] == [str(path)]
    assert build(folder) == 1
    assert f"error: {path}: this image was changed since" in capsys.readouterr().err
    run = ["run", "partonomy", "--questions", str(folder), "--model", "random", "--output", str(tmp_path / "run")]
    assert main(run) == 0
    assert f"{path}: this image was changed since" in caplog.text
    assert any(str(path) in finding.detail for finding in check_folder(folder, CHECK).findings)


def test_a_missing_file_is_a_change_and_a_missing_image_is_not(folder: Path) -> None:
    sorted((folder / "images").rglob("*.*"))[0].unlink()
    assert list_changes(folder) == []
    (folder / "questions.jsonl").unlink()
    with pytest.raises(ValueError, match=r"questions\.jsonl: is missing, but was there when the folder was built"):
        load_dataset(folder)


def test_an_unchanged_folder_has_no_finding(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_changes(folder) == []
    assert main(["seal", str(folder)]) == 0
    assert "unchanged since it was built, nothing to do" in capsys.readouterr().out
    assert build(folder) == 0
    assert "already built with these settings, nothing to do" in capsys.readouterr().out


def test_overwrite_builds_a_changed_folder_again(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("*.json*")}
    CHANGES["cut"](folder)
    assert build(folder, "--overwrite") == 0
    after = {path.name: path.read_bytes() for path in folder.glob("*.json*")}
    assert after["questions.jsonl"] == before["questions.jsonl"]
    assert json.loads(after["build.json"])["files"] == json.loads(before["build.json"])["files"]


def test_seal_accepts_a_change_and_counts_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CHANGES["cut"](folder)
    assert main(["seal", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert f"accepted: {folder / 'questions.jsonl'}: was changed since it was built" in printed
    built = json.loads((folder / "build.json").read_text())
    assert sum(built["num_questions"].values()) == len(load_questions(folder).questions)
    assert built["edited"] is True
    assert build(folder) == 0
    assert "then edited by hand (--overwrite builds it anew)" in capsys.readouterr().out
    assert build(folder, "--overwrite") == 0
    assert "edited" not in json.loads((folder / "build.json").read_text())


@pytest.mark.parametrize("name", ["half a line", "a line twice"])
def test_seal_refuses_a_broken_folder(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    CHANGES[name](folder)
    before = (folder / "build.json").read_bytes()
    assert main(["seal", str(folder)]) == 1
    assert "questions.jsonl, record" in capsys.readouterr().err
    assert (folder / "build.json").read_bytes() == before


def test_a_folder_without_hashes_is_read_with_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Folders by earlier versions."""
    path = folder / "build.json"
    content = json.loads(path.read_text())
    del content["files"]
    path.write_text(json.dumps(content))
    CHANGES["cut"](folder)
    caplog.set_level("INFO")
    load_questions(folder)
    load_questions(folder)
    assert [record.message for record in caplog.records if "without hashes" in record.message] == [
        f"{folder}: by an earlier version, without hashes: changes are not noticed (python -m partonomy seal)"
    ]
    assert any("no hashes" in remark for remark in check_folder(folder, CHECK).remarks)
    assert main(["seal", str(folder)]) == 0
    assert "edited" not in json.loads(path.read_text())
    assert list_changes(folder) == []


@pytest.mark.parametrize("seal", [3, {"questions.jsonl": 3}, {"other": {}}, {"images": {"a.png": "big"}}])
def test_a_broken_seal_is_named(folder: Path, seal: object) -> None:
    path = folder / "build.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": seal}))
    with pytest.raises(ValueError, match=r"build\.json: 'files' is broken: "):
        load_dataset(folder)


def test_derived_folders_are_sealed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pruned = tmp_path / "pruned"
    assert main(["prune", str(folder), "--output", str(pruned), "--min_annotations", "1"]) == 0
    load_dataset(pruned)
    changed = edit_a_mask(pruned)
    assert main(["describe", str(pruned), "--output", str(tmp_path / "described")]) == 1
    assert f"error: {changed}: was changed since it was built" in capsys.readouterr().err
    assert main(["seal", str(pruned)]) == 0
    load_dataset(pruned)


def test_an_import_is_sealed_anew(folder: Path, tmp_path: Path) -> None:
    assert main(["export", "--questions", str(folder), "--output", str(tmp_path / "out.json")]) == 0
    for flags in ([], ["--merge"]):
        target = tmp_path / f"imported{len(flags)}"
        if flags:
            assert (
                main(["import", "--questions", str(tmp_path / "out.json"), "--output", str(target), "--shard", "1/1"])
                == 0
            )
        assert main(["import", "--questions", str(tmp_path / "out.json"), "--output", str(target), *flags]) == 0
        assert list_changes(target) == []
        CHANGES["cut"](target)
        with pytest.raises(ValueError, match="was changed since it was built"):
            load_questions(target)
