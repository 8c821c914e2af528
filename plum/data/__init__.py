"""Training data: `build.py` makes a mixture of `sources/`, `mixture.py` draws from it, `collate.py` makes batches.

`readers/` reads the downloads, `miniature/` writes tiny copies of them for trials, and `catalogue.py` lists them.
"""
