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
OF_CLUSTERS = ("many_machines.md", "train/multi_node_slurm.md")
DOCUMENTS = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
PAGES = {name: text for name, text in DOCUMENTS.items() if name not in OF_CLUSTERS}
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


def find_links(text: str) -> list[str]:
    """The targets of a text's links and pictures, those on the web apart."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]


def anchors(text: str) -> set[str]:
    """The names under which a page's headings can be linked to."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


GENERATED = ("config.md", "cli.md", "api.md")
"""Pages that exist on the site alone; tests/test_site.py follows the links to them."""


@pytest.mark.parametrize("page", ["../README.md", "../CHANGELOG.md", *DOCUMENTS])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / "docs" / page
    links = find_links(path.read_text(encoding="utf-8"))
    assert links or page != "../README.md"
    for link in links:
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if target.name in GENERATED and not target.exists():
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 200


def test_the_readmes_model_is_called_what_it_is() -> None:
    """Nobody should take the quickstart's model for one that knows photographs."""
    status = README.split("\n## Status\n")[1].split("\n## ")[0]
    assert "toy" in status
    assert "No trained 7B or 13B weights are shipped" in status
