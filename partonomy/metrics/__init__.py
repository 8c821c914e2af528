"""Metrics of masks, choices and names, and their confidence intervals. Start at `iou.py` and `bootstrap.py`."""
