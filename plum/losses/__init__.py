"""The losses of every system, unweighted; weighting happens once, in `losses.weighted_sum`."""
