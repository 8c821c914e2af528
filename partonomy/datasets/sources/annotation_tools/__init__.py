"""Readers of the native files of annotation tools: CVAT, Label Studio, labelme, VIA, Supervisely.

A tool's reader turns its file into shapes (`shapes.py`), `regions.py` draws them, `roles.py` tells objects from parts,
and `tools.py` lists the tools. `build` and `check` read through `read_tool`.
"""
