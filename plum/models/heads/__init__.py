"""Modules between backbone and segmenter: tagger, query projection, mask feedback and teacher."""
