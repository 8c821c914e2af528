"""Conversion of published LLaVA and SAM weights: formats, key tables, tokenizers. Start with `convert_llava.py`."""
