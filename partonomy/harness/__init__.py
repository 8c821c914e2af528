"""Runs any model on any benchmark. Start at `run.py`.

`asking.py` sends requests to the model in batches, `run_folder.py` owns the output folder, `records.py` the record
file, `ranks.py` the division of work and `summary.py` the numbers; `merge.py` joins shards.
"""
