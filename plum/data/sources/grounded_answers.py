"""Questions and answers of one's own, with the masks of the phrases that the answers name."""

from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from partonomy.images import load_image
from plum.data.readers.grounded_answers import read_grounded_answers
from plum.data.sources.base import draw_indices, longest_text
from plum.structures import Exchange, Sample


class GroundedAnswersSource:
    """One image's conversations per sample, at most `conversations_per_image` of them.

    Args:
        path: the file; see `plum.data.readers.grounded_answers`.
        conversations_per_image: maximum number of conversations per sample.
        excluded: image files that may not be trained on.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a record is broken, or no image is left.
    """

    name = "grounded_answers"

    def __init__(self, path: Path, conversations_per_image: int, excluded: Container[Path] = ()) -> None:
        found = read_grounded_answers(path)
        self.images = tuple(image for image in found if image.path not in excluded)
        self.conversations_per_image = conversations_per_image
        if not self.images:
            raise ValueError(f"{path}: no image is left to train on: all {len(found)} are excluded")

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return image `index` with some of its conversations."""
        image = self.images[index]
        conversations = self._draw(index, generator)
        try:
            pixels = load_image(image.path, image.height, image.width)
        except (OSError, ValueError) as error:
            raise ValueError(f"source {self.name}, image {image.path}: {error}") from error
        return Sample(f"{self.name}/{image.path.name}", self.name, pixels, conversations)

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the longest conversation of the same sample; no image is read."""
        return longest_text(self._draw(index, generator))

    def exchanges(self) -> Iterator[Exchange]:
        """Yield all texts of the file."""
        for image in self.images:
            for conversation in image.conversations:
                yield from (Exchange(one.question, one.answer, one.spans) for one in conversation)

    def _draw(self, index: int, generator: np.random.Generator) -> tuple[tuple[Exchange, ...], ...]:
        conversations = self.images[index].conversations
        chosen = draw_indices(len(conversations), self.conversations_per_image, generator)
        return tuple(conversations[one] for one in chosen)
