"""Atomic checkpoints of a run, each of which records how many ranks wrote it.

A run resumes from the newest one. A DeepSpeed checkpoint that another number of ranks wrote is first converted to
DeepSpeed's universal form; one that torch alone wrote is read as it is.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from partonomy.files import hash_files, match_json, parse_json, read_json_as
from plum.train_config import EngineConfig
from plum.training.exit_status import CheckpointError
from plum.training.ranks import Ranks, on_main_rank
from plum.training.safe_checkpoints import require_plain_content

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
WHOLE_FILE = "plain.pt"
"""File of a checkpoint that torch alone has written (engines `plain` and `ddp`); any number of ranks can read it."""
UNIVERSAL_SUFFIX = ".universal"
"""Suffix of the form that any number of ranks can read; see `to_universal`."""
_PARTIAL_SUFFIX = ".partial"
_KEPT_CHECKPOINTS = 2
_HASHING_THREADS = 8
_RANK_FILE = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt")
"""DeepSpeed's files of each rank."""
_NAME = re.compile(r"update_\d{6,}")


@dataclass(frozen=True)
class UpdateCut:
    """How the images of one update are divided; their number is the product of the three fields."""

    micro_batch_size: int
    accumulation: int
    num_ranks: int

    @property
    def images(self) -> int:
        """Images of one update over all ranks."""
        return self.micro_batch_size * self.accumulation * self.num_ranks


class _ManifestFile(msgspec.Struct):
    """Size and hash of a file of a checkpoint."""

    num_bytes: int = msgspec.field(name="bytes")
    sha256: str


class _Manifest(msgspec.Struct):
    """The content of `checkpoint.json`."""

    update: int
    cut: UpdateCut
    files: dict[str, _ManifestFile | int]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, the updates done, and how the run that wrote it divided an update."""

    folder: Path
    update: int
    cut: UpdateCut


class RunCheckpoints:
    """The `checkpoints` folder of a run. Only one rank writes, cleans and commits; all may read.

    Args:
        folder: where they lie.
        num_kept: number of newest checkpoints that a commit leaves.
    """

    def __init__(self, folder: Path, num_kept: int = _KEPT_CHECKPOINTS) -> None:
        self.folder = folder
        self.num_kept = num_kept

    def partial(self, update: int) -> Path:
        """Return the folder to which the checkpoint of `update` is written before it is committed."""
        return self.folder / f"update_{update:06d}{_PARTIAL_SUFFIX}"

    def commit(self, partial: Path, update: int, cut: UpdateCut) -> None:
        """Commit a completely written checkpoint, then delete old ones. Its manifest holds size and sha256 of files.

        Raises:
            OSError: a file cannot be read back, or the files of a rank are not in the folder.
        """
        paths = sorted(path for path in partial.rglob("*") if path.is_file())
        if lacking := _lacking_ranks([path.name for path in paths], cut.num_ranks):
            raise OSError(
                f"{partial} has no file of rank {', '.join(map(str, lacking))}; run_dir must lie on a file system that "
                "all nodes share"
            )
        for path in paths:
            _flush(path)
        files = {
            str(path.relative_to(partial)): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, _hash_all(paths), strict=True)
        }
        manifest = partial / MANIFEST
        manifest.write_text(json.dumps({"update": update, "cut": asdict(cut), "files": files}, indent=2) + "\n")
        _flush(manifest)
        final = partial.with_suffix("")
        if final.exists():  # damaged: otherwise this update would not have been repeated
            shutil.rmtree(final)
        partial.rename(final)
        _flush(self.folder)
        for old in [*self.named()][self.num_kept :]:
            shutil.rmtree(old)
        for universal in self.folder.glob(f"*{UNIVERSAL_SUFFIX}"):
            shutil.rmtree(universal)

    def newest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, None if there is no checkpoint; damaged ones are logged.

        Raises:
            ValueError: there are checkpoints, but none is complete.
        """
        defects = []
        for folder in self.named():
            defect = _find_defect(folder)
            if defect is None:
                return _read(folder)
            defects.append(f"{folder.name}: {defect}")
            logger.warning("checkpoint %s is damaged and ignored: %s", folder, defect)
        if defects:
            raise ValueError(
                f"no checkpoint in {self.folder} is complete ({'; '.join(defects)}); delete that folder to train from "
                "the start"
            )
        return None

    def remove_remains(self) -> None:
        """Delete the unfinished output of killed saves and conversions."""
        for partial in self.folder.glob(f"*{_PARTIAL_SUFFIX}"):
            logger.info("removing %s, which was never finished", partial)
            shutil.rmtree(partial)

    def has_any(self) -> bool:
        """Return whether there is a committed checkpoint, whole or damaged."""
        return next(self.named(), None) is not None

    def named(self) -> Iterator[Path]:
        """Yield the folders of committed checkpoints, newest first."""
        if self.folder.exists():
            found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
            yield from sorted(found, key=lambda path: int(path.name.removeprefix("update_")), reverse=True)


def update_cut(config: EngineConfig, num_ranks: int) -> UpdateCut:
    """Return how a run on `num_ranks` ranks divides an update."""
    return UpdateCut(config.micro_batch_size, config.accumulation, num_ranks)


def require_same_update(checkpoint: Checkpoint, cut: UpdateCut) -> None:
    """Check that a resumed run takes as many images per update as before, so that it continues at the next sample.

    Raises:
        ValueError: it does not; the message says which settings would.
    """
    written = checkpoint.cut
    if cut.images == written.images:
        return
    raise ValueError(
        f"{checkpoint.folder} was written with {written.images} images per update ({_describe(written)}), but this "
        f"start takes {cut.images} ({_describe(cut)}): {_advise(written, cut.num_ranks)}"
    )


def _describe(cut: UpdateCut) -> str:
    return f"{cut.num_ranks} ranks x micro_batch_size {cut.micro_batch_size} x accumulation {cut.accumulation}"


def _advise(written: UpdateCut, num_ranks: int) -> str:
    """Name the settings with the largest micro-batch up to the written one; the same size repeats even the rounding."""
    per_rank, rest = divmod(written.images, num_ranks)
    if rest:
        return f"{num_ranks} ranks cannot share {written.images} images equally; choose a number of ranks that can"
    size = max(size for size in range(1, written.micro_batch_size + 1) if per_rank % size == 0)
    return f"add --engine.micro_batch_size {size} --engine.accumulation {per_rank // size}"


def _find_defect(folder: Path) -> str | None:
    """Say what is wrong with a committed checkpoint (a failing disk, a half-finished copy); None if it is complete."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"it has no {MANIFEST}"
    try:
        content = match_json(parse_json(manifest.read_bytes(), "not valid JSON"), _Manifest)
    except ValueError as error:
        return f"{MANIFEST} is damaged ({error})"
    if lacking := _lacking_ranks([Path(name).name for name in content.files], content.cut.num_ranks):
        return f"it has no file of rank {', '.join(map(str, lacking))}"
    hashed: dict[Path, str] = {}
    for name, entry in content.files.items():
        path = folder / name
        size = entry.num_bytes if isinstance(entry, _ManifestFile) else entry  # older runs wrote sizes alone
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            return f"{name} is missing" if found is None else f"{name} has {found} bytes, not {size}"
        if isinstance(entry, _ManifestFile):
            hashed[path] = entry.sha256
    changed = [path for path, digest in zip(hashed, _hash_all(hashed), strict=True) if digest != hashed[path]]
    return f"{changed[0].relative_to(folder)} has changed since it was written (sha256)" if changed else None


def _hash_all(paths: Iterable[Path]) -> list[str]:
    """Return the sha256 of each file; several are read at once, since hashing leaves the interpreter to others."""
    with ThreadPoolExecutor(max_workers=_HASHING_THREADS) as pool:
        return list(pool.map(lambda path: hash_files([path]), paths))


def _lacking_ranks(names: Sequence[str], num_ranks: int) -> list[int]:
    """Return the ranks without a file among those of a DeepSpeed checkpoint; none for other checkpoints."""
    found = {int(match[1]) for match in map(_RANK_FILE.fullmatch, names) if match}
    return sorted(set(range(num_ranks)) - found) if found else []


def _read(folder: Path) -> Checkpoint:
    recorded = read_json_as(folder / MANIFEST, _Manifest, "delete that checkpoint to continue from an earlier one")
    return Checkpoint(folder, recorded.update, recorded.cut)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that an engine loads: a folder as it was written, or its universal form."""

    folder: Path
    is_universal: bool


def find_resume_point(checkpoints: RunCheckpoints, config: EngineConfig, ranks: Ranks) -> ResumePoint | None:
    """Return the checkpoint from which the run continues, None without one. Collective: the main rank decides for all.

    A checkpoint of another number of ranks is converted once; the data continue at the next sample, since samples are
    numbered over all ranks.

    Raises:
        ValueError: no checkpoint is complete, its files would run code, or this start takes another number of images
            per update.
        CheckpointError: DeepSpeed could not convert the checkpoint.
    """
    return on_main_rank(ranks, lambda: _find_resume_point(checkpoints, update_cut(config, ranks.world_size)))


def _find_resume_point(checkpoints: RunCheckpoints, cut: UpdateCut) -> ResumePoint | None:
    checkpoint = checkpoints.newest()
    if checkpoint is None:
        return None
    require_same_update(checkpoint, cut)
    require_plain_content(checkpoint.folder)
    is_universal = checkpoint.cut.num_ranks != cut.num_ranks and not (checkpoint.folder / WHOLE_FILE).is_file()
    return ResumePoint(to_universal(checkpoint.folder) if is_universal else checkpoint.folder, is_universal)


def to_universal(checkpoint: Path) -> Path:
    """Convert a ZeRO checkpoint to a form that any number of ranks can read, next to the original; done once.

    Raises:
        CheckpointError: DeepSpeed could not convert it; the message ends with DeepSpeed's output.
    """
    target = checkpoint.with_name(checkpoint.name + UNIVERSAL_SUFFIX)
    if target.exists():
        return target
    logger.info("converting %s for another number of ranks", checkpoint)
    partial = target.with_name(target.name + _PARTIAL_SUFFIX)
    # Bare names, relative to their folder: DeepSpeed treats its paths as regular expressions.
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", checkpoint.name, "--output_folder", partial.name]
    done = subprocess.run(command, cwd=checkpoint.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"DeepSpeed could not convert {checkpoint} for another number of ranks: {done.stderr[-2000:]}"
        )
    (checkpoint.parent / "latest_universal").unlink(missing_ok=True)  # DeepSpeed's own pointer, which names `partial`
    partial.rename(target)
    return target
