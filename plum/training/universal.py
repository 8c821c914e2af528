"""Where a run continues: its newest checkpoint, in DeepSpeed's universal form when other ranks than now wrote it."""

import logging
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch.distributed

from plum.train_config import EngineConfig
from plum.training.ranks import Ranks
from plum.training.run_checkpoints import UNIVERSAL_SUFFIX, RunCheckpoints, require_same_update, update_cut

logger = logging.getLogger(__name__)


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
