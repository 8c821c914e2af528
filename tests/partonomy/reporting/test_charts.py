"""The charts of the paper's figures: what is drawn, and files."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.reporting.charts import Line, draw_two_lines, draw_validation, validation_bars
from partonomy.reporting.loaded_run import AnyRun, load_run
from partonomy.structures import QuestionType
from scripts.draw_kl_sweep import main as draw_sweep
from tests.golden.stored_runs import FOLDER
from tests.partonomy.conftest import write_questions
from tests.partonomy.reporting.conftest import World
from validate_partonomy import main as validate

IDENTIFICATION = QuestionType.IDENTIFICATION_WITH_LABEL


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> AnyRun:
    folder = tmp_path_factory.mktemp("charted")
    questions = write_questions(folder, (IDENTIFICATION,))
    validate(["--model", "random", "--questions", str(questions), "--output", str(folder / "run")])
    return load_run(folder / "run")


def on(run: AnyRun, dataset: str, checkpoint: str | None = None, folder: str = "run") -> AnyRun:
    """The run as if it were on another data set, by another checkpoint."""
    provenance = {**run.summary.provenance, "dataset": {**run.summary.provenance["dataset"], "name": dataset}}
    model = replace(run.config.model, checkpoint=checkpoint)
    config = replace(run.config, model=model)
    return replace(run, path=Path(folder), summary=replace(run.summary, provenance=provenance), config=config)


def test_bars_are_the_papers_rows_and_the_runs(run: AnyRun) -> None:
    bars = validation_bars([run], "giou_macro_paired", IDENTIFICATION)
    quoted = [bar for bar in bars if bar.is_quoted]
    assert len(quoted) == 24
    values = {(bar.model, bar.dataset): bar.value for bar in quoted}
    assert values["PLUM-13B (ft)", "Partonomy-PartImageNet"] == 80.3
    assert values["GLaMM", "Partonomy-PACO_LVIS"] == 0.8
    (own,) = [bar for bar in bars if not bar.is_quoted]
    estimate = run.summary.groups[IDENTIFICATION.value].metrics["giou_macro_paired"]
    assert estimate.value is not None
    assert (own.dataset, own.value) == ("test_qa_pairs", pytest.approx(100 * estimate.value))
    assert own.low is not None
    assert own.low <= own.value


def test_part_questions_without_a_number_in_the_paper_have_no_bar() -> None:
    bars = validation_bars([], "giou_micro_paired", QuestionType.PART_TO_WHOLE)
    assert "PLUM-13B" not in {bar.model for bar in bars}
    assert len(bars) == 3 * 6


def test_one_model_has_one_name_and_two_models_have_two(run: AnyRun) -> None:
    def names(*runs: AnyRun) -> list[str]:
        return [bar.model for bar in validation_bars(runs, "giou_micro_paired", IDENTIFICATION) if not bar.is_quoted]

    first, second = (on(run, name, "runs/a/model") for name in ("paco_val", "part_imagenet_val"))
    assert names(first, second) == ["a", "a"]
    assert names(first, on(run, "paco_val", "other/a/model")) == ["a (runs/a/model)", "a (other/a/model)"]
    assert names(first, on(run, "paco_val", "runs/a/model", "elsewhere")) == ["a (run)", "a (elsewhere)"]
    assert names(on(run, "paco_val")) == ["random"]
    bars = validation_bars([first], "giou_micro_paired", IDENTIFICATION)
    assert bars[-1].dataset == "Partonomy-PACO_LVIS", "it joins the paper's rows"


def test_the_file_is_the_same_every_time(run: AnyRun) -> None:
    first, again = (draw_validation([run], IDENTIFICATION, ["PLUM-13B"]) for _ in range(2))
    assert first == again
    all_models, none = draw_validation([run], IDENTIFICATION), draw_validation([run], IDENTIFICATION, [])
    assert len(none) < len(first) < len(all_models)


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_command_writes_a_file(run: AnyRun, tmp_path: Path, ending: str, start: bytes) -> None:
    output = tmp_path / "new" / f"chart.{ending}"
    assert main(["chart", str(run.path), "--output", str(output), "--models", "none"]) == 0
    assert output.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output", "chart.jpg"), "known: svg, png, pdf"),
        (("--output", "chart"), "known: svg, png, pdf"),
        (("--output", "chart.svg", "--models", "PLUM-70B"), "the paper has no rows of 'PLUM-70B'; known: GLaMM"),
        (("--output", "chart.svg", "--question_type", "odd"), "unknown question type 'odd'"),
        (("--output", "chart.svg", "--question_type", "part_to_whole"), "has no giou_micro_paired of part_to_whole"),
    ],
)
def test_what_cannot_be_drawn(
    run: AnyRun, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert main(["chart", str(run.path), *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_on_another_benchmark_is_refused(
    benchmarks: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(benchmarks.pairs["mmr"].oracle.path)
    assert main(["chart", other, "--output", str(tmp_path / "chart.svg")]) == 1
    assert "is a run on mmr; the chart shows runs on Partonomy's questions" in capsys.readouterr().err


# ---- the sweep of the KL weight


def test_two_lines_over_a_weight() -> None:
    left, right = Line("segmentation", ((0.0, 0.6), (0.1, 0.5))), Line("language", ((0.0, 0.2), (0.1, 0.4)))
    text = draw_two_lines("KL weight", left, right).decode()
    assert draw_two_lines("KL weight", left, right).decode() == text
    assert draw_two_lines("KL weight", left, replace(right, points=((0.0, 0.2), (0.1, 0.3)))).decode() != text
    assert draw_two_lines("KL weight", Line("a", ((0.0, 1.0),)), Line("b", ())).startswith(b"<?xml")


def test_a_sweep_is_drawn_from_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scripts.ablation_table import SWEEP_COLUMNS, find_runs
    from scripts.draw_kl_sweep import read_points

    stored = (FOLDER / "plum" / "summary.json").read_text()
    for weight, loss in (("0", 2.0), ("0.1", 1.0), ("10", 0.5)):
        for seed in (1, 2):
            folder = tmp_path / f"kl_{weight}_seed{seed}"
            (folder / "validation").mkdir(parents=True)
            (folder / "validation" / "summary.json").write_text(stored)
            (folder / "teacher_forced.json").write_text(json.dumps({"part_vqa": {"next_token_loss": loss + seed}}))
    runs = find_runs(tmp_path)
    by_heading = {column.heading: column for column in SWEEP_COLUMNS}
    points = read_points(runs, by_heading["question answering, nats per token"])
    assert points == ((0.0, 3.5), (0.1, 2.5), (10.0, 2.0))
    assert read_points(runs, by_heading["TextVQA accuracy"]) == ()
    draw_sweep(tmp_path, tmp_path / "sweep.svg")
    assert re.search(r"<svg", (tmp_path / "sweep.svg").read_text())
    with pytest.raises(SystemExit, match="holds no finished run of a variant named kl_WEIGHT"):
        draw_sweep(tmp_path / "kl_0_seed1", tmp_path / "none.svg")
