"""Training: a run (`run.py`), its loop (`trainer.py`), and engines that turn losses into updates (`engine.py`)."""
