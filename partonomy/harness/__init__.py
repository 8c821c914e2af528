"""Runs any model on any benchmark. Start at `run.py`.

`asking.py` sends requests to the model in batches, `ranks.py` divides the work, `run_folder.py` owns the output folder,
`records.py` reads and writes the record file, `summary.py` computes the numbers, and `merge_runs.py` joins shards.
`run_folder.py` decides whether a run may resume; `run.py` skips items that have a record.
"""
