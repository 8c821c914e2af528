"""Tables, comparisons and report pages of finished runs. Start at `loaded_run.py`."""
