"""YAML files of settings, read strictly: a key that occurs twice is an error, because its first value would be lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from partonomy.files import shorten


def read_yaml(path: Path) -> Any:
    """Read a YAML file with plain values.

    Raises:
        ValueError: the file is not YAML, or a key occurs twice; the message names the file and the line.
    """
    text = _read_text(path)
    try:
        _refuse_repeated_keys(path, text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from error


def require_unique_keys(path: Path) -> None:
    """Refuse a YAML file in which a key occurs twice; other errors are left to the reader that follows.

    Raises:
        ValueError: a key occurs twice; the message names the file, the key and the line.
    """
    try:
        _refuse_repeated_keys(path, _read_text(path))
    except (OSError, yaml.YAMLError, RecursionError):
        return


def require_mapping(path: Path) -> None:
    """Refuse a YAML file that is empty or holds anything but settings by name; other errors are left to its reader.

    Raises:
        ValueError: the file is no mapping; the message names it.
    """
    try:
        root = yaml.compose(_read_text(path), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError, RecursionError):
        return
    if not isinstance(root, yaml.MappingNode):
        found = "is empty" if root is None else "holds no settings"
        raise ValueError(f"{path} {found}; write lines of the form `key: value`")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not YAML (not UTF-8 text: {error})") from error


def _refuse_repeated_keys(path: Path, text: str) -> None:
    for mapping in _mappings(yaml.compose(text, Loader=yaml.SafeLoader)):
        seen: set[tuple[str, str]] = set()
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise ValueError(
                    f"{path}, line {key.start_mark.line + 1}: the key {shorten(key.value)} occurs twice; remove one of "
                    "its values"
                )
            seen.add((key.tag, key.value))


def _mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Yield every mapping of a document once, however often aliases repeat it."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
