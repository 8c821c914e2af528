"""Training: the loop (`trainer.py`), engines that turn losses into updates (`engine.py`), one run (`run.py`)."""
