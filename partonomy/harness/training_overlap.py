"""How many of a benchmark's images a model was trained on: counted when a run starts, printed with every result."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from partonomy.datasets.photographs import num_photographs
from partonomy.structures import QuestionSet

OVERLAP_KEY = "training_overlap"
"""In the provenance of a summary."""


def question_images(question_set: QuestionSet) -> tuple[Path, ...]:
    """The image files that a question set asks about."""
    return tuple(sorted({question.image_path for question in question_set.questions}))


def overlap_provenance(num_trained_on: int | None, paths: Iterable[Path]) -> dict[str, int | None]:
    """What a summary keeps: photographs asked about, and those of them that were trained on (None: unknown)."""
    return {"num_images": num_photographs(paths), "num_trained_on": num_trained_on}


def overlap_words(provenance: Mapping[str, Any]) -> str:
    """The overlap of a finished run, "3 of 200" or "unknown"; runs of earlier code did not count it."""
    found = provenance.get(OVERLAP_KEY) or {}
    num_trained_on, num_images = found.get("num_trained_on"), found.get("num_images")
    return "unknown" if num_trained_on is None or num_images is None else f"{num_trained_on} of {num_images}"


def overlap_line(provenance: Mapping[str, Any]) -> str:
    """The line that stands with every result."""
    return f"Images of this benchmark that the model was trained on: {overlap_words(provenance)}"
