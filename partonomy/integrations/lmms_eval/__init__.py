"""Task folders for lmms-eval: `task.py` writes one, `task_functions.py` is what its YAML calls."""
