"""The version of the package: of the source tree that is running, else of the installed distribution."""

import tomllib
from functools import lru_cache
from pathlib import Path

DISTRIBUTION = "plum-partonomy"
PROJECT_FILE = Path(__file__).resolve().parents[1] / "pyproject.toml"
"""Project file of a source tree; an installed package has none."""


@lru_cache(maxsize=1)
def find_version() -> str:
    """Return the version.

    Raises:
        RuntimeError: the package is neither installed nor in its source tree.
    """
    project = _read_project()
    if project.get("name") == DISTRIBUTION:
        return str(project["version"])
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  (slow to import)

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise RuntimeError(
            f"the version is unknown: {PROJECT_FILE} is not the project file of {DISTRIBUTION}, and no such package is "
            "installed"
        ) from error


def _read_project() -> dict[str, object]:
    try:
        content = tomllib.loads(PROJECT_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    project = content.get("project", {})
    return project if isinstance(project, dict) else {}
