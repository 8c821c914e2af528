"""What a reader may do with damaged input: read it, or refuse it with an error that names the file. Nothing else."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

ACCEPTED = "accepted"
PARTLY = "bad records listed, others read"
CLASSES: tuple[tuple[str, str], ...] = (
    ("value of the wrong type", r"Expected `|Invalid enum value"),
    ("key missing", r"missing required field"),
    ("no JSON, or not the file's structure", r"JSON|needs the list|occurs twice in the object|expected format"),
    ("path leaves the image folder", r"leaves the image folder"),
    ("image file missing", r"not found|does not exist|can have this name"),
    ("polygon", r"polygon|outline"),
    ("run-length code or mask size", r"run length|run-length|counts|segmentation|'size'|image size|the mask|masks"),
    ("image file damaged or of another size", r"image file|the image is"),
    ("id or reference", r"occurs twice|among|there is no|not in the|not an|not a part|'id'|_id\b|linked|belongs"),
    ("key missing", r"is missing|Field required"),
    ("answer, phrase or span", r"choice|phrase|span|answer|part"),
    ("value of the wrong type", r"must|wrong type|no number|valid|should be"),
)


@dataclass(frozen=True)
class Refusal:
    """An error that the reader's contract allows."""

    message: str

    @property
    def reason_class(self) -> str:
        """A coarse name of what was wrong."""
        for name, pattern in CLASSES:
            if re.search(pattern, self.message):
                return name
        return "other"


def attempt(read: Callable[[], Result], named: Path) -> Result | Refusal:
    """Read; a ValueError or FileNotFoundError that names the file is a refusal, any other error goes on as a crash."""
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        refused = error
    message = str(refused)
    assert str(named) in message, f"the error does not name {named}: {refused!r}"
    message.encode("utf-8")  # else no log can hold it
    return Refusal(message.replace(str(named), ""))
