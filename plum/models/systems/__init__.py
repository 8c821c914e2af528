"""PLUM and its sister systems: their components and their target notations. Start with `registry.py`."""
