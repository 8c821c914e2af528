"""Tiny copies of every download in its real layout, for trials of the whole path. Start at `writer.py`."""
