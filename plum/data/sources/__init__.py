"""Training sources: each turns annotated images into conversations. The contract is in `base.py`."""
