"""Tables, comparison, report and export of every benchmark, also of one that this code has never seen."""

import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from partonomy.__main__ import main
from partonomy.benchmarks import registry
from partonomy.benchmarks.registry import Benchmark
from partonomy.benchmarks.task import (
    Asking,
    Group,
    Metric,
    Picture,
    Record,
    Source,
    Status,
    Task,
    make_group,
)
from partonomy.harness.ranks import Rank
from partonomy.harness.run import Job, configure_run, run_benchmark
from partonomy.harness.run_folder import RunConfig
from partonomy.masks import rle_to_json
from partonomy.metrics.bootstrap import ImageIndex, Terms
from partonomy.models.contract import AnswerMarks, Gold, ReplyRequest, Role, Turn
from partonomy.models.registry import ModelSettings
from partonomy.reporting.compare import compare_runs, render_comparison, write_comparison
from partonomy.reporting.loaded_run import AnyRun, load_run
from partonomy.reporting.overview import overview
from partonomy.reporting.paper_tables.paper_table import PaperTableStyle
from partonomy.reporting.predictions import write_predictions
from partonomy.reporting.report import NUM_CASES, write_report
from partonomy.reporting.report_cases import draw_case, load_case_items
from partonomy.reporting.tables import ALL_TABLES, AUTO, metric_table, result_tables, tidy_csv
from partonomy.table_format import Table
from partonomy.visualize import part_colours
from plum.cli.main import main as plum
from tests.partonomy.benchmark_world import ScriptedModel
from tests.partonomy.benchmarks.vqa_world import draw
from tests.partonomy.reporting.conftest import SETTINGS, Runs, World, run_model
from tests.partonomy.reporting.test_report import LinkCollector

STYLE = PaperTableStyle()


@pytest.fixture(params=SETTINGS)
def pair(benchmarks: World, request: pytest.FixtureRequest) -> Runs:
    """The runs of one benchmark."""
    return benchmarks.pairs[request.param]


def cells_of(table: Table, run: AnyRun) -> dict[str, str]:
    """The row of a run by heading."""
    (row,) = [row for row in table.rows if row.cells[0] == run.name]
    return dict(zip(table.headings, row.cells, strict=True))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def read_page(path: Path) -> str:
    """A page whose tags are balanced and that loads nothing."""
    page = path.read_text(encoding="utf-8")
    collector = LinkCollector()
    collector.feed(page)
    assert collector.open_tags == []
    assert all(source.startswith("data:image/jpeg;base64,") for source in collector.sources)
    return page


# ---- tables


def test_a_table_has_every_metric_of_every_run(pair: Runs) -> None:
    (table,) = [
        table for table in result_tables([pair.oracle, pair.worse], AUTO, STYLE) if "every metric" in table.title
    ]
    assert [row.cells[0] for row in table.rows] == [pair.oracle.name, pair.worse.name]
    for run, row in zip((pair.oracle, pair.worse), table.rows, strict=True):
        cells = cells_of(table, run)
        for name, estimate in run.summary.metrics.items():
            if name in cells:
                assert cells[name] == percent(estimate.value)
                interval = row.intervals[table.headings.index(name)]
                assert interval == (f"{percent(estimate.low)}-{percent(estimate.high)}" if estimate.count else "")
            else:
                assert all(one.summary.metrics[name].count == 0 for one in (pair.oracle, pair.worse))
    assert table.headings[4] == pair.oracle.summary.headline
    assert cells_of(table, pair.oracle)[pair.oracle.summary.headline] == "100.0"
    assert cells_of(table, pair.worse)[pair.oracle.summary.headline] != "100.0"
    assert f"{pair.oracle.name}: Images of this benchmark that the model was trained on: 0 of" in table.note


def test_runs_of_several_benchmarks_have_a_table_each(benchmarks: World) -> None:
    runs = [benchmarks.pairs[name].oracle for name in ("mmr", "gqa", "mmr_generate")]
    titles = [table.title.partition(":")[0] for table in result_tables(runs, AUTO, STYLE)]
    assert titles == ["mmr", "gqa"]
    table = metric_table([runs[0], runs[2]], has_intervals=False)
    assert all(row.intervals == () for row in table.rows)
    assert cells_of(table, runs[0])["extra_masks"] == "-"
    assert cells_of(table, runs[2])["extra_masks"] == "0.0"


def test_tidy_csv_has_every_metric(pair: Runs) -> None:
    rows = list(csv.DictReader(io.StringIO(tidy_csv([pair.worse], AUTO, STYLE))))
    if pair.worse.summary.benchmark == "reasonseg":  # its table of the paper is printed without being named
        assert [row["table"] for row in rows[:12]] == ["4"] * 12
        assert {row["source"] for row in rows[:12]} == {"quoted"}
        assert [row["metric"] for row in rows[12:] if row["table"] == "4"] == ["giou"]
        rows = [row | {"table": ""} for row in rows[12:]]
    assert {(row["source"], row["table"]) for row in rows} == {("ours", "")}
    assert {row["protocol"] for row in rows} == {pair.worse.summary.protocol}
    for row, (name, estimate) in zip(rows, pair.worse.summary.metrics.items(), strict=True):
        assert (row["metric"], int(row["n"])) == (name, estimate.count)
        assert row["value"] == ("" if estimate.value is None else f"{100 * estimate.value:.4f}")


@pytest.mark.parametrize(
    ("table", "names", "num_quoted"),
    [
        ("mmr2", ("mmr",), 10),
        ("mmr3", ("refcoco",), 13),
        ("mmr4", ("multirefcoco",), 6),
        ("mmr5", ("refcocom",), 12),
        ("5", ("textvqa", "gqa", "pope"), 4),
    ],
)
def test_runs_stand_in_the_tables_of_papers(  # noqa: PLR0917  (pytest passes by name)
    benchmarks: World,
    table: str,
    names: Sequence[str],
    num_quoted: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [benchmarks.pairs[name].worse for name in names]
    folders = [str(run.path) for run in runs]
    assert main(["tables", *folders, "--table", table]) == 0
    printed = capsys.readouterr().out
    alias = "retention" if table == "5" else "mmr-tables"
    assert plum([alias, *folders]) == 0
    assert printed == capsys.readouterr().out
    quoted, own = printed.split("[runs]")
    assert len(quoted.split("[paper (quoted)]")[1].strip().splitlines()) == num_quoted
    for run in runs:
        value = run.summary.metrics[run.summary.headline].value
        assert value is not None
        assert (f"{100 * value:.2f}" if table == "5" else percent(value)) in own
    rows = list(csv.DictReader(io.StringIO(tidy_csv(runs, table, STYLE))))
    assert {row["table"] for row in rows} == {table}
    measured = [row for row in rows if row["source"] == "ours"]
    assert len(measured) == sum(2 if name == "mmr" else 1 for name in names)
    assert all(table == row["table"] for row in csv.DictReader(io.StringIO(tidy_csv(runs, ALL_TABLES, STYLE)))
               if row["source"] == "quoted")  # fmt: skip


def test_a_table_refuses_what_it_does_not_hold(benchmarks: World, capsys: pytest.CaptureFixture[str]) -> None:
    run = benchmarks.pairs["reasonseg"].oracle
    for table in ("2", "3", "5", "mmr2", "mmr5"):
        assert main(["tables", str(run.path), "--table", table]) == 1
        assert capsys.readouterr().err == (
            f"error: {run.path} is a run on reasonseg val, which table {table} does not include\n"
        )


# ---- comparison


def test_every_metric_is_compared(pair: Runs) -> None:
    comparison = compare_runs(pair.oracle, pair.worse)
    first, second = pair.oracle.summary.metrics, pair.worse.summary.metrics
    assert [entry.metric for entry in comparison.differences] == list(first)
    for entry in comparison.differences:
        before, after = first[entry.metric].value, second[entry.metric].value
        assert (entry.first, entry.second) == (before, after)
        if before is None or after is None:
            assert entry.difference.value is None
        else:
            assert entry.difference.value == after - before
            low, high = entry.difference.low, entry.difference.high
            assert low is not None
            assert high is not None
            assert low <= after - before <= high
    headline = next(one for one in comparison.differences if one.metric == pair.oracle.summary.headline)
    assert headline.excludes_zero is True
    assert "[all]" not in render_comparison(comparison, 3), "a benchmark without groups has no heading of one"


def test_items_whose_score_changed_are_listed(pair: Runs, tmp_path: Path) -> None:
    comparison = compare_runs(pair.oracle, pair.worse)
    others = {record.item_id: record for record in pair.worse.records}
    expected = {
        record.item_id: others[record.item_id].score - record.score
        for record in pair.oracle.records
        if others[record.item_id].score != record.score
    }
    assert expected
    assert {entry.item_id: entry.change for entry in comparison.quality_changes} == expected
    sizes = [abs(entry.change) for entry in comparison.quality_changes]
    assert sizes == sorted(sizes, reverse=True)
    for suffix in (".csv", ".json"):
        write_comparison(comparison, tmp_path / f"changes{suffix}")
    key = pair.oracle.task.WORDS.quality_key
    content = json.loads((tmp_path / "changes.json").read_text())
    assert [entry["question_id"] for entry in content[f"{key}_changes"]] == [
        entry.item_id for entry in comparison.quality_changes
    ]
    with (tmp_path / "changes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["change"] for row in rows} == {key}
    said = {record.item_id: record.reply or "" for record in pair.oracle.records}
    if any(said.values()):
        assert [row["reply_a"] for row in rows] == [said[row["question_id"]] for row in rows]
        assert all(entry["reply_a"] == said[entry["question_id"]] for entry in content[f"{key}_changes"])


def test_a_run_against_itself_is_zero(pair: Runs) -> None:
    comparison = compare_runs(pair.worse, pair.worse)
    found = {entry.difference.value for entry in comparison.differences}
    assert found <= {0.0, None}
    assert len(comparison.quality_changes) == 0
    assert comparison.warnings == ()


def test_the_order_of_the_records_does_not_matter(pair: Runs) -> None:
    turned = replace(pair.worse, records=tuple(pair.worse.records)[::-1])
    assert compare_runs(pair.oracle, turned) == compare_runs(pair.oracle, pair.worse)


def test_settings_that_differ_are_named(benchmarks: World) -> None:
    comparison = compare_runs(benchmarks.pairs["mmr"].oracle, benchmarks.pairs["mmr_union"].oracle)
    assert comparison.warnings == ("the runs differ in the protocol: teacher_forced and union",)
    assert "missing_masks" not in {entry.metric for entry in comparison.differences}, "union has no such metric"


def test_runs_that_do_not_compare_are_refused(
    benchmarks: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = benchmarks.pairs["refcoco"].oracle, benchmarks.pairs["gqa"].oracle
    assert main(["compare", str(one.path), str(other.path)]) == 1
    assert capsys.readouterr().err == (
        f"error: the runs are not comparable: {one.path} is on refcoco val, {other.path} is on gqa testdev\n"
    )
    limited = run_model(benchmarks.data, tmp_path / "limited", "oracle", "refcoco", "--limit", "1")
    with pytest.raises(ValueError, match=r"the runs cover different expressions: .*limited those of refcoco val"):
        compare_runs(one, limited)
    with pytest.raises(ValueError, match="unknown metric 'f1'; known: ciou, giou"):
        compare_runs(one, one, ("f1",))


def test_a_model_that_refuses_everything_has_no_numbers(benchmarks: World, tmp_path: Path) -> None:
    refusing = run_model(benchmarks.root("gqa"), tmp_path / "random", "random", "gqa")
    assert {record.status for record in refusing.records} == {Status.UNSUPPORTED}
    comparison = compare_runs(benchmarks.pairs["gqa"].oracle, refusing)
    assert comparison.differences == ()
    assert len(comparison.quality_changes) == 0
    assert cells_of(metric_table([benchmarks.pairs["gqa"].oracle, refusing]), refusing)["accuracy"] == "-"
    write_report(refusing, [], [], tmp_path / "page.html")
    assert "Best cases" not in read_page(tmp_path / "page.html")


# ---- report


def test_a_page_shows_numbers_and_cases(pair: Runs, tmp_path: Path) -> None:
    write_report(pair.worse, [pair.oracle], [], tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    headline = pair.worse.summary.metrics[pair.worse.summary.headline]
    assert f"<b>{percent(headline.value)}<small> %" in page
    for name, estimate in pair.worse.summary.metrics.items():
        value = "-" if estimate.value is None else f"{percent(estimate.value)} [{percent(estimate.low)}, "
        assert re.search(rf"<td>{re.escape(name)}</td><td>{re.escape(value)}", page), name
    best = pair.oracle.summary.metrics[pair.oracle.summary.headline].value
    assert headline.value is not None
    assert best is not None
    assert "this run above it</th>" in page
    assert f"<td>{100 * (headline.value - best):+.1f} [" in page, "negative, since the other run is the oracle's"
    for text in ("Random cases", "Best cases", "Worst cases", pair.worse.summary.protocol, "content_hash"):
        assert text in page
    assert "No pictures" not in page
    images = {record.image_id for record in pair.worse.records}
    assert page.count("<article") == 3 * min(NUM_CASES, len(images))


def test_true_and_predicted_masks_are_drawn_side_by_side(pair: Runs) -> None:
    items = load_case_items(pair.oracle)
    assert items.problem == ""
    others = {record.item_id: record for record in pair.worse.records}
    for record in pair.oracle.records:
        item = items.by_id[record.item_id]
        panels = {panel.title: panel.data for panel in draw_case(pair.oracle, record, item).panels}
        if not list(record.masks()):
            assert list(panels) == ["image"]
            continue
        assert list(panels)[:3] == ["image", "true", "predicted"]
        assert panels["true"] == panels["predicted"] != panels["image"], "the oracle predicts the truth, in its colours"
        worse = {panel.title: panel.data for panel in draw_case(pair.worse, others[record.item_id], item).panels}
        assert worse["true"] == panels["true"]
        if others[record.item_id].score < 1:
            assert worse["predicted"] != worse["true"]


def test_targets_are_labelled_in_their_colours(benchmarks: World) -> None:
    run = benchmarks.pairs["mmr_generate"].worse
    for record in run.records:
        labels = draw_case(run, record, None).labels
        expected = [(target.name or "no target", target.iou) for target in record.targets]
        assert [(label.name, label.iou) for label in labels] == expected
        assert tuple(label.colour for label in labels) == part_colours(len(labels))


def test_words_are_shown(benchmarks: World) -> None:
    run = benchmarks.pairs["textvqa"].oracle
    record = next(iter(run.records))
    texts = {text.heading: text.content for text in draw_case(run, record, None).texts}
    assert record.prompt.split("\n")[0] in texts["Question"]
    assert texts["Reply"] == record.reply
    most = max(record.truths, key=record.truths.count)
    assert texts["Correct"].startswith(most)


def test_a_page_without_its_data_says_so(benchmarks: World, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(benchmarks.data, root)
    run = run_model(root, tmp_path / "run", "oracle", "mmr")
    path = root / "MMR" / "MMR_val.json"
    content = path.read_text()
    path.write_text(content.replace("drawn here last", "drawn here first"))
    write_report(run, [], [], tmp_path / "changed.html")
    assert f"No pictures: {root} has changed since the run." in read_page(tmp_path / "changed.html")
    shutil.rmtree(root)
    write_report(run, [], [], tmp_path / "gone.html")
    page = read_page(tmp_path / "gone.html")
    assert "No pictures: the questions can no longer be read" in page
    assert "data:image" not in page
    assert "Best cases" in page
    assert write_predictions(run, tmp_path / "predictions.json").num_written == len(run.records)


# ---- export


def test_predictions_are_exported(pair: Runs, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "predictions.json"
    assert main(["export-predictions", str(pair.worse.path), "--output", str(path)]) == 0
    entries = json.loads(path.read_text())
    for entry, record in zip(entries, pair.worse.records, strict=True):
        assert not Path(entry["image"]).is_absolute()
        assert (path.parent / entry["image"]).resolve() == Path(record.image_path).resolve()
        assert entry["masks"] == [rle_to_json(mask) for mask in record.masks()]
        keys = ("item_id", "group", "prompt", "status", "reason", "reply")
        assert {key: entry[key] for key in keys} == {
            "item_id": record.item_id,
            "group": record.group,
            "prompt": record.prompt,
            "status": record.status.value,
            "reason": record.reason,
            "reply": record.reply or None,
        }


# ---- reading


def test_a_record_file_without_its_end_is_refused(benchmarks: World, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(benchmarks.pairs["gqa"].oracle.path, tmp_path / "run"))
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    num_records = len(benchmarks.pairs["gqa"].oracle.records)
    with pytest.raises(ValueError, match=rf"has {num_records - 1} complete records but .* counts {num_records}"):
        load_run(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="with --resume to restore it"):
        load_run(folder)


# ---- a benchmark that the code has never seen


@dataclass(frozen=True)
class EchoItem:
    """A word to be said."""

    item_id: str
    image_id: str
    picture: Picture
    group: str
    word: str


@dataclass(frozen=True, kw_only=True)
class EchoRecord(Record):
    """Whether it was said, beyond what every record has."""

    is_right: bool = False


@dataclass(frozen=True)
class EchoOptions:
    """None."""


@dataclass(frozen=True)
class EchoTask(Task[EchoItem, str, EchoRecord]):
    """Only what a benchmark has to say."""

    VERSION: ClassVar[str] = "echo-1"
    RECORD: ClassVar[type[EchoRecord]] = EchoRecord

    split: str
    items: Sequence[EchoItem] = ()
    benchmark: str = "echo"

    @property
    def protocol(self) -> str:
        """One way."""
        return "aloud"

    @property
    def headline(self) -> str:
        """The only metric."""
        return "heard"

    def ask(self, item: EchoItem, marks: AnswerMarks) -> Asking[str]:
        """Ask for the word."""
        (reply,) = yield [ReplyRequest(0, (Turn(Role.USER, f"Say {item.word}"),), Gold(item.word))]
        return str(reply)

    def score(self, item: EchoItem, answer: str) -> EchoRecord:
        """Is it the word?"""
        return replace(self._record(item), is_right=answer == item.word)

    def fail(self, item: EchoItem, reason: str) -> EchoRecord:
        """Not heard."""
        return replace(self._record(item), status=Status.FAILED, reason=reason)

    def metrics(self, records: Sequence[EchoRecord]) -> Mapping[str, Metric | None]:
        """Share of words."""
        terms = Terms()
        for record in records:
            terms.add(record.image_id, record.is_right)
        return {"heard": ImageIndex(record.image_id for record in records).ratio(terms)}

    def groups(self, records: Sequence[EchoRecord]) -> Iterator[Group]:
        """Loud and soft ones."""
        for name in ("loud", "soft"):
            of_group = [record for record in records if record.group == name]
            yield make_group(name, of_group, self.metrics(of_group))

    def content(self) -> Iterator[object]:
        """The words."""
        for item in self.items:
            yield [item.item_id, item.word]

    def _record(self, item: EchoItem) -> EchoRecord:
        return EchoRecord(
            item_id=item.item_id,
            image_id=item.image_id,
            image_path=str(item.picture.path),
            group=item.group,
            prompt=f"Say {item.word}",
        )


def read_echo(root: Path, source: Source, options: EchoOptions) -> EchoTask:
    items = []
    for number, word in enumerate(("dog", "cat", "cow", "dog")):
        path = root / f"{number}.png"
        if not path.is_file():
            draw(path, number, (24, 18))
        items.append(EchoItem(word + str(number), str(number), Picture(path), ("loud", "soft")[number % 2], word))
    return EchoTask("all", tuple(items))


def run_echo(folder: Path, name: str, reply: str) -> AnyRun:
    """A model that always says the same."""
    config = RunConfig(
        benchmark="echo",
        split="all",
        root=str(folder),
        options={},
        protocol="",
        protocol_version="",
        content_hash="",
        model=ModelSettings("oracle", device="cpu"),
        output=str(folder / name),
    )
    config = configure_run(config, config.load_task())
    job = Job(config, lambda config, rank, max_new_tokens: ScriptedModel(lambda prompt: reply))
    assert run_benchmark(job, config.load_task(), resume=False, rank=Rank()) is not None
    return load_run(folder / name)


def test_a_new_benchmark_has_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Benchmark(
        "echo", "Words to be said", "all", EchoOptions, partial(read_echo, tmp_path), lambda split, _: EchoTask(split)
    )
    monkeypatch.setitem(registry.BENCHMARKS, "echo", entry)
    dog, cat = run_echo(tmp_path, "dog", "dog"), run_echo(tmp_path, "cat", "cat")
    assert overview(dog.summary).splitlines()[3:5] == ["loud       2       0   50.0", "soft       2       0   50.0"]
    tables = result_tables([dog, cat], AUTO, STYLE)
    assert [table.title.partition(":")[0] for table in tables] == ["oracle (dog)", "oracle (cat)"]
    assert [cell.split()[0] for cell in tables[1].rows[1].cells] == ["heard", "0.0", "50.0"]
    comparison = compare_runs(dog, cat)
    found = [(one.group, one.metric, one.difference.value) for one in comparison.differences]
    assert found == [("loud", "heard", -0.5), ("soft", "heard", 0.0)]
    assert "[loud]" in render_comparison(comparison, 5)
    write_report(dog, [cat], [], tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    assert "Words to be said:" in page
    assert page.count("data:image/jpeg") == 4, "all four images, random cases only"
    assert "Say cow" in page
    assert write_predictions(dog, tmp_path / "out.json").num_written == 4
    assert json.loads((tmp_path / "out.json").read_text())[0]["item_id"] == "dog0"
    assert [entry.name for entry in dataclasses.fields(EchoRecord)][-1] == "is_right"
