import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from plum.export.training_checkpoint import read_trained
from plum.train_config import EngineConfig
from plum.training.ranks import Ranks
from plum.training.run_checkpoints import (
    Checkpoint,
    RunCheckpoints,
    UpdateCut,
    find_resume_point,
    require_same_update,
)
from plum.training.safe_checkpoints import require_plain_content

CUT = UpdateCut(micro_batch_size=2, accumulation=3, num_ranks=2)


@pytest.fixture
def checkpoints(tmp_path: Path) -> RunCheckpoints:
    return RunCheckpoints(tmp_path / "checkpoints")


def write_checkpoint(checkpoints: RunCheckpoints, update: int) -> Path:
    """Write and commit one of two files."""
    partial = checkpoints.partial(update)
    partial.mkdir(parents=True)
    (partial / "rank0.pt").write_bytes(b"weights" * update)
    (partial / "rank1.pt").write_bytes(b"optimizer")
    checkpoints.commit(partial, update, CUT)
    return checkpoints.folder / f"update_{update:06d}"


def test_a_checkpoint_counts_once_it_is_whole_and_two_are_kept(checkpoints: RunCheckpoints) -> None:
    assert checkpoints.newest() is None
    checkpoints.partial(10).mkdir(parents=True)
    assert checkpoints.newest() is None
    checkpoints.remove_remains()
    for update in (10, 20, 30):
        folder = write_checkpoint(checkpoints, update)
        assert checkpoints.newest() == Checkpoint(folder, update, CUT)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["update_000020", "update_000030"]


def test_updates_are_ordered_by_number_beyond_a_million(checkpoints: RunCheckpoints) -> None:
    for update in (999_999, 1_000_000):
        write_checkpoint(checkpoints, update)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.update == 1_000_000


def edit(folder: Path, **change: object) -> None:
    """Change entries of a checkpoint's manifest."""
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "rank1.pt").write_bytes(b"optimize"), "rank1.pt has 8 bytes, not 9"),
        (lambda folder: (folder / "rank0.pt").unlink(), "rank0.pt is missing"),
        (lambda folder: (folder / "checkpoint.json").unlink(), "it has no checkpoint.json"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "checkpoint.json is damaged"),
        (lambda folder: (folder / "checkpoint.json").write_text("[]"), "checkpoint.json is damaged"),
        (lambda folder: edit(folder, update="2"), "checkpoint.json is damaged ('update' must be an integer, got '2')"),
        (lambda folder: edit(folder, files={"rank0.pt": {"bytes": 9}}), "checkpoint.json is damaged (files[...]:"),
        (lambda folder: edit(folder, files=[]), "checkpoint.json is damaged ('files' must be an object, got [])"),
        (lambda folder: edit(folder, cut={"num_ranks": "2"}), "checkpoint.json is damaged (cut: "),
        (lambda folder: (folder / "rank1.pt").write_bytes(b"optimizes"), "rank1.pt has changed since it was written"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    checkpoints: RunCheckpoints, damage: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = write_checkpoint(checkpoints, 1), write_checkpoint(checkpoints, 2)
    damage(newer)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest() == Checkpoint(older, 1, CUT)
    assert f"{newer} is damaged and ignored: {reason}" in caplog.text
    damage(older)  # type: ignore[operator]
    with pytest.raises(ValueError, match="no checkpoint in .*checkpoints is complete .*update_000002.*update_000001"):
        checkpoints.newest()
    # What is done again replaces the damaged one.
    assert write_checkpoint(checkpoints, 2) == newer
    assert checkpoints.newest() == Checkpoint(newer, 2, CUT)


def test_remains_and_converted_forms_go(checkpoints: RunCheckpoints) -> None:
    write_checkpoint(checkpoints, 1)
    for name in ("update_000002.partial", "update_000001.universal.partial", "update_000001.universal"):
        (checkpoints.folder / name).mkdir()
    checkpoints.remove_remains()
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["update_000001", "update_000001.universal"]
    write_checkpoint(checkpoints, 2)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["update_000001", "update_000002"]


@pytest.mark.parametrize(
    ("start", "advice"),
    [
        # 12 images: 2 x 3 on 2 ranks
        (UpdateCut(2, 3, 1), "add --engine.micro_batch_size 2 --engine.accumulation 6"),
        (UpdateCut(2, 3, 3), "add --engine.micro_batch_size 2 --engine.accumulation 2"),
        (UpdateCut(2, 3, 4), "add --engine.micro_batch_size 1 --engine.accumulation 3"),
        (UpdateCut(2, 3, 5), "5 ranks cannot share 12 images equally"),
    ],
)
def test_another_number_of_images_an_update_is_refused_with_what_would_fit(start: UpdateCut, advice: str) -> None:
    checkpoint = Checkpoint(Path("update_000001"), 1, CUT)
    with pytest.raises(ValueError, match=f"12 images per update .2 ranks x micro_batch_size 2.*{advice}"):
        require_same_update(checkpoint, start)


@pytest.mark.parametrize("cut", [UpdateCut(2, 6, 1), UpdateCut(2, 2, 3), UpdateCut(1, 3, 4), UpdateCut(6, 1, 2)])
def test_any_cut_of_the_same_images_is_accepted(cut: UpdateCut) -> None:
    require_same_update(Checkpoint(Path("update_000001"), 1, CUT), cut)


def test_a_checkpoint_of_an_older_run_has_sizes_alone(checkpoints: RunCheckpoints) -> None:
    folder = write_checkpoint(checkpoints, 1)
    manifest = json.loads((folder / "checkpoint.json").read_text())
    manifest["files"] = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    (folder / "checkpoint.json").write_text(json.dumps(manifest))
    assert checkpoints.newest() == Checkpoint(folder, 1, CUT)
    (folder / "rank1.pt").write_bytes(b"optimize")
    with pytest.raises(ValueError, match="has 8 bytes, not 9"):
        checkpoints.newest()


def test_more_or_fewer_are_kept(tmp_path: Path) -> None:
    checkpoints = RunCheckpoints(tmp_path / "checkpoints", 3)
    for update in range(1, 6):
        write_checkpoint(checkpoints, update)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [f"update_00000{n}" for n in (3, 4, 5)]


@pytest.mark.parametrize("prefix", ["", "bf16_"])
def test_a_checkpoint_without_the_files_of_a_rank_is_not_committed(checkpoints: RunCheckpoints, prefix: str) -> None:
    """As when the nodes do not share the folder."""
    partial = checkpoints.partial(1)
    partial.mkdir(parents=True)
    for rank in (0, 2):
        (partial / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"optimizer")
    (partial / "mp_rank_00_model_states.pt").write_bytes(b"weights")
    with pytest.raises(OSError, match="has no file of rank 1; run_dir must lie on a file system that all nodes share"):
        checkpoints.commit(partial, 1, UpdateCut(1, 1, 3))
    with pytest.raises(OSError, match="has no file of rank 1, 3"):
        checkpoints.commit(partial, 1, UpdateCut(1, 1, 4))
    assert not checkpoints.has_any()
    (partial / f"{prefix}zero_pp_rank_1_mp_rank_00_optim_states.pt").write_bytes(b"optimizer")
    checkpoints.commit(partial, 1, UpdateCut(1, 1, 3))
    newest = checkpoints.newest()
    assert newest is not None


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_a_checkpoint_that_would_run_code_is_refused_unread(
    checkpoints: RunCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    partial = checkpoints.partial(1)
    partial.mkdir(parents=True)
    torch.save({"weights": torch.zeros(2), "names": ["a"]}, partial / "mp_rank_00_model_states.pt")
    require_plain_content(partial)
    torch.save({"optimizer": _Harm()}, partial / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    checkpoints.commit(partial, 1, UpdateCut(1, 1, 1))
    ranks = Ranks(0, 1, torch.device("cpu"))
    engine = EngineConfig(micro_batch_size=1, accumulation=1)
    with pytest.raises(ValueError, match=r"zero_pp_rank_0.*it would call posix\.system"):
        find_resume_point(checkpoints, engine, ranks)
    with pytest.raises(ValueError, match=r"zero_pp_rank_0.*it would call posix\.system"):
        read_trained(checkpoints.folder / "update_000001")
    assert not (tmp_path / "harmed").exists()
    monkeypatch.setenv("PLUM_TRUST_CHECKPOINTS", "1")
    assert find_resume_point(checkpoints, engine, ranks) is not None


def test_a_pickle_without_the_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.load` would take it for a file of an old PyTorch, and run it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pt").write_bytes(pickle.dumps(_Harm()))
    with pytest.raises(ValueError, match=r"old\.pt: not written by torch\.save"):
        require_plain_content(tmp_path)
    assert not (tmp_path / "harmed").exists()
