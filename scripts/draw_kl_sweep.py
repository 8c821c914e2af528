"""Draw a sweep of the KL weight as the paper's Figure 5b: `python scripts/draw_kl_sweep.py runs/kl_sweep/... FILE.svg`.

Left axis: micro-gIoU of identification questions. Right axis: TextVQA accuracy or, if no run was scored on it, the
next-token loss of held-out questions. Points are means over seeds.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partonomy.files import write_text_atomically
from partonomy.reporting.charts import Line, draw_two_lines
from scripts.ablation_table import LAMBDA_PREFIX, SWEEP_COLUMNS, Column, find_runs, read_value


def read_points(runs: Mapping[str, Mapping[int, Path]], column: Column) -> tuple[tuple[float, float], ...]:
    """Return (KL weight, mean over seeds), in the order of the weights; a weight without a value is left out."""
    points = []
    for variant, by_seed in runs.items():
        if variant.startswith(LAMBDA_PREFIX):
            values = [value for run in by_seed.values() if (value := read_value(run, column)) is not None]
            if values:
                points.append((float(variant.removeprefix(LAMBDA_PREFIX)), statistics.mean(values)))
    return tuple(sorted(points))


def main(folder: Path, output: Path) -> None:
    """Write the figure."""
    runs = find_runs(folder)
    by_heading = {column.heading: column for column in SWEEP_COLUMNS}
    names = ("identification micro-gIoU", "TextVQA accuracy", "question answering, nats per token")
    lines = [Line(name, read_points(runs, by_heading[name])) for name in names]
    if not lines[0].points:
        sys.exit(f"{folder} holds no finished run of a variant named {LAMBDA_PREFIX}WEIGHT")
    right = lines[1] if lines[1].points else lines[2]
    write_text_atomically(output, draw_two_lines("KL weight", lines[0], right).decode("utf-8"))
    print(f"Written: {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw a sweep of the KL weight.")
    parser.add_argument("folder", type=Path, help="folder of the runs")
    parser.add_argument("output", type=Path, help="SVG file to write")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.output)
