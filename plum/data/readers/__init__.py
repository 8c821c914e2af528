"""Readers of the downloads that only training needs."""
