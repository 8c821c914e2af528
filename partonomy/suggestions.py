"""Guesses what a misspelt name means: `did you mean ...?` for commands, flags, choices and file names."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

SIMILARITY = 0.7
"""Least share of equal characters (`difflib.SequenceMatcher.ratio`) at which a name is suggested."""


def nearest(word: str, known: Iterable[str], similarity: float = SIMILARITY) -> str | None:
    """Return the known name that is most similar to a word, without regard to case; None if none is similar.

    Args:
        word: the word that was written.
        known: names that exist.
        similarity: least similarity, 0 to 1.
    """
    of_folded: dict[str, str] = {}
    for name in known:
        of_folded.setdefault(name.casefold(), name)
    near = get_close_matches(word.casefold(), of_folded, 1, similarity)
    return of_folded[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'NAME'?` for the end of an error message; "" if no known name is similar to the word."""
    near = nearest(word, known)
    return "" if near is None else f"; did you mean {near!r}?"


def unknown_names(kind: str, unknown: Iterable[str], known: Iterable[str]) -> str:
    """Return an error message that lists unknown names, every known name, and the one that was probably meant.

    Args:
        kind: kind of the names, in the singular ("question type").
        unknown: the names, at least one.
        known: names that exist, in the order of the message.
    """
    names, choices = list(unknown), list(known)
    meant = list(dict.fromkeys(near for name in names if (near := nearest(name, choices)) is not None))
    hint = f"; did you mean {' and '.join(map(repr, meant))}?" if meant else ""
    plural = "s" if len(names) > 1 else ""
    return f"unknown {kind}{plural} {', '.join(map(repr, names))}; known: {', '.join(choices)}{hint}"


def nearest_path(path: Path) -> Path | None:
    """Return the existing path that a wrong one probably means; None if there is none.

    The first component that does not exist is replaced by the most similar name in its folder, then the next, and so
    on.

    Args:
        path: a path that does not exist.
    """
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if part == ".." or _exists(found / part):
            found /= part
            continue
        near = nearest(part, _names_in(found))
        if near is None:
            return None
        found /= near
    return found


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:  # a file, or a folder that may not be listed
        return []


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
