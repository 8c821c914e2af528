"""The language side: LLaVA (also greedy generation), its adapters, quantization, and common prefixes run once."""
