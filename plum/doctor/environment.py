"""Check the installation: packages against requirements.txt, GPUs, DeepSpeed's operations."""

import importlib
import importlib.metadata
import importlib.util
import platform
import re
from pathlib import Path

import torch
from packaging.requirements import Requirement

from partonomy.version import DISTRIBUTION
from plum.doctor.findings import Finding, State
from plum.train_config import EngineConfig

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
PYTHON = (3, 11)
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;#]+)")


def examine_environment(engine: EngineConfig, requirements: Path = REQUIREMENTS) -> list[Finding]:
    """Examine Python, packages and GPUs.

    Args:
        engine: the run's engine, which decides what is needed.
        requirements: file with the pins; if it is missing (an installed package), the ranges of the installed
            distribution.
    """
    return [
        *examine_python(),
        *examine_packages(requirements),
        *examine_torchvision(),
        *examine_quantization(engine),
        *examine_devices(engine),
    ]


def examine_packages(requirements: Path) -> list[Finding]:
    """Examine the packages that the project needs.

    Args:
        requirements: file with the pins; if it is missing, the ranges of the installed distribution are examined.
    """
    if requirements.is_file():
        return [examine_package(name, pin) for name, pin in read_pins(requirements)]
    needed = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or []]
    return [examine_range(one) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def read_pins(requirements: Path) -> list[tuple[str, str]]:
    """Return (package, pinned version) of every line that pins one."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return [(found[1], found[2]) for found in map(_PIN.match, lines) if found is not None]


def examine_python() -> list[Finding]:
    """Examine Python itself."""
    version = platform.python_version()
    is_old = tuple(int(part) for part in version.split(".")[:2]) < PYTHON
    to_do = f"needs {'.'.join(map(str, PYTHON))} or newer" if is_old else ""
    return [Finding(State.MISSING if is_old else State.FINE, "python", version, to_do)]


def examine_package(name: str, pin: str) -> Finding:
    """Examine one package; a version other than the pinned one is only a remark."""
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(State.MISSING, name, "not installed", f"pip install {name}=={pin}")
    if found.split("+")[0] == pin:
        return Finding(State.FINE, name, found)
    return Finding(State.REMARK, name, found, f"results in docs/LOG.md were made with {pin}")


def examine_range(requirement: Requirement) -> Finding:
    """Examine one package of an installed distribution; a version out of its range is an error."""
    name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(State.MISSING, name, "not installed", f"pip install '{wanted}'")
    if requirement.specifier.contains(found, prereleases=True):
        return Finding(State.FINE, name, found)
    return Finding(State.MISSING, name, found, f"pip install '{wanted}'")


def examine_torchvision() -> list[Finding]:
    """Examine torchvision, which is optional; but a build that does not match torch breaks transformers."""
    if importlib.util.find_spec("torchvision") is None:
        return [Finding(State.FINE, "torchvision", "absent (not needed)")]
    try:
        module = importlib.import_module("torchvision")
    except (ImportError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        return [
            Finding(State.MISSING, "torchvision", f"cannot be imported ({reason})", "uninstall it, or install torch's")
        ]
    return [Finding(State.FINE, "torchvision", str(module.__version__))]


def examine_quantization(engine: EngineConfig) -> list[Finding]:
    """Look for bitsandbytes if the run quantizes its base."""
    if engine.base_quantization == "none":
        return []
    what = f"bitsandbytes (engine.base_quantization {engine.base_quantization})"
    if importlib.util.find_spec("bitsandbytes") is None:
        return [Finding(State.MISSING, what, "not installed", "pip install bitsandbytes")]
    version = importlib.metadata.version("bitsandbytes")
    return [Finding(State.REMARK, what, version, "unverified until run on CUDA")]


def examine_devices(engine: EngineConfig) -> list[Finding]:
    """Examine the GPUs, and DeepSpeed's operations if the run uses it."""
    if torch.cuda.is_available():
        return [*_examine_gpus(engine), *_examine_operations()]
    none = Finding(State.REMARK, "GPU", "none: training runs on CPU processes", "")
    return [none, *(_examine_operations() if engine.kind == "deepspeed" else [])]


def _examine_gpus(engine: EngineConfig) -> list[Finding]:
    """Examine every GPU: its memory, and bf16 support if the run computes in bf16."""
    findings = [Finding(State.FINE, "CUDA of torch", str(torch.version.cuda))]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 1e9:.1f} GB"
        has_bf16 = properties.major >= 8
        lacks = engine.precision == "bf16" and not has_bf16
        to_do = "engine.precision bf16 needs compute capability 8.0" if lacks else ""
        state = State.MISSING if lacks else State.FINE
        findings.append(Finding(state, f"GPU {index}", f"{properties.name}, {memory}", to_do))
    return findings


def _examine_operations() -> list[Finding]:
    """List which of DeepSpeed's own operations are compiled; none has to be, since the optimizer is torch's."""
    if importlib.util.find_spec("deepspeed") is None:
        return []
    versions = importlib.import_module("deepspeed.git_version_info")
    built = sorted(name for name, is_built in versions.installed_ops.items() if is_built)
    found = ", ".join(built) or "none precompiled"
    return [Finding(State.FINE, "DeepSpeed operations", f"{found} (torch's fused AdamW is used)")]
