"""JSON files read and written with errors that name them, and content hashes for provenance."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def hash_files(paths: Iterable[Path]) -> str:
    """sha256 over the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: object, indent: int | None = None) -> None:
    """Write JSON beside its place, then switch, so that a reader never meets half a file."""
    temporary = path.with_name(path.name + ".tmp")
    separators = (",", ":") if indent is None else None
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; errors name the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; is {path.parent} a data set folder?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
