"""YAML files of settings are read strictly."""

import time
from pathlib import Path

import pytest

from partonomy.__main__ import main as partonomy
from partonomy.questions.templates import DEFAULT_TEMPLATES, load_templates
from partonomy.yaml_files import read_yaml, require_unique_keys
from plum.cli.main import main as plum
from plum.training.config_file import load_train_config

TWICE = "seed: 1\ngroup:\n  rate: 2\n  other: 3\n  rate: 4\n"


def test_a_repeated_key_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(TWICE)
    for read in (read_yaml, require_unique_keys):
        with pytest.raises(ValueError, match=r"a\.yaml, line 5: the key 'rate' occurs twice"):
            read(path)


@pytest.mark.parametrize("text", ["- {a: 1, a: 2}", "a: {b: [{c: 1, 'c': 2}]}", "1: a\n1: b", "a: 1\nb: 2\na: 3"])
def test_repeated_keys_at_any_depth(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match="occurs twice"):
        read_yaml(tmp_path / "a.yaml")


def test_other_files_are_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nmine: {<<: *base, a: 3}\nlist: [{a: 1}, {a: 2}]\n")
    content = read_yaml(path)
    assert (content["mine"], content["list"]) == ({"a": 3, "b": 2}, [{"a": 1}, {"a": 2}])
    path.write_text("")
    assert read_yaml(path) is None
    for bad in (b"a: [", b"\xff\xfe", b"!!python/object:os.system {}"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"a\.yaml: not YAML"):
            read_yaml(path)


def test_aliases_are_looked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    path.write_text("\n".join(lines))
    started = time.monotonic()
    require_unique_keys(path)
    assert time.monotonic() - started < 5


def test_every_reader_of_settings_refuses_repeated_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    expected = f"{path}, line 2: the key 'seed' occurs twice"
    commands = [
        lambda: partonomy(["build", "--config", str(path), "--source", "synthetic", "--output", str(tmp_path / "o")]),
        lambda: partonomy(["run", "partonomy", "--config", str(path)]),
        lambda: plum(["segment", f"--config={path}"]),
    ]
    for run in commands:
        assert run() == 1
        assert f"error: {expected}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the key 'seed' occurs twice"):
        load_train_config(["--config", str(path)])
    path.write_text(DEFAULT_TEMPLATES.read_text(encoding="utf-8") + "\npart_separator: ','\n")
    with pytest.raises(ValueError, match="the key 'part_separator' occurs twice"):
        load_templates(path)
