"""What a memory estimate assumes of the data; imports no torch, because the command's help states the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumptions:
    """What a configuration does not say about its data. The defaults are the heaviest typical micro-batch.

    Attributes:
        text_tokens: text tokens of every conversation (all are padded to the longest); None: `data.max_text_tokens`.
        supervised_tokens: how many of them are answer tokens; None: all.
        spans_per_conversation: segmented phrases per conversation.
        tokens_per_span: tokens of the longest phrase.
        image_size: (H, W) of the photographs in pixels, at which masks are compared.
        images_per_conversation: images of every conversation; None: 2 if a source holds pairs, otherwise 1.
    """

    text_tokens: int | None = None
    supervised_tokens: int | None = None
    spans_per_conversation: int = 4
    tokens_per_span: int = 4
    image_size: tuple[int, int] = (480, 640)
    images_per_conversation: int | None = None
