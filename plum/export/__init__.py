"""Export of trained models: adapters merged (`merged.py`) or alone (`export_adapters.py`), with a model card.

`export_source.py` opens what an export starts from.
"""
