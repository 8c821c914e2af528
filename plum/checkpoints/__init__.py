"""Saved models: `store.py` writes and reads a folder, `weights.py` the tensors.

`published/` converts published LLaVA and SAM weights.
"""
