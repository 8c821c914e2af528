"""Modules between backbone and segmenter: tagger and its CRF, query projection, mask feedback and teacher."""
