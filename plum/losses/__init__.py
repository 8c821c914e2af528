"""Unweighted losses of every system; `losses.weighted_sum` applies the weights."""
