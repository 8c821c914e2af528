"""Readers of published part data sets and users' files. To add a source, register its reader in `registry.py`."""
