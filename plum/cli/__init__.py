"""The commands of `python -m plum`, one file per command; `main.py` lists them."""
