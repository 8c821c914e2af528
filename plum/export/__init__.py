"""Trained models as folders for others: adapters merged (`merged.py`) or alone (`export_adapters.py`), model card.

`export_source.py` says what an export may start from.
"""
