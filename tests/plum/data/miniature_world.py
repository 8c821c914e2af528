"""The miniature copy of every download, written once for all tests of a session."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from plum.data.miniature.writer import write_miniature
from plum.inputs.encoding import ConversationEncoder
from tests.plum.data.tokenizers_for_tests import byte_level

NUM_IMAGES = 6


@cache
def _written() -> "tempfile.TemporaryDirectory[str]":
    folder: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix="miniature_")
    write_miniature(Path(folder.name), NUM_IMAGES, size=64)
    return folder  # removed when the process ends


def miniature() -> Path:
    """The miniature; not to be changed."""
    return Path(_written().name)


def miniature_copy(folder: Path) -> Path:
    """A miniature of one's own."""
    shutil.copytree(miniature(), folder)
    return folder


def make_encoder(max_text_tokens: int | None = 512) -> ConversationEncoder:
    """The tests' tokenizer with the shortest template."""
    return ConversationEncoder(byte_level(), "plain", 4, max_text_tokens)
