"""Exports for other evaluation harnesses."""
