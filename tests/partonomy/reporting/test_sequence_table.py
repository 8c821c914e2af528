"""Repeated masks and errors that carry on, of masks drawn by hand and of whole runs (paper, C.4)."""

import csv
import io

import numpy as np
import pytest

from partonomy.__main__ import main
from partonomy.masks import encode_mask
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.paper_tables.sequence_table import (
    GIVEN,
    OWN,
    MaskSequence,
    mask_sequences,
    num_repeated,
    sequence_estimates,
)
from partonomy.structures import RLE
from tests.partonomy.reporting.conftest import World


def strip(start: int, end: int) -> RLE:
    """Columns start to end of a 10 x 40 image."""
    mask = np.zeros((10, 40), dtype=bool)
    mask[:, start:end] = True
    return encode_mask(mask)


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ((), 0),
        ((strip(0, 20),), 0),
        ((strip(0, 20), strip(0, 20)), 1),
        ((strip(0, 20), strip(0, 20), strip(0, 20)), 2),
        ((strip(0, 20), strip(20, 40), strip(0, 20)), 1),  # not only the mask just before
        ((strip(0, 20), strip(0, 18)), 0),  # exactly .9
        ((strip(0, 20), strip(0, 19)), 1),  # .95
        ((strip(0, 0), strip(0, 0)), 0),  # empty masks
        ((strip(0, 0), strip(0, 20), strip(0, 20)), 1),
        ((strip(0, 40), strip(0, 20)), 0),  # one inside the other
    ],
)
def test_repeated_masks(masks: tuple[RLE, ...], expected: int) -> None:
    assert num_repeated(masks) == expected


def test_numbers_by_hand() -> None:
    a, b, c = strip(0, 10), strip(10, 20), strip(20, 30)
    sequences = [
        MaskSequence(1, (a, b, a), (0.5, 0.4, 0.0)),  # the first mask is just right
        MaskSequence(2, (a, b), (0.2, 0.8)),
        MaskSequence(2, (c,), (0.9,)),  # one mask can repeat nothing
        MaskSequence(3, (a, b, c, a, b, c), (0.4, 1.0, 1.0, 1.0, 0.1, 0.3)),
    ]
    found = {name: (one.value, one.count) for name, one in sequence_estimates(sequences, 0).items()}
    assert found == {
        "repeated_masks": (pytest.approx(4 / 11), 3),
        "iou_of_mask_1": (pytest.approx(0.5), 4),
        "iou_of_mask_2": (pytest.approx(2.2 / 3), 3),
        "iou_of_mask_3": (pytest.approx(0.5), 2),
        "iou_of_mask_4": (pytest.approx(1.0), 1),
        "iou_of_mask_5": (pytest.approx(0.2), 2),  # the fifth and the sixth
        "iou_after_wrong_mask": (pytest.approx(4.2 / 6), 6),
        "iou_after_right_mask": (pytest.approx(0.2), 2),
    }


def test_own_answers_have_no_positions() -> None:
    found = sequence_estimates([MaskSequence(1, (strip(0, 10), strip(0, 10)))], 0)
    assert found["repeated_masks"].value == 0.5
    assert {found[name].count for name in found if name != "repeated_masks"} == {0}


def test_of_a_run_on_several_targets(benchmarks: World, capsys: pytest.CaptureFixture[str]) -> None:
    forced, own = benchmarks.pairs["mmr"].worse, benchmarks.pairs["mmr_generate"].worse
    (given,) = mask_sequences(forced).values()
    assert [one.ious for one in given] == [tuple(t.iou for t in record.targets) for record in forced.records]
    assert list(mask_sequences(forced)) == [GIVEN]
    assert list(mask_sequences(own)) == [OWN]
    assert main(["tables", str(forced.path), "--table", "c4", "--format", "csv"]) == 0
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    first = np.mean([one.ious[0] for one in given])
    assert float(rows["iou_of_mask_1"]["value"]) == pytest.approx(100 * first, abs=1e-4)
    assert rows["iou_of_mask_1"]["n"] == str(len(given))


def test_of_a_run_on_parts(two_kinds: AnyRun, capsys: pytest.CaptureFixture[str]) -> None:
    found = mask_sequences(two_kinds)
    assert list(found) == [GIVEN, OWN]
    assert [len(one.masks) for one in found[GIVEN]] == [1, 2, 3, 4]
    assert main(["tables", str(two_kinds.path), "--table", "c4"]) == 0
    printed = capsys.readouterr().out
    assert "own answer" in printed
    assert "given phrases        3" in printed, "answers with several masks"


@pytest.mark.parametrize("name", ["refcoco", "mmr_union", "textvqa"])
def test_a_run_with_one_mask_an_answer_is_refused(
    benchmarks: World, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["tables", str(benchmarks.pairs[name].oracle.path), "--table", "c4"]) == 1
    assert "which table c4 does not include" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_kinds(tmp_path_factory: pytest.TempPathFactory) -> AnyRun:
    """The oracle's run on four images whose right answers have one to four parts."""
    from partonomy.reporting.loaded_run import load_run
    from partonomy.structures import QuestionType
    from tests.partonomy.conftest import write_questions
    from validate_partonomy import main as validate

    folder = tmp_path_factory.mktemp("parts")
    questions = write_questions(folder, (QuestionType.IDENTIFICATION_WITH_LABEL,))
    validate(["--model", "oracle", "--questions", str(questions), "--output", str(folder / "run")])
    return load_run(folder / "run")
