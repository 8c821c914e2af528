"""What parts and objects are for (mmr_functions.yaml), looked up by their names."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from partonomy.names import OBJECT_PART_SEPARATOR
from partonomy.questions.mmr_scene import says_name, word_keys

DEFAULT_FUNCTIONS = Path(__file__).with_name("mmr_functions.yaml")
KINDS = ("parts", "objects")


@dataclass(frozen=True)
class FunctionTable:
    """Purposes ("sit down") by what serves them.

    Attributes:
        parts: purposes by part name, and by "object:part" for one object alone.
        objects: purposes by object name.
    """

    parts: Mapping[str, tuple[str, ...]]
    objects: Mapping[str, tuple[str, ...]]

    def find(self, object_name: str, part_name: str | None) -> tuple[str, ...]:
        """Purposes of a part, or of an object where `part_name` is None; names in clean words."""
        if part_name is None:
            return self.objects.get(object_name, ())
        own = f"{object_name}{OBJECT_PART_SEPARATOR}{part_name}"
        return self.parts.get(own, self.parts.get(part_name, ()))


def load_functions(path: Path = DEFAULT_FUNCTIONS) -> FunctionTable:
    """Read a table of functions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another form, or a purpose says the name of one of its entries; names file and purpose.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the file of functions does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({error})") from error
    if not isinstance(content, dict) or set(content) != set(KINDS):
        raise ValueError(f"{path}: the file of functions must have exactly the keys {', '.join(KINDS)}")
    return FunctionTable(*(_invert(content[kind], f"{path}, {kind}") for kind in KINDS))


def _invert(purposes: object, where: str) -> dict[str, tuple[str, ...]]:
    """Purpose -> "wheel, front wheel" to name -> purposes."""
    if not isinstance(purposes, dict):
        raise ValueError(f"{where}: expected lines 'purpose: name, name', got {type(purposes).__name__}")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for purpose, listed in purposes.items():
        if not isinstance(purpose, str) or not isinstance(listed, str):
            raise ValueError(f"{where}, {purpose!r}: expected a purpose and names with commas between, got {listed!r}")
        keys = word_keys(purpose)
        for entry in (name.strip() for name in listed.split(",")):
            for name in entry.split(OBJECT_PART_SEPARATOR):
                if not name or says_name(keys, name):
                    raise ValueError(
                        f"{where}, {purpose!r}: the entry {entry!r} is empty or named by the purpose itself"
                    )
            if purpose not in found[entry]:
                found[entry].append(purpose)
    return {name: tuple(listed) for name, listed in found.items()}
