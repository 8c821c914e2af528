"""Rows of tokens in passes of similar length, so that short ones are not padded to the longest.

Rows of a batch do not see each other, so it does not matter which of them share a pass: states and gradients stay what
they are. (Grouping samples in the data loader saves more, but changes which samples share a micro-batch, and with it
what the losses are averaged over.)
"""

from collections.abc import Sequence

MIN_SAVED_PLACES = 256
"""Token places that a further pass must save. Measured on a CPU (docs/LOG.md): a pass pays from 64 on, at the tiny size
and at four layers of 512. On a GPU not measured: there a pass also reads all weights again, which at 7B is about the
arithmetic of a hundred places."""


def group_rows(lengths: Sequence[int], min_saved: int = MIN_SAVED_PLACES) -> list[list[int]]:
    """Divide rows into passes: as few token places as possible, each pass counted as `min_saved` of them.

    Args:
        lengths: real tokens of each row, at least one.
        min_saved: cost of a pass, in token places.

    Returns:
        Rows of each pass, those of the longest rows first.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cheapest, begins = [0], [0]  # of the first rows in that order: cost, and where their last pass begins
    for end in range(1, len(order) + 1):
        costs = [cheapest[begin] + (end - begin) * lengths[order[begin]] + min_saved for begin in range(end)]
        cheapest.append(min(costs))
        begins.append(costs.index(min(costs)))
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.insert(0, order[begins[end] : end])
        end = begins[end]
    return groups
