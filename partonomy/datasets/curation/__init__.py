"""Data sets checked, described, and made from data sets: prune, merge, split."""
