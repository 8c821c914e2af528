"""MMR-like questions about any part data set, from templates or from a chat model. Start at `build.py`."""
