"""Training data: `build.py` makes a mixture of `sources/`, `mixture.py` draws from it, `collate.py` makes batches.

`readers/` reads downloads, `miniature/` writes tiny copies of them for trials, `catalogue.py` lists them.
"""
