"""Checks and describes data sets, and derives data sets from data sets: prune, merge, split."""
