"""The language side: LLaVA, its adapters, quantization, and common prefixes run once."""
