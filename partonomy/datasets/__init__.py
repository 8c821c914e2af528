"""What is annotated, in the project's own form: `store.py` reads and writes a data set folder.

`sources/` reads published and users' annotations, `curation/` checks, prunes, merges, splits and describes data sets,
`synthetic/` draws the embedded one. `shard_results.py` is what commands in shards leave to be merged.
"""
