"""Checksums of the lines of JSON-lines files: the last key of each object holds the CRC-32 of the line without it.

A flipped bit in a number or a word leaves a line valid JSON; its checksum shows it. A line without a checksum, of an
earlier version or another program, is taken as it is.
"""

import re
import zlib

CHECKSUM_KEY = "crc32"
_END = re.compile(rb', "crc32": "([^"]{8})"\}\n?\Z', re.DOTALL)
_LONGEST_END = 24


def add_checksum(line: str) -> str:
    """Return a JSON object's line with its checksum.

    Args:
        line: a JSON object that is not empty, without a newline at its end.
    """
    body = line[:-1]
    return f'{body}, "{CHECKSUM_KEY}": "{_checksum(body.encode("utf-8", errors="backslashreplace"))}"}}'


def require_checksum(line: bytes) -> None:
    """Compare a line with its checksum, if it has one.

    Args:
        line: the line in UTF-8, with or without its newline.

    Raises:
        ValueError: the line is not as it was written.
    """
    found = _END.search(line, max(0, len(line) - _LONGEST_END))
    if found and found[1] != _checksum(line[: found.start()]).encode():
        raise ValueError(
            f'changed since it was written: its checksum differs (a line without "{CHECKSUM_KEY}" is not compared)'
        )


def _checksum(body: bytes) -> str:
    return f"{zlib.crc32(body):08x}"
