"""The Partonomy benchmark: questions in turns (`steps.py`), the task (`task.py`), its records and metrics."""
