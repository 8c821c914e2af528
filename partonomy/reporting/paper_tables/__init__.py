"""The papers' tables, quoted rows beside runs; `catalogue.py` lists them, `paper_table.py` is the base class."""
