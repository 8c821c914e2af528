"""MixedParts: what two images have in common, or what only one of them has (CALICO, section 4), a pair per sample."""

from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from partonomy.datasets.mixed_parts import PairSample, PairSamples, read_sources, split_file
from partonomy.images import load_image
from partonomy.progress import counted, progress
from partonomy.questions.mixed_parts.texts import PairTexts, draws_of, load_pair_templates
from plum.structures import Exchange, Sample

MAX_EXAMPLES = 5000
"""Samples whose texts `exchanges` yields; a folder may hold millions."""


class MixedPartsSource:
    """The training pairs of a folder that `python -m partonomy build-mixedparts` has written.

    Question, sentences and the order of phrases are drawn anew whenever a pair is (CALICO, supplement).

    Args:
        folder: the folder.
        excluded: image files that may not be trained on.
        split: its file of samples.

    Raises:
        FileNotFoundError: the folder or the split is missing.
        ValueError: a file is broken, or every pair has an excluded image.
    """

    name = "mixed_parts"

    def __init__(self, folder: Path, excluded: Container[Path] = (), split: str = "train") -> None:
        self.sources = read_sources(folder)
        self.samples = PairSamples(split_file(folder, split))
        is_excluded: dict[Path, bool] = {}
        kept = []
        with progress(len(self.samples), self.name, "pair") as shown:
            for place, (source, names) in enumerate(counted(self.samples.image_names(), shown)):
                paths = [self.sources[source].image_root / name for name in names]
                for path in paths:
                    if path not in is_excluded:
                        is_excluded[path] = path in excluded
                if not any(is_excluded[path] for path in paths):
                    kept.append(place)
        self._places = np.asarray(kept)
        if not len(self._places):
            raise ValueError(
                f"{split_file(folder, split)} has no pair to train on ({len(self.samples)} have excluded images)"
            )

    def __len__(self) -> int:
        return len(self._places)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Ask about both images of pair `index`."""
        pair = self.samples[int(self._places[index])]
        texts = self._draw_texts(pair, generator)
        exchange = Exchange(
            texts.question, texts.answer.text, texts.answer.spans, texts.masks, images=texts.answer.images
        )
        try:
            first, second = (
                load_image(self._path(pair, place), height, width) for place, (height, width) in enumerate(pair.size_of)
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"source {self.name}, pair {pair.sample_id}: {error}") from error
        return Sample(f"{self.name}/{pair.sample_id}", self.name, first, ((exchange,),), more_images=(second,))

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the conversation of the same sample; no image is read."""
        texts = self._draw_texts(self.samples[int(self._places[index])], generator)
        return len(texts.question) + len(texts.answer.text)

    def exchanges(self) -> Iterator[Exchange]:
        """Yield the texts of at most `MAX_EXAMPLES` pairs, evenly spread over the file."""
        for number in np.unique(np.linspace(0, len(self) - 1, MAX_EXAMPLES).round().astype(np.int64)):
            pair = self.samples[int(self._places[number])]
            texts = self._draw_texts(pair, np.random.default_rng(int(number)))
            yield Exchange(texts.question, texts.answer.text, texts.answer.spans, images=texts.answer.images)

    def _draw_texts(self, pair: PairSample, generator: np.random.Generator) -> PairTexts:
        draws = draws_of(int(generator.integers(2**32)), pair.sample_id)
        return load_pair_templates().texts(pair, draws, is_shuffled=True)

    def _path(self, pair: PairSample, place: int) -> Path:
        return self.sources[pair.source].image_root / pair.images[place]
