"""The embedded dataset: objects with parts drawn from a seed, with exact masks. Start at `dataset.py`."""
