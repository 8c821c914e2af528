"""The commands of README and docs parse."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.readme_commands import ROOT, bash_commands, parse_command

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = bash_commands(README)
# The cluster's own commands are run by tests/test_many_machines.py.
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*.md"))
    if path.name != "many_machines.md"
}
PAGE_COMMANDS = sorted({(name, command) for name, text in PAGES.items() for command in bash_commands(text)})
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_blocks_are_found_and_cover_every_program() -> None:
    assert len(COMMANDS) > 12
    known = {parse_command(shlex.split(command, comments=True)) for command in COMMANDS}
    assert known >= {"-m partonomy", "-m plum", "validate_partonomy.py", "script", "train script"}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str) -> None:
    parse_command(shlex.split(command, comments=True))


@pytest.mark.parametrize(("page", "command"), PAGE_COMMANDS)
def test_command_of_a_page_parses(page: str, command: str) -> None:
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
    is_overlay = path.parent.name in ("ablations", "sisters", "loss_weights") and path.stem != "base"
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
