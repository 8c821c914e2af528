"""Orders of samples by length: grouped, to reduce padding, or spread, so that no rank waits long for another.

Groups put samples of similar length next to each other. Spreading gives each rank a similar share of an update. Like
the mixture's own order, both depend only on the seed and the position, not on ranks or batches: a resumed run continues
at the exact sample, and a position holds the same sample on any number of ranks.

Grouping also changes the loss: losses are means over a micro-batch, and samples of similar length often come from the
same source. A micro-batch that holds only dialogues has no mask loss, whereas a mixed one would have it in full.
"""

import numpy as np

WINDOW_GROUPS = 20
"""Number of groups per window. Samples are sorted within windows, so that no sample moves further than a window."""


def group_lengths(lengths: np.ndarray, group_size: int, generator: np.random.Generator) -> np.ndarray:
    """Order the samples of a window.

    Args:
        lengths: [WINDOW_GROUPS * group_size], of the samples as they are drawn.
        group_size: number of successive samples of similar length.
        generator: shuffles the groups.

    Returns:
        Index of the sample at each place: sorted by length within a group (ties as drawn), groups in random order.
    """
    groups = np.argsort(lengths, kind="stable").reshape(-1, group_size)
    return generator.permutation(groups).reshape(-1)


def spread_lengths(lengths: np.ndarray) -> np.ndarray:
    """Order samples so that equal consecutive pieces, one per rank, have similar mixes of short and long samples.

    Sorted samples are dealt to two halves in turn, those of each half to its quarters, and so on (bit-reversed places),
    so that the pieces of 2, 4, 8, ... ranks are similar.

    Args:
        lengths: [N], of the samples as they are drawn.

    Returns:
        Index of the sample at each place, [N].
    """
    num_bits = (len(lengths) - 1).bit_length()
    reversed_places = [int(format(place, f"0{num_bits}b")[::-1], 2) for place in range(1 << num_bits)]
    order = np.argsort(lengths, kind="stable")
    return order[[place for place in reversed_places if place < len(lengths)]]
