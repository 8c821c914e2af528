"""Annotations in the project's own form: `store.py` reads and writes a data set folder.

`sources/` reads published and users' annotations; `curation/` checks, prunes, merges, splits and describes data sets;
`synthetic/` draws the embedded data set. `shard_results.py` stores the results of sharded commands until they are
merged.
"""
