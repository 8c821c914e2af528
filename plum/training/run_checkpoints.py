"""Checkpoints of a run: each is whole or never taken, and says how many ranks wrote it.

A run resumes from the newest one, in DeepSpeed's universal form if another number of ranks wrote it.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed

from plum.train_config import EngineConfig
from plum.training.ranks import Ranks

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
UNIVERSAL_SUFFIX = ".universal"
"""Of the form any number of ranks reads; see plum.training.run_checkpoints."""
_PARTIAL_SUFFIX = ".partial"
_KEPT_CHECKPOINTS = 2
_NAME = re.compile(r"update_\d{6,}")


@dataclass(frozen=True)
class UpdateCut:
    """How the images of one update are divided: they are the product of the three."""

    micro_batch_size: int
    accumulation: int
    num_ranks: int

    @property
    def images(self) -> int:
        """Images of one update over all ranks."""
        return self.micro_batch_size * self.accumulation * self.num_ranks


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, the updates done, and the cut it was written under."""

    folder: Path
    update: int
    cut: UpdateCut


class RunCheckpoints:
    """The `checkpoints` folder of a run. Only one rank writes, cleans and commits; all may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def partial(self, update: int) -> Path:
        """Return where the checkpoint of `update` is written before it counts."""
        return self.folder / f"update_{update:06d}{_PARTIAL_SUFFIX}"

    def commit(self, partial: Path, update: int, cut: UpdateCut) -> None:
        """Make a completely written checkpoint count, then drop old ones."""
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for path in files:
            _flush(path)
        sizes = {str(path.relative_to(partial)): path.stat().st_size for path in files}
        manifest = partial / MANIFEST
        manifest.write_text(json.dumps({"update": update, "cut": asdict(cut), "files": sizes}, indent=2) + "\n")
        _flush(manifest)
        final = partial.with_suffix("")
        if final.exists():  # damaged, or this update would not have been done again
            shutil.rmtree(final)
        partial.rename(final)
        _flush(self.folder)
        for old in [*self._named()][_KEPT_CHECKPOINTS:]:
            shutil.rmtree(old)
        for universal in self.folder.glob(f"*{UNIVERSAL_SUFFIX}"):
            shutil.rmtree(universal)

    def newest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint; damaged ones are named in the log.

        Raises:
            ValueError: there are checkpoints, but none is whole.
        """
        defects = []
        for folder in self._named():
            defect = _find_defect(folder)
            if defect is None:
                return _read(folder)
            defects.append(f"{folder.name}: {defect}")
            logger.warning("checkpoint %s is left alone: %s", folder, defect)
        if defects:
            raise ValueError(
                f"no checkpoint in {self.folder} is whole ({'; '.join(defects)}); delete that folder to train from the "
                "start"
            )
        return None

    def remove_remains(self) -> None:
        """Delete what killed saves and conversions left unfinished."""
        for partial in self.folder.glob(f"*{_PARTIAL_SUFFIX}"):
            logger.info("removing %s, which was never finished", partial)
            shutil.rmtree(partial)

    def _named(self) -> Iterator[Path]:
        """Folders of checkpoints that were committed, newest first."""
        if self.folder.exists():
            found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
            yield from sorted(found, key=lambda path: int(path.name.removeprefix("update_")), reverse=True)


def update_cut(config: EngineConfig, num_ranks: int) -> UpdateCut:
    """Return how a run on `num_ranks` ranks divides an update."""
    return UpdateCut(config.micro_batch_size, config.accumulation, num_ranks)


def require_same_update(checkpoint: Checkpoint, cut: UpdateCut) -> None:
    """Check that a resumed run takes as many images an update, so that it goes on at the next sample.

    Raises:
        ValueError: it does not; says which settings would.
    """
    written = checkpoint.cut
    if cut.images == written.images:
        return
    raise ValueError(
        f"{checkpoint.folder} was written with {written.images} images an update ({_describe(written)}), this start "
        f"takes {cut.images} ({_describe(cut)}): {_advise(written, cut.num_ranks)}"
    )


def _describe(cut: UpdateCut) -> str:
    return f"{cut.num_ranks} ranks x micro_batch_size {cut.micro_batch_size} x accumulation {cut.accumulation}"


def _advise(written: UpdateCut, num_ranks: int) -> str:
    """Name the cut that keeps micro-batches as large as they may stay; the same size even repeats every rounding."""
    per_rank, rest = divmod(written.images, num_ranks)
    if rest:
        return f"{num_ranks} ranks cannot share {written.images} images equally; take a number of ranks that can"
    size = max(size for size in range(1, written.micro_batch_size + 1) if per_rank % size == 0)
    return f"add --engine.micro_batch_size {size} --engine.accumulation {per_rank // size}"


def _find_defect(folder: Path) -> str | None:
    """Say what is wrong with a committed checkpoint (a failing disk, a half-finished copy); None: it is whole."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"it has no {MANIFEST}"
    for name, size in json.loads(manifest.read_text())["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    return None


def _read(folder: Path) -> Checkpoint:
    recorded = json.loads((folder / MANIFEST).read_text())
    return Checkpoint(folder, int(recorded["update"]), UpdateCut(**recorded["cut"]))


def _flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class ResumePoint:
    """What an engine loads: a folder as it was written, or in universal form."""

    folder: Path
    is_universal: bool


def find_resume_point(checkpoints: RunCheckpoints, config: EngineConfig, ranks: Ranks) -> ResumePoint | None:
    """Return where the run continues, None at its start. Collective: the main rank decides for all.

    A checkpoint of another number of ranks is rewritten once; the data go on at the next sample, since samples are
    numbered over all ranks.

    Raises:
        ValueError: no checkpoint is whole, or this start takes another number of images an update.
        RuntimeError: DeepSpeed could not convert the checkpoint.
    """
    found: list[ResumePoint | None] = [None]
    if ranks.is_main:
        checkpoint = checkpoints.newest()
        if checkpoint is not None:
            require_same_update(checkpoint, update_cut(config, ranks.world_size))
            is_universal = checkpoint.cut.num_ranks != ranks.world_size
            folder = to_universal(checkpoint.folder) if is_universal else checkpoint.folder
            found = [ResumePoint(folder, is_universal)]
    if ranks.world_size > 1:
        torch.distributed.broadcast_object_list(found)
    return found[0]


def to_universal(checkpoint: Path) -> Path:
    """Rewrite a ZeRO checkpoint so that any number of ranks reads it, beside the original; done once.

    Raises:
        RuntimeError: DeepSpeed could not; holds its last words.
    """
    target = checkpoint.with_name(checkpoint.name + UNIVERSAL_SUFFIX)
    if target.exists():
        return target
    logger.info("rewriting %s for another number of ranks", checkpoint)
    partial = target.with_name(f"{target.name}.partial")
    # Names alone, seen from their folder: DeepSpeed reads its paths as regular expressions.
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", checkpoint.name, "--output_folder", partial.name]
    done = subprocess.run(command, cwd=checkpoint.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise RuntimeError(
            f"DeepSpeed could not rewrite {checkpoint} for another number of ranks: {done.stderr[-2000:]}"
        )
    (checkpoint.parent / "latest_universal").unlink(missing_ok=True)  # DeepSpeed's own pointer, which names `partial`
    partial.rename(target)
    return target
