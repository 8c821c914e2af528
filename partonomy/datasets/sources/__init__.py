"""Readers of published part data sets and users' files. Start at `registry.py`; add a new source's reader there."""
