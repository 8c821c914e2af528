"""Partonomy: the benchmark of part-level visual understanding, and the harness that runs every benchmark.

The packages, lowest layer last; imports point down (see pyproject.toml, `lint-imports`):

- files, images, locks, masks, names, progress, quoted_rows, sharding, structures, table_format, visualize: shared by
  all packages
- metrics: IoU, matching, multiple choice, intervals
- datasets: annotations in the project's own form; sources, curation, the drawn data set
- questions: Partonomy's questions and wrong answers; MMR-like questions
- models: the model contract, and every model that is not PLUM
- benchmarks: one file or folder each: items, requests, score, metrics
- harness: runs any model on any benchmark
- reporting: tables, comparisons, report pages
- integrations: task folders for other harnesses
- cli: one file per group of commands

Start reading at `benchmarks/task.py` and `harness/run.py`.
"""
