"""The package's metadata: ranges and pins agree, and everything imports without the optional packages."""

import json
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.readme_commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
BASE = [Requirement(line) for line in PROJECT["dependencies"]]
IMPORT_ALL = """
import importlib, json, pkgutil, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
import partonomy, plum
for package in (plum, partonomy):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith("plum.demo."):  # the web page is its extra's alone
            importlib.import_module(module.name)
"""
MODULES = (
    "deepspeed",
    "tensorboard",
    "num2words",
    "shtab",
    "mkdocs",
    "gradio",
    "playwright",
    "wandb",
    "trackio",
    "pyarrow",
    "datasets",
    "hypothesis",
)
"""What the extras install, as it is imported."""


def read_pins(name: str) -> dict[str, Version]:
    """The pinned versions of a requirements file; every line must pin one."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    pins = {}
    for requirement in (Requirement(line) for line in lines if line):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", str(requirement)
        pins[canonicalize_name(requirement.name)] = Version(specifier.version)
    return pins


def ranges(requirements: list[Requirement]) -> dict[str, Requirement]:
    """Requirements by name, without the project's own extras."""
    return {canonicalize_name(one.name): one for one in requirements if canonicalize_name(one.name) != PROJECT["name"]}


def test_every_pin_satisfies_its_range_and_every_range_has_a_pin() -> None:
    extras = ranges([one for lines in EXTRAS.values() for one in lines])
    pins, wanted = read_pins("requirements.txt"), ranges(BASE)
    assert set(wanted) <= set(pins)
    # requirements.txt holds what train.py needs, so the scripts install DeepSpeed, too.
    assert set(pins) - set(wanted) == {"deepspeed"}
    everything = dict(pins)
    # No extra can say that the language weights have to be installed without their dependencies.
    for path in set(ROOT.glob("requirements-*.txt")) - {ROOT / "requirements-language.txt"}:
        everything |= read_pins(path.name)
    assert set(everything) == set(wanted) | set(extras)
    for name, requirement in (wanted | extras).items():
        assert requirement.specifier.contains(everything[name]), f"{requirement} excludes the pin {everything[name]}"
        assert all(specifier.operator != "==" for specifier in requirement.specifier), f"{requirement} is a pin"


def test_dev_has_every_other_extra() -> None:
    (own,) = [one for one in EXTRAS["dev"] if one.name == PROJECT["name"]]
    assert own.extras == set(EXTRAS) - {"dev"}


def test_all_modules_import_without_the_optional_packages() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(MODULES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
