"""The texts on which a tokenizer is trained: everything that the sources can say about some data sets."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from partonomy.datasets.store import QUESTIONS_FILE, load_dataset, load_questions
from plum.data.build import IMAGE_SOURCES
from plum.data.sources.base import Source
from plum.data.sources.explanatory import ExplanatorySource
from plum.data.sources.part_images import PartImages, collect_classes
from plum.data.sources.part_semantic import PartSemanticSource
from plum.data.sources.targets import AskedTargets

MAX_QUESTIONS = 3000
"""Benchmark questions read from one folder, evenly spaced; every name occurs in the other sources' texts anyway."""


def collect_texts(folders: Sequence[Path]) -> Iterator[str]:
    """Yield the texts that the sources make of the folders, in the words of the short template.

    Raises:
        FileNotFoundError: a folder is not a data set.
    """
    for folder in folders:
        for source in _sources_of(folder):
            for exchange in source.exchanges():
                yield f"USER: {exchange.question} ASSISTANT: {exchange.answer}"


def _sources_of(folder: Path) -> list[Source]:
    dataset = load_dataset(folder)
    images = PartImages(dataset, collect_classes([dataset]))
    # Tokenizers are trained for the tiny models, whose recipe asks for lists of parts.
    lists = AskedTargets("lists")
    sources: list[Source] = [
        PartSemanticSource(images, 1, lists) if kind == "part_semantic" else make(images, 1)
        for kind, make in IMAGE_SOURCES.items()
    ]
    if (folder / QUESTIONS_FILE).is_file():
        questions = load_questions(folder)
        step = 1 + len(questions.questions) // MAX_QUESTIONS
        spread = [questions.questions[i] for i in range(0, len(questions.questions), step)]
        sources.append(ExplanatorySource(replace(questions, questions=spread), (), 1))
    return sources
