"""The batches that wait in shared memory, against the free space; the estimate of a batch against a packed one."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from plum.data.packed_batch import pack_batch
from plum.doctor.findings import State
from plum.doctor.memory import batch_bytes
from plum.doctor.shared_memory import examine_shared_memory
from plum.doctor.workload import Assumptions, build_workload
from tests.plum.doctor.runs import shipped
from tests.plum.training.test_device_waits import full_size_batch

NUM_RANKS = 8
DOCKERS_DEFAULT = 64 * 2**20


@pytest.mark.parametrize("has_gpu", [False, True])
def test_dockers_default_is_too_small(has_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = shipped("plum_13b_0shot")
    work = build_workload(config, Assumptions())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=DOCKERS_DEFAULT))
    (finding,) = examine_shared_memory(config, work, NUM_RANKS, tmp_path)
    assert finding.state is (State.MISSING if has_gpu else State.REMARK)
    needed = NUM_RANKS * config.engine.num_workers * 4 * batch_bytes(config, work)
    assert f"{needed / 1e9:.2f} GB needed (8 ranks x 4 workers x 4 batches), 0.07 GB free" in finding.found
    assert "--shm-size" in finding.to_do
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    (finding,) = examine_shared_memory(config, work, NUM_RANKS, tmp_path)
    assert finding.state is State.FINE


def test_without_loader_processes_nothing_is_shared(tmp_path: Path) -> None:
    config = shipped("plum_13b_0shot")
    work = build_workload(config, Assumptions())
    alone = replace(config, engine=replace(config.engine, num_workers=0))
    assert examine_shared_memory(alone, work, NUM_RANKS, tmp_path) == []
    assert examine_shared_memory(config, work, NUM_RANKS, tmp_path / "absent") == []


def test_a_batch_has_the_estimated_bytes() -> None:
    """6 images x 3 conversations x 4 masks, at full size but for the texts, which are short."""
    config, batch = shipped("plum_13b_0shot"), full_size_batch()
    work = build_workload(config, Assumptions())
    sides = batch.clip_pixels.shape[-1], batch.sam_pixels.shape[-1]
    vision, sam = config.model.llava.vision, config.model.sam
    model = replace(
        config.model,
        llava=replace(config.model.llava, vision=replace(vision, image_size=sides[0])),
        sam=replace(sam, image_size=sides[1]),
    )
    work = replace(work, tokens=batch.input_ids.shape[1])
    assert work.rows == batch.input_ids.numel()
    found = pack_batch(batch).buffer.nbytes
    assert batch_bytes(replace(config, model=model), work) == pytest.approx(found, rel=0.02)
