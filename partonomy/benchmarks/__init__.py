"""The benchmarks. `task.py` is the contract between a benchmark and the harness, `registry.py` lists the benchmarks.

To add a benchmark, write a task and add one line to the registry.
"""
