"""The README's commands parse and its map is complete."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.readme_commands import ROOT, bash_commands, parse_command

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = bash_commands(README)
MAPPED_FOLDERS = ("plum", "partonomy", "scripts", "configs")
MAPPED_SUFFIXES = {".py", ".sh", ".yaml", ".j2", ".csv"}
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))


def read_map() -> dict[str, str]:
    """The map's files with their phrases; folders are lines that end in a slash, indentation nests."""
    block = README.split("## Map", 1)[1].split("```text\n", 1)[1].split("```", 1)[0]
    entries: dict[str, str] = {}
    folders: list[str] = []
    for line in filter(str.strip, block.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, phrase = line.strip().partition(" ")
        path = "/".join([*folders[:depth], name.rstrip("/")])
        if name.endswith("/"):
            folders[depth:] = [name.rstrip("/")]
        if phrase or not name.endswith("/"):
            assert path not in entries, f"{path} stands twice in the map"
            entries[path] = phrase.strip()
    return entries


def test_blocks_are_found_and_cover_every_program() -> None:
    assert len(COMMANDS) > 12
    known = {parse_command(shlex.split(command, comments=True)) for command in COMMANDS}
    assert known >= {"-m partonomy", "-m plum", "validate_partonomy.py", "script", "train script"}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str) -> None:
    parse_command(shlex.split(command, comments=True))


@pytest.mark.parametrize(
    "command",
    [
        "python -m partonomy build --source synthetic --images 5",
        "python -m plum segment --checkpoint x --image y --output z --questions what",
        "python validate_partonomy.py --model plum --question data --output run",
        "bash scripts/train_plum_ft.sh configs/plum_13b_ft.yaml --optimiser.learning_rate 1",
        "bash scripts/nothing.sh",
    ],
)
def test_a_wrong_command_would_be_noticed(command: str) -> None:
    with pytest.raises((SystemExit, ValueError, KeyError)):
        parse_command(shlex.split(command))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_bash_and_says_what_it_is_for(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    first, second, *_ = script.read_text(encoding="utf-8").splitlines()
    assert first == "#!/usr/bin/env bash"
    assert second.startswith("# ")


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_commands_in_yaml_headers_parse(path: Path) -> None:
    header = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    commands = [re.sub(r"^Command:\s*", "", line) for line in header if line.startswith(("Command:", "python "))]
    is_overlay = path.parent.name in ("ablations", "sisters") and path.stem != "base"
    assert bool(commands) != is_overlay
    for command in commands:
        words = shlex.split(re.sub(r"\s+\(.*\)$", "", command))
        if words[0] == "deepspeed":
            words[0] = "python"
        parse_command(words)


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_map_names_only_what_exists_and_says_what_it_is() -> None:
    entries = read_map()
    assert [path for path in entries if not (ROOT / path).exists()] == []
    assert [path for path, phrase in entries.items() if not phrase] == []


def test_map_is_complete() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *MAPPED_FOLDERS, "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: tracked files are unknown")
    files = {
        path
        for path in listed.stdout.splitlines()
        if Path(path).suffix in MAPPED_SUFFIXES and Path(path).name != "__init__.py" and not path.startswith("tests/")
    }
    assert len(files) > 100
    # A file deleted but not yet committed is still listed by git.
    assert sorted(path for path in files - read_map().keys() if (ROOT / path).exists()) == []
