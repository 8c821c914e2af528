"""SHA-256 of large files, cached by size and modification time, so that a second run is fast."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from partonomy.files import write_text_atomically
from partonomy.progress import BYTES, Progress, progress

CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class HashedFile:
    """State and hash of a file at the time it was hashed."""

    size: int
    mtime_ns: int
    sha256: str


_ADAPTER = TypeAdapter(dict[str, HashedFile])


def default_cache() -> Path:
    """Return the default cache file, in `$XDG_CACHE_HOME`/plum or ~/.cache/plum."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "plum" / "file_hashes.json"


def hash_large_files(files: Sequence[Path], cache: Path, is_quiet: bool = False) -> dict[Path, str]:
    """Return the SHA-256 of every file, reading only files that are new or have changed.

    Args:
        files: must exist.
        cache: JSON of earlier results; created if missing. It is written after every file, so that an interruption
            loses none.
        is_quiet: show no progress bar.

    Raises:
        ValueError: the cache is damaged; the message names it.
    """
    remembered = _read(cache)
    known = {file: remembered.get(str(file.resolve())) for file in files}
    fresh = [file for file in files if not _is_current(file, known[file])]
    total = sum(file.stat().st_size for file in fresh)
    with progress(total, "sha256", BYTES, is_shown=not is_quiet and bool(fresh)) as shown:
        for file in fresh:
            before = file.stat()
            remembered[str(file.resolve())] = HashedFile(before.st_size, before.st_mtime_ns, _hash(file, shown))
            _write(remembered, cache)
    return {file: remembered[str(file.resolve())].sha256 for file in files}


def _is_current(file: Path, known: HashedFile | None) -> bool:
    state = file.stat()
    return known is not None and (known.size, known.mtime_ns) == (state.st_size, state.st_mtime_ns)


def _hash(file: Path, shown: Progress) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            shown.update(len(chunk))
    return digest.hexdigest()


def _read(cache: Path) -> dict[str, HashedFile]:
    if not cache.is_file():
        return {}
    try:
        return _ADAPTER.validate_json(cache.read_bytes(), strict=True)
    except ValidationError as error:
        raise ValueError(f"{cache} is damaged ({error.error_count()} errors): delete it, it is only a cache") from error


def _write(remembered: dict[str, HashedFile], cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    content = {path: asdict(entry) for path, entry in remembered.items()}
    write_text_atomically(cache, json.dumps(content, indent=1) + "\n")
