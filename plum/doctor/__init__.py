"""Checks before a run: environment, folders, memory estimate, and a known answer."""
