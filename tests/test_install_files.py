"""The Dockerfile and the conda file install what requirements.txt pins.

Neither is built here: hadolint lints the Dockerfile, and both files are parsed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.readme_commands import ROOT

INSTALL = ROOT / "docs" / "install"
INSTRUCTIONS = {"FROM", "ARG", "SHELL", "RUN", "WORKDIR", "COPY", "ENV", "CMD"}


def _instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and their arguments, with continued lines joined."""
    lines = [line for line in (INSTALL / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def test_the_dockerfile_is_sound() -> None:
    instructions = _instructions()
    assert {name for name, _ in instructions} <= INSTRUCTIONS
    assert instructions[0][0] == "FROM"
    image = instructions[0][1]
    assert re.fullmatch(r"[a-z]+:[\w.-]+", image), "the image has a tag"
    assert not image.endswith(":latest")
    for name, arguments in instructions:
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", arguments], check=True)
        if name == "COPY":
            *sources, _ = shlex.split(arguments)
            assert all(source == "." or list(ROOT.glob(source)) for source in sources), sources


def test_the_dockerfile_installs_the_pinned_requirements_before_the_code() -> None:
    instructions = _instructions()
    (install,) = [place for place, (_, words) in enumerate(instructions) if "pip install" in words]
    words = shlex.split(instructions[install][1])
    assert words[words.index("--requirement") + 1] == "requirements.txt"
    copied = {words: place for place, (name, words) in enumerate(instructions) if name == "COPY"}
    assert copied["requirements*.txt ./"] < install < copied[". ."]  # a changed file of code installs nothing anew


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not installed (requirements-dev.txt); the other tests parse the Dockerfile")
    found = subprocess.run([program, INSTALL / "Dockerfile"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_the_conda_file_installs_the_pinned_requirements() -> None:
    content = yaml.safe_load((INSTALL / "environment.yml").read_text())
    assert set(content) == {"name", "channels", "dependencies"}
    (from_pypi,) = [one["pip"] for one in content["dependencies"] if isinstance(one, dict)]
    assert "pip" in content["dependencies"]
    (line,) = from_pypi
    flag, path = line.split()
    assert flag == "--requirement"
    assert (INSTALL / path).resolve() == ROOT / "requirements.txt"  # conda reads paths from the file's own folder


@pytest.mark.parametrize("name", ["Dockerfile", "environment.yml"])
def test_both_take_a_python_that_the_project_supports(name: str) -> None:
    text = (INSTALL / name).read_text()
    (version,) = re.findall(r"python[:=](\d+\.\d+)", text)
    (lowest,) = re.findall(r'requires-python = ">=(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


def test_paths_in_the_comments_exist() -> None:
    for name in ("Dockerfile", "environment.yml"):
        for path in re.findall(r"(?:--file|EXTRA=)\s*(\S+\.\w+|docs/\S+)", (INSTALL / name).read_text()):
            assert Path(ROOT / path).is_file(), path
