"""Random damage to valid files: JSON documents, segmentations and image files (hypothesis strategies)."""

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

DEEP_MARK = "@deep@"
DEEP = b"[" * 100_000 + b"]" * 100_000  # a parser that recurses gives up long before

NUMBERS: Sequence[object] = (
    0, 1, 2, 7, -1, -7, 3.5, -0.5, 1e308, float("nan"), float("inf"), float("-inf"),
    10**9, 10**18, 2**31, 2**32, 2**63, 10**30, 10**4000,
)  # fmt: skip
TEXTS: Sequence[object] = (
    "", " ", "x", "5", "\ud800", "\udcff", "a\0b", "ünïcode 漢字 🙂", "İstanbul", "A" * 400, "wheel", "correct",
    "OBJECT", "../../secret.png", "/etc/passwd", "images/../../x.png", "nowhere.png", "n" * 300 + ".png", ":", "car:",
)  # fmt: skip
OTHERS: Sequence[object] = (None, True, False, [], {}, [[]], [None], [1, 2], ["wheel"], {"id": 1}, DEEP_MARK)
JUNK = (*NUMBERS, *TEXTS, *OTHERS)
OPERATIONS = ("drop", "replace", "replace", "repeat", "swap", "wrap", "rename", "number", "text", "nest")


def all_paths(document: object, prefix: Path = ()) -> list[Path]:
    """The places of all values in a document, but for the document itself."""
    if isinstance(document, dict):
        items: Any = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    else:
        return []
    found: list[Path] = []
    for key, value in items:
        found.append((*prefix, key))
        found += all_paths(value, (*prefix, key))
    return found


def value_at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


@st.composite
def damaged_json(draw: st.DrawFn, document: Any, max_mutations: int = 3) -> bytes:
    """The document as JSON with one to `max_mutations` changes, or with broken bytes."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, max_mutations))):
        paths = all_paths(document)
        if paths:
            _change(draw, document, draw(st.sampled_from(paths)), paths)
    content = json.dumps(document).encode()
    content = content.replace(json.dumps(DEEP_MARK).encode(), DEEP)
    return draw(damaged_bytes(content)) if draw(st.integers(0, 9)) == 0 else content


def _change(draw: st.DrawFn, document: Any, path: Path, paths: Sequence[Path]) -> None:
    parent, key = value_at(document, path[:-1]), path[-1]
    value = parent[key]
    operation = draw(st.sampled_from(OPERATIONS))
    if operation == "drop":
        del parent[key]
    elif operation == "repeat" and isinstance(parent, list):
        parent.insert(draw(st.integers(0, len(parent))), copy.deepcopy(value))
    elif operation == "swap":
        parent[key] = copy.deepcopy(value_at(document, draw(st.sampled_from(paths))))
    elif operation == "wrap":
        parent[key] = draw(st.sampled_from(([value], {"segmentation": value}, {"id": value})))
    elif operation == "rename" and isinstance(parent, dict):
        parent[str(draw(st.sampled_from((*TEXTS, *parent))))] = parent.pop(key)
    elif operation == "number" and _is_small_number(value):
        parent[key] = draw(st.sampled_from((value + 1, value - 1, -value, value / 2, str(value))))
    elif operation == "text" and isinstance(value, str):
        place = draw(st.integers(0, len(value)))
        extra = draw(st.sampled_from(("", " ", "0", "é", "\ud800", "..", "~", "P", "\x7f")))
        parent[key] = value[:place] + extra + value[place + draw(st.integers(0, 2)) :]
    elif operation == "nest":
        for _ in range(draw(st.sampled_from((2, 60, 400)))):
            value = {"segmentation": value}
        parent[key] = value
    else:
        parent[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))


def _is_small_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file cut, with bytes changed or inserted, with a byte order mark, with a key twice."""
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    whole = (
        content[:place],
        content[:place] + draw(st.binary(min_size=1, max_size=8)) + content[place:],
        b"",
        b"\xef\xbb\xbf" + content,
        content.replace(b'"id":', b'"id": 1, "id":', 1),
        content.decode("utf-8", errors="replace").encode("utf-16"),
    )
    if not content or draw(st.booleans()):
        return draw(st.sampled_from(whole))
    flipped = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        flipped[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(flipped)


@st.composite
def damaged_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """JSON lines, one of them damaged, some with a line more or without the last newline."""
    lines = content.splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = draw(damaged_json(json.loads(lines[place])))
    if draw(st.integers(0, 5)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from((b"", b"\xff", b"[]", b"null", lines[0]))))
    return b"\n".join(lines) + draw(st.sampled_from((b"\n", b"\n", b"", b"\r\n")))


@st.composite
def segmentations(draw: st.DrawFn, valid: Sequence[object], size: tuple[int, int]) -> object:
    """A segmentation of any form, mostly broken, for an image of (height, width) pixels."""
    kind = draw(st.sampled_from(("changed", "text", "runs", "polygons", "junk")))
    if kind == "changed":
        return json.loads(draw(_changed_segmentation(valid)))
    if kind == "text":
        alphabet = st.characters(min_codepoint=32, max_codepoint=127) | st.sampled_from("é\0漢\ud800")
        return {"size": list(size), "counts": draw(st.text(alphabet, max_size=40))}
    if kind == "runs":
        num_pixels = size[0] * size[1]
        runs = draw(st.lists(st.integers(0, num_pixels), max_size=12))
        if draw(st.booleans()):  # often the right sum
            runs.append(num_pixels - sum(runs))
        return {"size": list(size), "counts": runs}
    if kind == "polygons":
        coordinate = st.floats(-60, 90) | st.integers(-60, 90) | st.sampled_from(NUMBERS)
        return draw(st.lists(st.lists(coordinate, max_size=12), max_size=70))
    return draw(st.sampled_from(JUNK))


@st.composite
def _changed_segmentation(draw: st.DrawFn, valid: Sequence[object]) -> str:
    document = {"segmentation": copy.deepcopy(draw(st.sampled_from(valid)))}
    paths = all_paths(document)
    _change(draw, document, draw(st.sampled_from(paths)), paths)
    return json.dumps(document.get("segmentation"))
