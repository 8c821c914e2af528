"""Passes of similar length: what they save."""

import torch

from plum.models.backbones import shared_beginnings as row_groups
from plum.models.backbones.shared_beginnings import group_rows


def test_golden() -> None:
    # One pass: 4 x 10 places. Two: 10 + 3 x 4 = 22 places, 18 saved for one more pass; three of them save no more.
    assert group_rows([4, 10, 4, 3], min_saved=17) == [[1], [0, 2, 3]]
    assert group_rows([4, 10, 4, 3], min_saved=19) == [[1, 0, 2, 3]]
    assert group_rows([4, 10, 4, 3], min_saved=0) == [[1], [0, 2], [3]]
    assert group_rows([7], min_saved=0) == [[0]]


def test_every_row_once_and_never_dearer_than_one_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        lengths = torch.randint(
            1, 800, (int(torch.randint(1, 20, (), generator=generator)),), generator=generator
        ).tolist()
        groups = group_rows(lengths)
        assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
        cost = sum(len(rows) * max(lengths[row] for row in rows) + row_groups.MIN_SAVED_PLACES for rows in groups)
        assert cost <= len(lengths) * max(lengths) + row_groups.MIN_SAVED_PLACES


def test_a_usual_batch_of_the_quickstart_stays_whole() -> None:
    """Eight rows of the tiny recipe, 77 tokens on average and 110 at most, save less than a pass costs."""
    assert len(group_rows([110, *[77] * 7])) == 1
