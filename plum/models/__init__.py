"""The models. `grounded_lmm.py` holds the one forward pass of every system.

`systems/` builds PLUM, LISA and M2SA from `backbones/` (LLaVA), `segmenters/` (SAM) and `heads/`.
"""
