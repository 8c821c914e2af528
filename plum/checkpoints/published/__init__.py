"""Conversion of published weights: formats, key tables, tokenizers.

Start with `convert_llava.py` (LLaVA and SAM become a base) or `convert_system.py` (systems with heads become models).
"""
