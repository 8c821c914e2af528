"""Damaged input never crashes a reader, and nothing of it vanishes: a hundred cases each, the same ones each time.

`python -m scripts.bench.fuzz_readers --cases N` tries many more.
"""

from pathlib import Path

import pytest

from tests.fuzz.outcomes import ACCEPTED
from tests.fuzz.readers import make_readers
from tests.fuzz.trial import Reader, run_cases

NUM_CASES = 100
NAMES = (
    "COCO annotations",
    "PACO",
    "PartImageNet",
    "Pascal-Part",
    "published records",
    "own form",
    "export's annotations",
    "run",
    "segmentations",
    "image files",
    "refCOCO",
    "gRefCOCO",
    "ReasonSeg",
    "InstructPart",
    "TextVQA",
    "GQA",
    "POPE",
    "ade20k",
    "cocostuff",
    "mapillary",
    "LLaVA-Instruct",
    "MMR",
    "RefCOCOm",
    "multi-referring refCOCO",
    "CVAT",
    "Label Studio",
    "labelme",
    "VIA 2",
    "VIA 3",
    "Supervisely",
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return {reader.name: reader for reader in make_readers(tmp_path_factory.mktemp("valid"))}


@pytest.mark.filterwarnings("ignore")  # PIL's, about damaged files
@pytest.mark.parametrize("name", NAMES)
def test_damaged_input_is_read_or_refused_by_name(readers: dict[str, Reader], name: str, tmp_path: Path) -> None:
    tally = run_cases(readers[name], NUM_CASES, tmp_path)
    outcomes = tally.outcomes
    assert sum(outcomes.values()) >= NUM_CASES * 0.9  # hypothesis leaves out cases it has had
    assert sum(count for outcome, count in outcomes.items() if ACCEPTED in outcome) > 0
    assert sum(count for outcome, count in outcomes.items() if ACCEPTED not in outcome) > NUM_CASES / 4


def test_all_readers_are_tried(readers: dict[str, Reader]) -> None:
    assert tuple(readers) == NAMES
