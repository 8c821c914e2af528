"""Tables with one row per variant of a model and few metrics: Tables 13 and 14, Figure 5a, the MMR paper's Table 9.

They are printed by name only, because a run does not say that it belongs to an ablation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.benchmarks.task import ALL
from partonomy.harness.provenance import overlap_words
from partonomy.metrics.bootstrap import Estimate
from partonomy.quoted_rows import QUOTED, read_quoted
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.overview import find_estimate
from partonomy.reporting.paper_tables.paper_table import (
    OURS,
    PAPER_PROTOCOL,
    PaperTable,
    PaperTableStyle,
    TidyRow,
    format_interval,
    tidy_percent,
)
from partonomy.reporting.paper_tables.tag_table import PART_KIND, TAGS, find_tag_scores
from partonomy.structures import QuestionType
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent
from partonomy.yaml_files import read_yaml

IDENTIFICATION = QuestionType.IDENTIFICATION_WITH_LABEL.value
PAPER_GROUP, RUN_GROUP = "paper (quoted)", "runs"
SETTING_KEYS = {
    "lambda_KL": ("losses", "kl"),
    "lambda_seg": ("losses", "mask_overlap"),
    "lambda_BCE": ("losses", "mask_bce"),
    "LR": ("optimizer", "learning_rate"),
}
"""Columns of settings -> keys of a training run's config.yaml."""
TRAINING_CONFIG = "config.yaml"


@dataclass(frozen=True)
class Measure:
    """A column of scores: its name in the file of quoted rows, its heading, and the metric of a run."""

    column: str
    heading: str
    metric: str


@dataclass(frozen=True)
class AblationTable(PaperTable):
    """A table whose rows are variants of a model.

    Attributes:
        name: The value of `--table`.
        file: File of `paper_rows`, without its ending.
        title: Title of the printed table.
        note: Text below it.
        benchmarks: Benchmarks that a run may be on; empty means every benchmark that has the metrics.
        group: Group of a run's summary that holds the metrics.
        measures: Columns of scores.
        settings: Columns of training settings; a run's are read from its training folder (`SETTING_KEYS`).
        has_tags: Whether columns with the accuracy of B, I and O follow.
        is_fraction: Whether the paper prints fractions instead of percentages.
    """

    name: str
    file: str
    title: str
    note: str
    group: str
    measures: tuple[Measure, ...]
    benchmarks: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    has_tags: bool = False
    is_fraction: bool = False
    is_by_name: bool = True

    def holds(self, run: AnyRun) -> bool:
        """Whether the run is on one of the benchmarks and has every metric of the table."""
        if self.benchmarks and run.summary.benchmark not in self.benchmarks:
            return False
        entry = run.summary.groups.get(self.group)
        return entry is not None and all(measure.metric in entry.metrics for measure in self.measures)

    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """See PaperTable; a run's label names its data, because rows on different data do not compare."""
        rows = [
            TableRow((*self._quoted_labels(row), *(row[name] or "-" for name in self._columns)), PAPER_GROUP)
            for row in read_quoted(self.file).rows
        ]
        rows += [self._run_row(run, style) for run in runs]
        headings = tuple(measure.heading for measure in self.measures) + (TAGS if self.has_tags else ())
        left = ("Method", "Data", *self.settings)
        notes = [self.note]
        notes += [
            f"{run.name}: trained on images of its data: {overlap_words(run.summary.provenance)}." for run in runs
        ]
        return Table(self.title, (ColumnGroup("", (*left, *headings)),), tuple(rows), " ".join(notes))

    def quoted(self) -> Iterator[TidyRow]:
        """See PaperTable; printed fractions become percentages."""
        for row in read_quoted(self.file).rows:
            method = ", ".join(label for label in self._quoted_labels(row) if label)
            for name in self._columns:
                value = tidy_percent(float(row[name])) if self.is_fraction else row[name]
                yield TidyRow(self.name, method, "", QUOTED, PAPER_PROTOCOL, self.group, name, value)

    def further(self, runs: Sequence[AnyRun]) -> Iterator[TidyRow]:
        """Generate the tag accuracies that lie beside the runs."""
        for run in runs if self.has_tags else ():
            scores = find_tag_scores(run.path)
            for name, value in (scores.by_tag if scores else {}).items():
                yield TidyRow(self.name, run.name, PART_KIND, OURS, "teacher forced", "", name, tidy_percent(value))

    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """See PaperTable."""
        return {self.group: tuple(measure.metric for measure in self.measures)}

    @property
    def _columns(self) -> tuple[str, ...]:
        """The columns of scores in the file."""
        return tuple(measure.column for measure in self.measures) + (TAGS if self.has_tags else ())

    def _quoted_labels(self, row: Mapping[str, str]) -> tuple[str, ...]:
        method = row.get("method", "PLUM" if self.settings else "")
        return (method, "", *(row[name] for name in self.settings))

    def _run_row(self, run: AnyRun, style: PaperTableStyle) -> TableRow:
        entry = run.summary.groups.get(self.group)
        estimates = [find_estimate(entry, measure.metric) for measure in self.measures]
        scores = find_tag_scores(run.path) if self.has_tags else None
        tags = [
            format_percent(None if scores is None else scores.by_tag[tag]) for tag in (TAGS if self.has_tags else ())
        ]
        data = f"{run.dataset_name}, {run.summary.protocol}" if self.group == ALL else run.dataset_name
        if run.config.limit is not None:
            data += f", first {run.config.limit}"
        settings = training_settings(run)
        labels = (run.name, data, *(settings.get(name, "-") for name in self.settings))
        intervals = ("",) * len(labels) + tuple(map(self._interval, estimates)) + ("",) * len(tags)
        return TableRow(
            (*labels, *(self._value(estimate.value) for estimate in estimates), *tags),
            RUN_GROUP,
            intervals if style.has_intervals and any(intervals) else (),
        )

    def _value(self, value: float | None) -> str:
        if not self.is_fraction:
            return format_percent(value)
        return "-" if value is None else f"{value:.3f}"

    def _interval(self, estimate: Estimate) -> str:
        if not self.is_fraction or estimate.low is None or estimate.high is None:
            return format_interval(estimate)
        return f"{estimate.low:.3f}-{estimate.high:.3f}"


def training_settings(run: AnyRun) -> dict[str, str]:
    """Return the settings of `SETTING_KEYS` of a run's model; empty if its training folder is no longer there.

    Raises:
        ValueError: The folder's config.yaml cannot be read.
    """
    checkpoint = run.config.model.checkpoint
    file = None if checkpoint is None else Path(checkpoint).parent / TRAINING_CONFIG
    if file is None or not file.is_file():
        return {}
    try:
        content = read_yaml(file)
        return {name: f"{content[section][key]:g}" for name, (section, key) in SETTING_KEYS.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: not the configuration of a training run ({type(error).__name__}: {error})"
        ) from error


_PARTS = (
    Measure("giou_micro_paired", "micro-gIoU", "giou_micro_paired"),
    Measure("giou_macro_paired", "macro-gIoU", "giou_macro_paired"),
)
_WHOLE = (Measure("giou", "gIoU", "giou"), Measure("ciou", "cIoU", "ciou"))

ABLATION_TABLES = (
    AblationTable(
        "13",
        "table13",
        "Dice or Focal-Tversky (%), as the paper's Table 13",
        "The paper's rows: PLUM-13B (ft), Partonomy-PartImageNet. Runs: identification questions with the label. B, I "
        "and O of a run come from teacher_forced.json in its folder or the one above; a dash: there is none.",
        IDENTIFICATION,
        _PARTS,
        ("partonomy",),
        has_tags=True,
    ),
    AblationTable(
        "14",
        "table14",
        "Loss weights (fractions), as the paper's Table 14",
        "The paper does not name the data; its last row is the ReasonSeg score of PLUM-13B (ft) in its Table 4. The "
        "headings are as printed. By the paper's Table 6, the weights of the last row are those of the mask "
        "overlap (8), of BCE (2) and of KL (0.1): the headings seem to be shifted by one. A run's settings are "
        "under the names that they have in its config.yaml: kl, mask_overlap, mask_bce.",
        ALL,
        _WHOLE,
        settings=tuple(SETTING_KEYS),
        is_fraction=True,
    ),
    AblationTable(
        "5a",
        "figure5a",
        "Feedback loop and span extractor (%), as the paper's Figure 5a",
        "F: feedback loop. The paper's rows: fine-tuned models, Partonomy-PartImageNet. Runs: identification "
        "questions with the label.",
        IDENTIFICATION,
        _PARTS,
        ("partonomy",),
    ),
    AblationTable(
        "mmr9",
        "mmr_table9",
        "LISA trained on ReasonSeg or on MMR, scored on ReasonSeg val (%), as the MMR paper's Table 9",
        "configs/lisa_7b.yaml trains the first, with configs/overlays/mmr_for_reason_seg.yaml the second.",
        ALL,
        (Measure("reasonseg_giou", "gIoU", "giou"), Measure("reasonseg_ciou", "cIoU", "ciou")),
        ("reasonseg",),
    ),
)
