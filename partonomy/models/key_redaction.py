"""Removes an API key from text that an endpoint returns, in the forms in which endpoints repeat it."""

import base64
import html
import json
import os
import re
import string
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

REDACTED = "[key]"
MIN_SECRET = 8
"""A beginning of the key of so many characters is removed. A shorter key (EMPTY, none) is a placeholder that servers
without keys ignore; it may be a word of any reply."""


class KeyRedactor:
    """Replaces a key, and every beginning of it of `MIN_SECRET` or more characters, with "[key]".

    The key is found as it is, escaped for JSON, HTML or a URL, and inside base64 (as in basic authentication).

    Args:
        key: The key; None redacts nothing.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key or ""
        self._forms = tuple(dict.fromkeys(_forms(self._key))) if len(self._key) >= MIN_SECRET else ()
        beginnings = sorted({form[:num_needed] for form, num_needed in self._forms}, key=len)
        self._beginning = re.compile("|".join(map(re.escape, beginnings)))

    def __call__(self, text: str) -> str:
        """Return a model's text without the key; a placeholder stays, because it may be a word of the reply."""
        if not self._forms:
            return text
        pieces, done = [], 0
        while found := self._beginning.search(text, done):
            pieces += [text[done : found.start()], REDACTED]
            # Several forms may begin alike and differ later, so the longest one is removed.
            done = found.start() + max(_num_common(form, text, found.start()) for form, _ in self._forms)
        return "".join([*pieces, text[done:]])

    def in_message(self, text: str) -> str:
        """Return an error message without the key, which may also be a placeholder."""
        text = self(text)
        return text.replace(self._key, REDACTED) if self._key and not self._forms else text

    def occurs_in(self, text: str) -> bool:
        """Return whether the text contains the whole key in one of its forms."""
        return any(form in text for form, _ in self._forms)


def _num_common(form: str, text: str, start: int) -> int:
    """Return how many characters of the form the text repeats from a position on."""
    return len(os.path.commonprefix([form, text[start : start + len(form)]]))


def _forms(key: str) -> Iterator[tuple[str, int]]:
    """Generate the key's forms, each with the length of its beginning that stands for `MIN_SECRET` characters."""
    escaped = json.dumps(key)[1:-1]
    short = json.dumps(key[:MIN_SECRET])[1:-1]
    yield key, MIN_SECRET
    yield escaped, len(short)
    yield escaped.replace("/", "\\/"), len(short.replace("/", "\\/"))
    yield json.dumps(escaped)[1:-1], len(json.dumps(short)[1:-1])
    yield html.escape(key), len(html.escape(key[:MIN_SECRET]))
    for encode in (lambda text: quote(text, safe=""), quote_plus, quote):
        yield encode(key), len(encode(key[:MIN_SECRET]))
        yield _lower_codes(encode(key)), len(encode(key[:MIN_SECRET]))
    yield from _base64_forms(key)


def _lower_codes(text: str) -> str:
    """Write the hexadecimal digits of percent codes in lower case."""
    head, *codes = text.split("%")
    return "%".join([head, *(code[:2].lower() + code[2:] for code in codes)])


def _base64_forms(key: str) -> Iterator[tuple[str, int]]:
    """Generate what the key becomes inside base64, at each of the three places that it can have in a group of bytes."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for num_before in range(3):
            whole, short = (
                _inner_base64(encode(b"\0" * num_before + part.encode("utf-8")).decode("ascii"), num_before, part)
                for part in (key, key[:MIN_SECRET])
            )
            yield whole, len(short)


def _inner_base64(code: str, num_before: int, part: str) -> str:
    """Return the characters of a code that depend on the key alone, not on the bytes around it."""
    first = -(-num_before * 8 // 6)
    return code[first : (num_before + len(part.encode("utf-8"))) * 8 // 6]


HEADER_CHARACTERS = frozenset(string.ascii_letters + string.digits + string.punctuation + " ")
"""The characters that a key may have, because it is sent in a header."""
