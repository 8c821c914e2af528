"""Readers of published part data sets and users' files. Start at `registry.py`; a new source is one reader there."""
