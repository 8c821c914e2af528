"""What a system adds between backbone and segmenter: tagger, query projection, mask feedback, teacher."""
