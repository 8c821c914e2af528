"""Stores the results of the shards of a piece of work, and checks before a merge that they belong together."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from partonomy.files import convert_json, hash_files, read_json, read_json_as, shorten, write_json
from partonomy.locks import LOCK_FILE, lock_folder
from partonomy.sharding import Shard, all_shards

T = TypeVar("T")

SHARDS_FOLDER = "shards"
NO_VALUE = "(none)"
MAX_SHOWN = 80
"""Characters of a setting in a message; wordings of questions have thousands."""


@dataclass(frozen=True)
class ShardResults:
    """The results of all shards of a piece of work, one JSON file each.

    Attributes:
        folder: folder of the files.
        work: name of the work in file names and messages, for example "questions".
        settings: everything that the result depends on except the shard, as JSON.
    """

    folder: Path
    work: str
    settings: Mapping[str, object]

    def path(self, shard: Shard) -> Path:
        """Return the file of one shard, for example `questions-2-of-8.json`."""
        return self.folder / f"{self.work}-{shard.file_stem}.json"

    def is_done(self, shard: Shard) -> bool:
        """Return whether the shard is finished with these settings; a shard with other settings does not count."""
        path = self.path(shard)
        return path.is_file() and not find_differences(read_json(path).get("settings"), self.settings)

    def write(self, shard: Shard, content: Mapping[str, object]) -> None:
        """Write a shard's result atomically; the file's existence marks the shard as finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.path(shard), {"shard": str(shard), "settings": dict(self.settings)} | dict(content))

    def find(self) -> tuple[Shard, ...]:
        """Return the finished shards, in order.

        Raises:
            ValueError: the shards differ in their total number of shards.
        """
        form = re.compile(rf"{re.escape(self.work)}-([0-9]+)-of-([0-9]+)\.json")
        names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        found = sorted((int(one[2]), int(one[1])) for one in map(form.fullmatch, names) if one)
        counts = sorted({count for count, _ in found})
        if len(counts) > 1:
            raise ValueError(
                f"{self.folder}: holds shards of {counts[0]} and of {counts[1]} ({self.work}); delete those that do "
                "not belong to the work"
            )
        return tuple(Shard(number - 1, count) for count, number in found)

    def read_all(self, kind: type[T]) -> tuple[tuple[Shard, T], ...]:
        """Read the results of all shards, in order.

        Args:
            kind: the type of a shard's content (`convert_json`).

        Raises:
            FileNotFoundError: shards are missing; the message names them.
            ValueError: a shard was made with other settings, or its file is damaged or another shard's; the message
                names the file and the setting or field.
        """
        found = self.find()
        if not found:
            raise FileNotFoundError(
                f"{self.folder}: holds no shard ({self.work}); run --shard 1/N to --shard N/N first"
            )
        missing = [str(shard) for shard in all_shards(found[0].count) if shard not in found]
        if missing:
            raise FileNotFoundError(
                f"{self.folder}: shards are missing ({self.work}): {', '.join(missing)}; run each with --shard, then "
                "merge again"
            )
        return tuple((shard, self._read(shard, kind)) for shard in found)

    def _read(self, shard: Shard, kind: type[T]) -> T:
        cure = f"delete it and run --shard {shard} again"
        content = read_json_as(self.path(shard), dict[str, Any], cure)
        if content.get("shard") != str(shard):
            found = shorten(content.get("shard", NO_VALUE))
            raise ValueError(f"{self.path(shard)}: 'shard' must be {str(shard)!r}, got {found}; {cure}")
        differences = find_differences(content.get("settings"), self.settings)
        if differences:
            raise ValueError(
                f"{self.path(shard)}: made with other settings ({'; '.join(differences)}); run --shard {shard} again "
                "with the settings of this command, or merge with the settings of the shards"
            )
        return convert_json(content, kind, str(self.path(shard)), cure)


def hash_input(path: Path) -> str:
    """Return the sha256 of a file that a result depends on.

    Raises:
        FileNotFoundError: it does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; give every shard, and the merge, the same existing input")
    return hash_files([path])


def find_differences(found: object, expected: Mapping[str, object], prefix: str = "") -> list[str]:
    """List the differences from stored settings as "KEY: VALUE there, VALUE now", nested keys joined with dots.

    Args:
        found: the stored settings; anything but a mapping counts as empty.
        expected: the settings of this command.
        prefix: prefix of the keys in the list.
    """
    there: Mapping[str, object] = found if isinstance(found, Mapping) else {}
    now: Mapping[str, object] = json.loads(json.dumps(expected))
    differences = []
    for key in dict.fromkeys((*now, *there)):
        old, new = there.get(key, NO_VALUE), now.get(key, NO_VALUE)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differences += find_differences(old, new, f"{prefix}{key}.")
        elif old != new:
            differences.append(f"{prefix}{key}: {_shown(old)} there, {_shown(new)} now")
    return differences


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def remove_shards(folder: Path, keep: str | None = None) -> None:
    """Delete the folder of shards, if it is there.

    Args:
        folder: the folder of the shards.
        keep: name of a piece of work whose results are kept, and the folder with them; None deletes everything.

    Raises:
        BlockingIOError: a process is still working on a shard.
    """
    for lock in sorted(folder.glob(f"*{LOCK_FILE}")):
        with lock_folder(folder, lock.name):
            pass
    if keep is None and folder.is_dir():
        shutil.rmtree(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(f"{keep}-"):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
