"""Training sources, each of which turns annotated images into conversations. `base.py` defines the contract."""
