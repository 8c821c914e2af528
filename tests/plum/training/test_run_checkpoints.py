import logging
from pathlib import Path

import pytest

from plum.training.run_checkpoints import Checkpoint, RunCheckpoints, UpdateCut, require_same_update

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


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "rank1.pt").write_bytes(b"optimize"), "rank1.pt has 8 bytes, not 9"),
        (lambda folder: (folder / "rank0.pt").unlink(), "rank0.pt is missing"),
        (lambda folder: (folder / "checkpoint.json").unlink(), "it has no checkpoint.json"),
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
