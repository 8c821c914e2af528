"""Tiny copies of every download in its real layout, for end-to-end trials. Start at `writer.py`."""
