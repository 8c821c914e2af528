"""Readers of published part data sets and users' files. To add a source, write a reader and register it in `registry.py`."""
