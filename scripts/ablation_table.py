"""Print the ablation table from finished runs: `python scripts/ablation_table.py runs/ablations`.

Rows are variants, values are means over seeds; beside each, the 95% interval of the difference to `base` paired by seed
(Student's t over seeds: three seeds give wide intervals, and that is what they say).
"""

import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student_t

BASE = "base"


@dataclass(frozen=True)
class Column:
    """A number of a run: its heading, the file that holds it and the keys down to it."""

    heading: str
    file: str
    keys: tuple[str, ...]


def _metric(heading: str, question_type: str, metric: str) -> Column:
    return Column(heading, "validation/summary.json", ("question_types", question_type, "metrics", metric, "value"))


COLUMNS = (
    _metric("identification micro-gIoU", "identification_with_label", "giou_micro_paired"),
    _metric("macro-gIoU", "identification_with_label", "giou_macro_paired"),
    _metric("intersection micro-gIoU", "positive_with_label", "giou_micro_paired"),
    _metric("difference micro-gIoU", "negative_with_label", "giou_micro_paired"),
    _metric("parts accuracy", "identification_with_label", "parts_accuracy"),
    Column("B", "teacher_forced.json", ("explanatory", "tags", "B")),
    Column("I", "teacher_forced.json", ("explanatory", "tags", "I")),
    Column("look-ahead B", "teacher_forced.json", ("part_status", "tags", "B")),
    Column("look-ahead O", "teacher_forced.json", ("part_status", "tags", "O")),
    Column("question answering, nats per token", "teacher_forced.json", ("part_vqa", "next_token_loss")),
)


def read_value(run: Path, column: Column) -> float:
    """Return one number of a run; a missing one is an error that names the file and the key."""
    value = json.loads((run / column.file).read_text())
    for key in column.keys:
        if key not in value:
            raise KeyError(f"{run / column.file} has no {'.'.join(column.keys)}")
        value = value[key]
    return float(value)


def describe(values: dict[int, float], base: dict[int, float], is_base: bool) -> str:
    """Return the mean over seeds and the interval of the difference to the base."""
    mean = f"{statistics.mean(values.values()):.3f}"
    shared = sorted(set(values) & set(base))
    if is_base or len(shared) < 2:
        return mean
    differences = [values[seed] - base[seed] for seed in shared]
    half = student_t.ppf(0.975, len(shared) - 1) * statistics.stdev(differences) / len(shared) ** 0.5
    centre = statistics.mean(differences)
    return f"{mean} [{centre - half:+.3f}, {centre + half:+.3f}]"


def main(folder: Path) -> None:
    """Print the table as Markdown."""
    runs: dict[str, dict[int, Path]] = defaultdict(dict)
    for finished in sorted(folder.glob("*_seed*/teacher_forced.json")):
        variant, seed = finished.parent.name.rsplit("_seed", 1)
        runs[variant][int(seed)] = finished.parent
    if BASE not in runs:
        sys.exit(f"{folder} holds no finished run of {BASE}")
    print("| variant | seeds | " + " | ".join(column.heading for column in COLUMNS) + " |")
    print("|" + "---|" * (len(COLUMNS) + 2))
    for variant in sorted(runs, key=lambda name: (name != BASE, name)):
        cells = []
        for column in COLUMNS:
            values = {seed: read_value(run, column) for seed, run in runs[variant].items()}
            base = {seed: read_value(run, column) for seed, run in runs[BASE].items()}
            cells.append(describe(values, base, variant == BASE))
        print(f"| {variant} | {len(runs[variant])} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
