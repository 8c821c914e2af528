"""Of several ranks exactly one ends last, also when they end together or were killed before."""

import threading
from pathlib import Path

from partonomy.harness.finishing import RANKS_FILE, remove_list, sign_off, sign_on

from partonomy.harness.ranks import Rank
from tests.partonomy.running import make_config, run


def test_one_process_is_always_the_last(tmp_path: Path) -> None:
    sign_on(tmp_path, Rank())
    assert sign_off(tmp_path, Rank())
    assert list(tmp_path.iterdir()) == []


def test_of_ranks_that_end_together_one_is_the_last(tmp_path: Path) -> None:
    for _ in range(5):
        ranks = [Rank(index, 8) for index in range(8)]
        start, last = threading.Barrier(8), []

        def end(rank: Rank, start: threading.Barrier = start, last: list[int] = last) -> None:
            sign_on(tmp_path, rank)
            start.wait()
            if sign_off(tmp_path, rank):
                last.append(rank.index)

        threads = [threading.Thread(target=end, args=(rank,)) for rank in ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(last) == 1
        remove_list(tmp_path)


def test_a_list_left_by_a_killed_run_counts_for_nobody_who_is_still_at_work(tmp_path: Path) -> None:
    sign_on(tmp_path, Rank(0, 2))
    assert not sign_off(tmp_path, Rank(0, 2))  # rank 1 is killed
    for rank in (Rank(0, 2), Rank(1, 2)):
        sign_on(tmp_path, rank)
    assert not sign_off(tmp_path, Rank(1, 2))
    assert sign_off(tmp_path, Rank(0, 2))


def test_another_number_of_ranks_starts_a_new_list(tmp_path: Path) -> None:
    assert not sign_off(tmp_path, Rank(0, 3))
    (tmp_path / RANKS_FILE).write_text("half a li")
    assert not sign_off(tmp_path, Rank(1, 3))
    assert not sign_off(tmp_path, Rank(0, 2))
    assert sign_off(tmp_path, Rank(1, 2))


def test_only_the_last_rank_has_the_summary_also_when_a_finished_run_is_resumed(
    question_file: Path, tmp_path: Path
) -> None:
    config = make_config(question_file, tmp_path / "run", "random")
    assert run(config, rank=Rank(0, 2)) is None
    assert run(config, rank=Rank(1, 2)) is not None
    assert not (tmp_path / "run" / RANKS_FILE).exists()
    assert run(config, resume=True, rank=Rank(1, 2)) is None  # all records are there, but rank 0 is still to come
    assert run(config, resume=True, rank=Rank(0, 2)) is not None
