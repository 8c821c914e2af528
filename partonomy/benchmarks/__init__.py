"""The benchmarks. `task.py` is the contract between a benchmark and the harness, `registry.py` lists the benchmarks.

A new benchmark is one task and one line of the registry.
"""
