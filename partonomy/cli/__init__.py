"""The commands of `python -m partonomy`, one file per group; `partonomy/__main__.py` lists them."""
