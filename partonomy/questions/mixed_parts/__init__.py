"""MixedParts (CALICO): pairs of images with common and unique parts, built from part data sets."""
