"""Print the table of a comparison from its finished runs: `python scripts/ablation_table.py runs/ablations`.

Rows are variants, values are means over seeds. Each value is followed by the 95% confidence interval of the difference
to the base variant, paired by seed (Student's t over seeds; with three seeds the intervals are wide). Among dozens of
such intervals some exclude 0 by chance, so the last lines name the differences that survive Holm's correction over all
of them (Holm 1979, "A simple sequentially rejective multiple test procedure"). Only those are findings.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import ttest_1samp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partonomy.benchmarks.task import ALL
from partonomy.harness.run_folder import SUMMARY_FILE
from partonomy.harness.summary import read_summary, summary_to_json

BEFORE = "before.json"
"""File in the folder of the runs: held-out scores of the model that all of them started from."""
FINISHED = ("teacher_forced.json", SUMMARY_FILE)
"""A folder with one of these files holds a finished run."""
SIGNIFICANCE = 0.05
"""Of the intervals, and of the differences that survive the correction."""


@dataclass(frozen=True)
class Column:
    """A number of a run: its heading, the file that holds it and the keys down to it.

    `is_change`: the difference to the same number of the model that the runs started from. `is_optional`: the column is
    left out if no run has the file.
    """

    heading: str
    file: str
    keys: tuple[str, ...]
    is_change: bool = False
    is_optional: bool = False


def _metric(heading: str, question_type: str, metric: str) -> Column:
    return Column(heading, "validation/summary.json", ("groups", question_type, "metrics", metric, "value"))


IDENTIFICATION = "identification_with_label"
QUESTION_ANSWERING = ("part_vqa", "next_token_loss")
MMR_KINDS = ("", "_object", "_part", "_mixed", "_single", "_multiple")
"""Suffixes of the metrics of `plum validate mmr`: all questions, by granularity and by number of their targets."""


def _mmr(mode: str) -> tuple[Column, ...]:
    file = f"mmr_{mode}/summary.json"
    names = [f"{metric}{kind}" for kind in MMR_KINDS for metric in ("giou", "ciou")]
    return tuple(Column(name.replace("_", " "), file, ("groups", ALL, "metrics", name, "value")) for name in names)


ABLATION_COLUMNS = (
    _metric("identification micro-gIoU", IDENTIFICATION, "giou_micro_paired"),
    _metric("macro-gIoU", IDENTIFICATION, "giou_macro_paired"),
    _metric("intersection micro-gIoU", "positive_with_label", "giou_micro_paired"),
    _metric("difference micro-gIoU", "negative_with_label", "giou_micro_paired"),
    _metric("parts accuracy", IDENTIFICATION, "parts_accuracy"),
    Column("B", "teacher_forced.json", ("explanatory", "tags", "B")),
    Column("I", "teacher_forced.json", ("explanatory", "tags", "I")),
    Column("look-ahead B", "teacher_forced.json", ("part_status", "tags", "B")),
    Column("look-ahead O", "teacher_forced.json", ("part_status", "tags", "O")),
    Column("question answering, nats per token", "teacher_forced.json", QUESTION_ANSWERING),
)
LOOK_AHEAD_COLUMNS = tuple(
    Column(f"look-ahead {tag}", "teacher_forced.json", ("part_status", "tags", tag)) for tag in "BIO"
)
SISTER_COLUMNS = (
    _metric("identification micro-gIoU (paired)", IDENTIFICATION, "giou_micro_paired"),
    _metric("macro-gIoU (paired)", IDENTIFICATION, "giou_macro_paired"),
    _metric("micro-gIoU (union)", IDENTIFICATION, "giou_micro_union"),
    _metric("intersection micro-gIoU (paired)", "positive_with_label", "giou_micro_paired"),
    _metric("difference micro-gIoU (paired)", "negative_with_label", "giou_micro_paired"),
    _metric("own answer micro-gIoU (hungarian)", IDENTIFICATION, "generated_giou_micro_hungarian"),
    _metric("own answer micro-gIoU (union)", IDENTIFICATION, "generated_giou_micro_union"),
    _metric("parts accuracy", IDENTIFICATION, "parts_accuracy"),
    Column("question answering, nats per token", "teacher_forced.json", QUESTION_ANSWERING),
    Column("its change by fine-tuning", "teacher_forced.json", QUESTION_ANSWERING, is_change=True),
)
PAIR_METRICS = (("AP50", "ap50"), ("mIoU", "miou"), ("recall", "recall"), ("SS", "ss"), ("S-IoU", "siou"))
"""Headings and names of the five metrics of MixedParts."""


def _pairs(task: str = "") -> tuple[Column, ...]:
    return tuple(
        Column(heading, SUMMARY_FILE, ("groups", ALL, "metrics", f"{task}{name}", "value"))
        for heading, name in PAIR_METRICS
    )


LAMBDA_PREFIX = "kl_"
"""Beginning of a variant's name in a sweep of the KL weight; the weight follows."""


def _download(heading: str, benchmark: str, metric: str) -> Column:
    keys = ("groups", ALL, "metrics", metric, "value")
    return Column(heading, f"{benchmark}/summary.json", keys, is_optional=True)


SWEEP_COLUMNS = (
    _metric("identification micro-gIoU", IDENTIFICATION, "giou_micro_paired"),
    _metric("macro-gIoU", IDENTIFICATION, "giou_macro_paired"),
    _download("TextVQA accuracy", "textvqa", "accuracy"),
    Column("question answering, nats per token", "teacher_forced.json", QUESTION_ANSWERING),
    Column("its change by fine-tuning", "teacher_forced.json", QUESTION_ANSWERING, is_change=True),
)
LOSS_WEIGHT_COLUMNS = (
    _download("ReasonSeg gIoU", "reasonseg", "giou"),
    _download("ReasonSeg cIoU", "reasonseg", "ciou"),
    _metric("identification micro-gIoU", IDENTIFICATION, "giou_micro_paired"),
    _metric("macro-gIoU", IDENTIFICATION, "giou_macro_paired"),
)
TABLES: Mapping[str, Mapping[str, tuple[Column, ...]]] = {
    "ablations": {"": ABLATION_COLUMNS},
    "look_ahead": {"": LOOK_AHEAD_COLUMNS},
    "kl_sweep": {"": SWEEP_COLUMNS},
    "loss_weights": {"": LOSS_WEIGHT_COLUMNS},
    "pairs": {
        "Mean of the three tasks": _pairs(),
        "Common objects": _pairs("common_objects_"),
        "Common parts": _pairs("common_parts_"),
        "Unique parts": _pairs("unique_parts_"),
    },
    "sisters": {
        "Partonomy": SISTER_COLUMNS,
        "MMR-like, own answers, masks paired (mode generate)": _mmr("generate"),
        "MMR-like, own answers, union of masks (mode union)": _mmr("union"),
    },
}
"""Tables with their titles, by the comparison's name (`--columns`)."""


def read_value(run: Path, column: Column) -> float | None:
    """Return one number of a run, or None if it is null; a missing key is an error that names file and key."""
    if column.is_optional and not (run / column.file).is_file():
        return None
    value = _find(run / column.file, column.keys)
    if value is None or not column.is_change:
        return value
    before = _find(run.parent / BEFORE, column.keys)
    return None if before is None else value - before


def _find(file: Path, keys: tuple[str, ...]) -> float | None:
    is_summary = file.name == SUMMARY_FILE
    value: Any = summary_to_json(read_summary(file)) if is_summary else json.loads(file.read_text())
    for key in keys:
        if key not in value:
            raise KeyError(f"{file} has no {'.'.join(keys)}")
        value = value[key]
    return None if value is None else float(value)


@dataclass(frozen=True)
class Comparison:
    """A number of a variant against the base's, paired by seed.

    Attributes:
        variant: The variant.
        heading: The column's heading.
        low, high: 95% confidence interval of the mean difference.
        p_value: Two-sided p-value of the t test that the mean difference is 0.
    """

    variant: str
    heading: str
    low: float
    high: float
    p_value: float


def compare(variant: str, heading: str, differences: Sequence[float]) -> Comparison | None:
    """Test differences, one per seed; None for fewer than two of them, or equal ones (no spread to test by)."""
    if len(set(differences)) < 2:
        return None
    result = ttest_1samp(differences, 0.0)
    low, high = result.confidence_interval(1 - SIGNIFICANCE)
    return Comparison(variant, heading, float(low), float(high), float(result.pvalue))


def holm(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, float]]:
    """Return the comparisons from the smallest p-value to the largest, with p-values adjusted as Holm does."""
    adjusted, largest = [], 0.0
    for rank, one in enumerate(sorted(comparisons, key=lambda one: one.p_value)):
        largest = max(largest, min(1.0, (len(comparisons) - rank) * one.p_value))
        adjusted.append((one, largest))
    return adjusted


def describe_findings(comparisons: Sequence[Comparison]) -> str:
    """Say how many intervals exclude 0, how many would by chance, and which differences survive the correction."""
    if not comparisons:
        return "Differences to the base need at least two seeds."
    apart = sum(one.low > 0 or one.high < 0 for one in comparisons)
    chance = SIGNIFICANCE * len(comparisons)
    lines = [
        f"{apart} of {len(comparisons)} intervals exclude 0; {chance:.1f} would by chance if nothing differed. "
        f"Differences that survive Holm's correction (adjusted p below {SIGNIFICANCE:.2f}):"
    ]
    found = [(one, p_value) for one, p_value in holm(comparisons) if p_value < SIGNIFICANCE]
    lines += [
        f"- {one.variant}, {one.heading}: [{one.low:+.3f}, {one.high:+.3f}], p = {p_value:.2g}"
        for one, p_value in found
    ]
    return "\n".join(lines if found else [*lines, "- none"])


def describe(values: Mapping[int, float | None], comparison: Comparison | None) -> str:
    """Return the mean over seeds and the interval of the difference to the base, if there is one."""
    known = [value for value in values.values() if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.3f}"
    return mean if comparison is None else f"{mean} [{comparison.low:+.3f}, {comparison.high:+.3f}]"


def find_runs(folder: Path) -> dict[str, dict[int, Path]]:
    """Return the folders of finished runs, by variant and seed."""
    runs: dict[str, dict[int, Path]] = defaultdict(dict)
    for run in sorted(folder.glob("*_seed*")):
        if any((run / name).is_file() for name in FINISHED):
            variant, seed = run.name.rsplit("_seed", 1)
            runs[variant][int(seed)] = run
    return runs


def main(folder: Path, base: str, tables: Mapping[str, tuple[Column, ...]]) -> None:
    """Print the tables as Markdown."""
    runs = find_runs(folder)
    if base not in runs:
        sys.exit(f"{folder} holds no finished run of {base}")
    comparisons: list[Comparison] = []
    for title, columns in tables.items():
        if title:
            print(f"\n{title}\n")
        comparisons += _print_table(runs, base, columns)
    print(f"\n{describe_findings(comparisons)}")


def _print_table(runs: Mapping[str, Mapping[int, Path]], base: str, columns: tuple[Column, ...]) -> list[Comparison]:
    every = [run for of_variant in runs.values() for run in of_variant.values()]
    columns = tuple(one for one in columns if not one.is_optional or any((run / one.file).is_file() for run in every))
    print("| variant | seeds | " + " | ".join(column.heading for column in columns) + " |")
    print("|" + "---|" * (len(columns) + 2))
    comparisons = []
    for variant in sorted(runs, key=lambda name: (name != base, name)):
        cells = []
        for column in columns:
            values = {seed: read_value(run, column) for seed, run in runs[variant].items()}
            of_base = {seed: read_value(run, column) for seed, run in runs[base].items()}
            pairs = [(value, of_base.get(seed)) for seed, value in values.items()]
            differences = [value - other for value, other in pairs if value is not None and other is not None]
            comparison = None if variant == base else compare(variant, column.heading, differences)
            comparisons += [] if comparison is None else [comparison]
            cells.append(describe(values, comparison))
        print(f"| {variant} | {len(runs[variant])} | " + " | ".join(cells) + " |")
    return comparisons


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the table of a comparison.")
    parser.add_argument("folder", type=Path, help="folder of the runs")
    parser.add_argument("--base", default="base", help="variant with which the others are compared")
    parser.add_argument("--columns", choices=sorted(TABLES), default="ablations")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.base, TABLES[arguments.columns])
