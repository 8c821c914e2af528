"""The growth benchmark: choices after a question's own beginning, and that it prints what it promises."""

import json

import pytest

from partonomy.structures import CharSpan, Choice
from scripts.bench import growth as bench_growth
from scripts.bench.growth import begin_with


def test_begin_with_golden() -> None:
    choice = Choice("A car has: door, wheel.", ("door", "wheel"), (CharSpan(11, 15), CharSpan(17, 22)), False)
    moved = begin_with("The ship has: ", choice)
    assert moved.text == "The ship has: door, wheel."
    assert [moved.text[span.start : span.end] for span in moved.part_spans] == ["door", "wheel"]


@pytest.mark.slow
def test_cost_grows_as_it_should(capsys: pytest.CaptureFixture[str]) -> None:
    bench_growth.main(parts="images,choices", images="2,4")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [line["questions"] for line in result["images"]] == [20, 40]
    for line in result["images"]:
        assert 0 < line["read_mb"] <= line["peak_mb"]
        assert line["seconds_per_question"] > 0
    lines = result["choices"]["lines"]
    assert [line["choices"] for line in lines] == [5, 10, 20]
    tokens = [line["llm_tokens"] for line in lines]
    # A question's own tokens and the image's are paid once: twice the choices cost less than twice the tokens.
    assert tokens[0] < tokens[1] < 2 * tokens[0]
    # Linear: choices 11 to 20 cost what choices 6 to 10 cost (their parts differ, and some begin alike).
    first, second = result["choices"]["tokens_per_further_choice"]
    assert second == pytest.approx(first, rel=0.25)


@pytest.mark.slow
@pytest.mark.distributed
def test_one_and_two_processes_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    bench_growth.main(parts="ranks", rank_images=2)
    ranks = json.loads(capsys.readouterr().out.splitlines()[-1])["ranks"]
    assert set(ranks) == {"questions_per_second_one", "questions_per_second_two", "ratio"}


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(SystemExit, match="unknown parts"):
        bench_growth.main(parts="images,speed")
