"""Model inputs: conversations as tokens with labels and tags, images as pixels.

Start with `conversation.py` and `encoding.py`.
"""
