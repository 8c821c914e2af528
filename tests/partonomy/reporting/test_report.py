import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from partonomy.__main__ import main as partonomy
from partonomy.cli.results import report
from partonomy.reporting.blind_tables import report_on_run
from partonomy.reporting.breakdown import by_object, by_part
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.loss_curves import Curve, TrainingCurves, draw_curves, find_metrics, read_curves
from partonomy.reporting.overview import MAX_REASONS
from partonomy.reporting.partonomy_report import FAMILIES, family_tables, partonomy_bars, quoted_warning
from partonomy.reporting.report import NUM_CASES
from partonomy.reporting.report_cases import choose_cases, draw_case, load_case_items, mark_spans
from partonomy.structures import TABLE_TYPES, CharSpan, QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.reporting.browser import open_page
from validate_partonomy import main


class LinkCollector(HTMLParser):
    """Collects what a page would load, and checks that tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open_tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note sources."""
        for name, value in attrs:
            if name == "src" or (name == "href" and tag == "link"):
                self.sources.append(value or "")
        if tag not in {"meta", "img", "link", "br"}:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Self-closing tags (SVG) need no partner."""

    def handle_endtag(self, tag: str) -> None:
        """Must close the innermost tag."""
        assert self.open_tags.pop() == tag


def run_model(model: str, questions: Path, output: Path) -> Path:
    """A finished run with own answers."""
    main(["--model", model, "--questions", str(questions), "--output", str(output), "--generate", "all"])
    return output


def write_metrics(path: Path) -> Path:
    """Sixty updates of a training run."""
    lines = [
        {"update": update, "loss_total": 3.0 / update, "loss_kl": 0.0, "accuracy_B": update / 60, "seconds": 1.0}
        for update in range(1, 61)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_report_is_one_self_contained_page(question_file: Path, tmp_path: Path) -> None:
    run = run_model("random", question_file, tmp_path / "random")
    oracle = run_model("oracle", question_file, tmp_path / "oracle")
    metrics = write_metrics(tmp_path / "metrics.jsonl")
    report(str(run), baselines=[str(oracle)], training_metrics=[str(metrics)])
    page = (run / "report.html").read_text()
    collector = LinkCollector()
    collector.feed(page)
    assert collector.open_tags == []
    assert len(collector.sources) > 20
    assert all(source.startswith("data:image/jpeg;base64,") for source in collector.sources)
    assert not re.search(r"(?:src|href)=.https?:", page)
    for text in ("Worst cases", "Best cases", "Random cases", "random guess (exact expectation)"):
        assert text in page
    assert re.search(r">\s*oracle\s*<", page), "the row of the baseline"
    assert "Images of this benchmark that the model was trained on: 0 of " in page
    assert "<svg" in page
    assert "tail fin" in page
    assert "<mark" in page


def test_report_without_images_says_so(question_file: Path, tmp_path: Path) -> None:
    run = run_model("oracle", question_file, tmp_path / "run")
    question_file.unlink()
    report(str(run), str(tmp_path / "page.html"))
    assert "No pictures: the questions can no longer be read" in (tmp_path / "page.html").read_text()


def test_changed_questions_are_not_drawn(question_file: Path, tmp_path: Path) -> None:
    run = run_model("oracle", question_file, tmp_path / "run")
    question_file.write_text(json.dumps(json.loads(question_file.read_text())[1:]))
    questions = load_case_items(load_run(run))
    assert len(questions.by_id) == 0
    assert "has changed" in questions.problem


def test_what_could_not_be_read_is_a_failure_and_no_case(question_file: Path, tmp_path: Path) -> None:
    content = json.loads(question_file.read_text())
    for record in content[-10:]:
        record["answer_types"] = ["incorrect"] * 5
    question_file.write_text(json.dumps(content))
    run = run_model("oracle", question_file, tmp_path / "run")
    report(str(run))
    results, cases = (run / "report.html").read_text().split('id="cases"', 1)
    assert "0 choices are marked correct" in results
    assert cases.count("<article") == 3 * 3, "three headings, one case for each of the other images"
    assert 'class="failed"' not in cases


def test_spans_are_marked_and_text_escaped() -> None:
    text = "<b> & a tail fin, a wing"
    spans = (CharSpan(8, 16), CharSpan(20, 24))
    marked = mark_spans(text, spans, ((1, 2, 3), (4, 5, 6)))
    assert marked == (
        '&lt;b&gt; &amp; a <mark style="--c:rgb(1,2,3)">tail fin</mark>, a <mark style="--c:rgb(4,5,6)">wing</mark>'
    )


def test_cases_are_ordered_and_of_distinct_images(question_file: Path, tmp_path: Path) -> None:
    run = load_run(run_model("random", question_file, tmp_path / "run"))
    groups = dict(choose_cases(run, 3, np.random.default_rng(0)))
    best = [draw_case(run, record, None).quality or 0.0 for record in groups["Best cases"]]
    worst = [draw_case(run, record, None).quality or 0.0 for record in groups["Worst cases"]]
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)
    assert best[0] >= worst[0]
    for records in groups.values():
        assert len({record.image_id for record in records}) == 3


def test_baseline_on_other_questions_is_refused(question_file: Path, tmp_path: Path) -> None:
    first = run_model("oracle", question_file, tmp_path / "first")
    question_file.write_text(json.dumps(json.loads(question_file.read_text())[1:]))
    second = run_model("oracle", question_file, tmp_path / "second")
    with pytest.raises(ValueError, match="cover different questions"):
        report(str(first), baselines=[str(second)])


def test_one_baseline_needs_no_brackets(question_file: Path, tmp_path: Path) -> None:
    oracle, empty = (str(run_model(name, question_file, tmp_path / name)) for name in ("oracle", "empty"))
    pages = []
    for given in (empty, f"[{empty}]"):
        assert partonomy(["report", oracle, "--baselines", given]) == 0
        pages.append((tmp_path / "oracle" / "report.html").read_text())
    assert pages[0] == pages[1]
    assert "empty" in pages[0]


def test_advantage_over_a_baseline(question_file: Path, tmp_path: Path) -> None:
    oracle = load_run(run_model("oracle", question_file, tmp_path / "oracle"))
    empty = load_run(run_model("empty", question_file, tmp_path / "empty"))
    rows = {row.kind: row for row in family_tables(oracle, [empty])[0].blocks[0].rows}
    advantage = rows["other"].cells[0].advantage
    assert advantage is not None
    assert (advantage.value, advantage.low, advantage.high) == (1.0, 1.0, 1.0)


def test_protocols_stand_beside_each_other(question_file: Path, tmp_path: Path) -> None:
    (tmp_path / "image3.png").unlink()
    run = load_run(run_model("oracle", question_file, tmp_path / "run"))
    masks, choices, selectors, _ = family_tables(run, [])
    assert [row.kind for row in choices.blocks[0].rows] == ["own", "authors", "bound", "bound"]
    assert [row.kind for row in selectors.blocks[0].rows] == ["own", "bound", "bound"]
    own, authors = choices.blocks[0].rows[:2]
    # One of four images is lost: wrong under our protocol, left out under that of the authors.
    values = [None if row.cells[0].estimate is None else row.cells[0].estimate.value for row in (own, authors)]
    assert values == [0.75, 1.0]
    assert authors.cells[choices.family.metrics.index("parts_f1")].estimate is None
    assert masks.blocks[0].rows[1].kind == "authors"


def test_bars_show_runs_and_guesses_and_keep_the_papers_rows_apart(question_file: Path, tmp_path: Path) -> None:
    run = load_run(run_model("random", question_file, tmp_path / "run"))
    oracle = load_run(run_model("oracle", question_file, tmp_path / "oracle"))
    masks, choices = partonomy_bars(run, [oracle], report_on_run(run))
    kinds = [kind.value for kind in TABLE_TYPES]
    for panel, metric in ((masks, "giou_micro_paired"), (choices, "parts_accuracy")):
        assert [group.label for group in panel.groups] == [group.label for group in panel.quoted] == kinds
        for group in panel.groups:
            own, other = group.bars[:2]
            estimate = run.summary.groups[group.label].metrics[metric]
            assert (own.kind, own.value, own.low) == ("own", estimate.value, estimate.low)
            assert (other.label, other.value) == (oracle.name, 1.0)
        assert all(bar.kind == "quoted" for group in panel.quoted for bar in group.bars)
        assert panel.quoted_note.startswith("Other data: not comparable.")
    assert [bar.label for bar in choices.groups[0].bars[2:]] == ["random guess (exact)", "blind: choices alone"]
    assert choices.groups[0].bars[2].value == pytest.approx(1 / 5)
    assert len(masks.groups[0].bars) == 2
    assert [bar.value for bar in masks.quoted[0].bars] == pytest.approx([0.145, 0.362])  # Table 2
    assert [bar.value for bar in choices.quoted[0].bars] == pytest.approx([0.602, 0.421])  # Table 3


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("cars", "Other data: not comparable. The paper measured on Partonomy-Core, this run on cars."),
        ("partonomy_core", "The paper measured on Partonomy-Core. This run is on partonomy_core: comparable only if"),
        ("my_paco", "The paper measured segmentation on Partonomy-PACO_LVIS and text on Partonomy-Core."),
    ],
)
def test_the_warning_about_quoted_rows_names_the_data(name: str, beginning: str) -> None:
    assert quoted_warning(SimpleNamespace(dataset_name=name)).startswith(beginning)  # type: ignore[arg-type]


def test_quoted_rows_have_tables_of_their_own(question_file: Path, tmp_path: Path) -> None:
    run = run_model("oracle", question_file, tmp_path / "run")
    report(str(run))
    page = (run / "report.html").read_text()
    section = page[page.index('<section id="paper">') : page.index('<section id="provenance">')]
    tables = re.findall(r"<table.*?</table>", section, re.DOTALL)
    assert len(tables) == 4, "tables 2 and 3, in two parts each"
    for measured, quoted in zip(tables[::2], tables[1::2], strict=True):
        assert "oracle" in measured
        assert "GLaMM" not in measured
        assert "GLaMM" in quoted
        assert "oracle" not in quoted
    assert section.count("Other data: not comparable") == 2


def test_result_tables_fit_the_page() -> None:
    # Seven columns of an interval with a paired one below, of 122 pixels at most, beside 220 for the names: 1,074 of
    # the 1,142 pixels that the page of 1,240 leaves to a table.
    assert all(len(family.metrics) == len(family.headings) <= 7 for family in FAMILIES)
    assert [family.title for family in FAMILIES].count("Multiple choice by selector") == 1


def test_pictures_are_bounded_whatever_the_size_of_the_run(tmp_path: Path) -> None:
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION_WITH_LABEL,), num_images=26)
    run = run_model("random", questions, tmp_path / "run")
    report(str(run))
    # Three headings with six cases of four pictures each.
    assert (run / "report.html").read_text().count("data:image/jpeg") == 3 * NUM_CASES * 4 == 72
    assert (run / "report.html").read_text().count("<article") == 3 * NUM_CASES


def test_reasons_of_failures_are_bounded(tmp_path: Path) -> None:
    questions = write_questions(tmp_path, (QuestionType.POSITIVE,), num_images=9)
    for number in range(8):
        (tmp_path / f"image{number}.png").unlink()
    run = run_model("oracle", questions, tmp_path / "run")
    report(str(run))
    page = (run / "report.html").read_text()
    section = page[page.index("Failures and questions") : page.index('id="cases"')]
    assert section.count("image file not found") == MAX_REASONS == 5
    assert "3 more reasons, see summary.json" in section


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    sizes = []
    for count in (600, 60_000):
        points = tuple((update, 1.0 + (update % 7) / 10) for update in range(1, count + 1))
        sizes.append(len(draw_curves(TrainingCurves("run", (Curve("loss_total", points),), ()))))
    assert sizes[1] < 1.5 * sizes[0]


def test_breakdown_counts(question_file: Path, tmp_path: Path) -> None:
    run = load_run(run_model("oracle", question_file, tmp_path / "run"))
    parts = {row.name: row for row in by_part(run.records, has_masks=True)}
    # Answers name 1 to 4 parts in the order wheel, wing, tail fin, door; ten types each.
    assert {name: row.num_masks for name, row in parts.items()} == {"wheel": 40, "wing": 30, "tail fin": 20, "door": 10}
    assert parts["wheel"].mean_area == 16.0  # 4 x 4 pixels
    assert parts["wing"].mean_iou == 1.0
    objects = {row.name: row for row in by_object(run.records, has_masks=True)}
    assert objects["seaplane"].num_questions == 20
    assert objects["seaplane"].num_masks == 10 * (1 + 3)
    assert by_object(run.records, has_masks=False)[0].mean_iou is None


def test_log_scales_are_labelled_with_plain_numbers() -> None:
    points = tuple((update, 10.0 ** -(update / 10)) for update in range(1, 31))
    drawn = draw_curves(TrainingCurves("run", (Curve("loss_bio", points),), ()))
    labels = re.findall("<text [^>]*>(.*?)</text>", drawn)
    assert {"0.001", "0.01", "0.1"} <= set(labels)
    assert not [label for label in labels if "$" in label], "set as mathematics"


def test_each_chart_of_a_training_names_its_axes_and_follows_the_page() -> None:
    points = ((1, 3.0), (2, 2.0))
    losses = (Curve("loss_mask_bce", points), Curve("loss_own", ((1, 1.0), (2, -1.0))))
    curves = TrainingCurves("run", losses, (Curve("accuracy_B", points), Curve("accuracy_I", points)))
    drawn = draw_curves(curves)
    charts = drawn.split("<svg ")[1:]
    texts = [set(re.findall("<text [^>]*>(.*?)</text>", chart)) for chart in charts]
    for labels, title, unit in zip(
        texts,
        ("mask BCE loss", "own loss", "tag accuracy"),
        ("nats per pixel, log scale", "loss", "share of tokens"),
        strict=True,
    ):
        assert {title, unit, "update"} <= labels
    assert {"B", "I"} <= texts[2]
    assert "#000000" not in drawn
    assert drawn.count('fill="currentColor"') == drawn.count('role="img"') == 3
    names = [set(re.findall(r'<clipPath id="(\w+)"', chart)) for chart in charts]
    assert names[0]
    assert not names[0] & names[1], "one chart would be cut as another one"
    assert drawn == draw_curves(curves)


@pytest.mark.parametrize(("width", "columns"), [(1400, 4), (390, 1)])
def test_the_charts_of_a_training_are_legible_at_any_width(
    question_file: Path, tmp_path: Path, width: int, columns: int
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    entries = [{"update": n} | {f"loss_{name}": 1.0 + n for name in "abcde"} for n in range(1, 5)]
    metrics.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    run = run_model("oracle", question_file, tmp_path / "run")
    report(str(run), training_metrics=[str(metrics)])
    with open_page(run / "report.html", width, "dark") as page:
        boxes = [chart.bounding_box() for chart in page.query_selector_all(".chart svg")]
        assert len(boxes) == 5
        assert sum(box["y"] == boxes[0]["y"] for box in boxes) == columns
        assert min(box["width"] for box in boxes) >= 240
        assert page.evaluate("document.documentElement.scrollWidth") == width
        colours = page.eval_on_selector_all(".chart text", "all => all.map(one => getComputedStyle(one).fill)")
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert set(colours) == {ink}


def test_loss_curves(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = write_metrics(tmp_path / "metrics.jsonl")
    assert find_metrics(tmp_path / "model") == (path,)
    curves = read_curves(path)
    assert [curve.name for curve in curves.losses] == ["loss_total"]  # the term that is 0 throughout is off
    assert curves.losses[0].points[1] == (2, 1.5)
    later = [{"update": update, "loss_bio": loss} for update, loss in enumerate([0.0, 0.0, 3.0, 0.0, 1.0])]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in later))
    assert read_curves(path).losses == (Curve("loss_bio", ((2, 3.0), (3, 0.0), (4, 1.0))),)  # it joins at update 2
    path.write_text('{"loss_total": 1.0}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_curves(path)
