"""Groups of successive samples of similar length, so that little of a batch is padding.

The order is a function of the seed and the position alone, as the mixture's is: it does not know of ranks or batches.
A run that stops resumes to the sample, and the same positions are the same samples on any number of ranks.

What it changes besides speed: losses are means over a micro-batch, and samples of similar length often come from one
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
