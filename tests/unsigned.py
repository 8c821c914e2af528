"""Record lines without their checksums, for tests that compare or change what they hold."""

import json
from pathlib import Path
from typing import Any

from partonomy.line_checksums import CHECKSUM_KEY


def unsigned(line: str) -> dict[str, Any]:
    """Return a line's JSON object without its checksum."""
    content: dict[str, Any] = json.loads(line)
    content.pop(CHECKSUM_KEY, None)
    return content


def unsigned_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of all lines of a file without their checksums."""
    return [unsigned(line) for line in path.read_text(encoding="utf-8").splitlines()]
