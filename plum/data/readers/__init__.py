"""Readers of downloads that only training needs."""
