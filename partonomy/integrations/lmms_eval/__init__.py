"""Task folders for lmms-eval: `task.py` writes one; its YAML calls the functions of `task_functions.py`."""
