"""What the model reads: conversations as tokens with labels and tags, images as pixels.

Start at `conversation.py` and `encoding.py`.
"""
