"""The model contract (`contract.py`) and the models that implement it; `registry.py` builds one by name.

PLUM implements the contract in its own package.
"""
