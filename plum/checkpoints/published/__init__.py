"""Published LLaVA and SAM weights as saved models: formats, key tables, tokenizers. Start at `convert_llava.py`."""
