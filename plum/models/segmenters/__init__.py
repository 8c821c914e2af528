"""Mask prediction: SAM built from its own package's modules, and resizing of its masks to original resolution."""
