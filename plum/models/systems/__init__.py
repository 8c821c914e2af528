"""PLUM and its sisters: which components each has, and how its answers say what to segment. Start at `registry.py`."""
