"""Orders of samples by length: alike ones one after another, so that little of a batch is padding, or each rank's share
of an update like the others', so that no rank waits long for another.

Either order is a function of the seed and the position alone, as the mixture's is: it knows of no ranks or batches. A
run that stops resumes to the sample, and the same positions are the same samples on any number of ranks.

What groups change besides speed: losses are means over a micro-batch, and samples of similar length often come from one
source. A micro-batch of dialogues alone has no mask loss, where a mixed one would have had it in full.
"""

import numpy as np

WINDOW_GROUPS = 20
"""Groups of a window. Samples are sorted within windows of this many groups: a sample moves no further than that."""


def group_lengths(lengths: np.ndarray, group_size: int, generator: np.random.Generator) -> np.ndarray:
    """Order the samples of a window.

    Args:
        lengths: [WINDOW_GROUPS * group_size] of the samples as they are drawn.
        group_size: successive samples that are alike in length.
        generator: shuffles the groups.

    Returns:
        Which sample comes at each place: sorted by length within a group (equal ones as drawn), groups in random order.
    """
    groups = np.argsort(lengths, kind="stable").reshape(-1, group_size)
    return generator.permutation(groups).reshape(-1)


def spread_lengths(lengths: np.ndarray) -> np.ndarray:
    """Order samples so that ranks, which take equal pieces of them, get short and long ones alike.

    Sorted samples are dealt to two halves in turn, those of each half to its quarters, and so on (bit-reversed places):
    the pieces of 2, 4, 8, ... ranks are alike.

    Args:
        lengths: [N] of the samples as they are drawn.

    Returns:
        Which sample comes at each place, [N].
    """
    num_bits = (len(lengths) - 1).bit_length()
    reversed_places = [int(format(place, f"0{num_bits}b")[::-1], 2) for place in range(1 << num_bits)]
    order = np.argsort(lengths, kind="stable")
    return order[[place for place in reversed_places if place < len(lengths)]]
