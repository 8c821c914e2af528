"""Writes the golden values anew: `python -m tests.golden.capture`, from the repository's root.

It also prints the tables of the stored run folders anew (tables/) and merges their shards, but leaves those folders as
they are. Only after a change of the numbers that is meant; say in the commit which ones changed and why.
"""

import json
import os
import tempfile
from pathlib import Path

from tests.golden.runs import (
    BENCHMARK_RUNS,
    PARTONOMY_RUNS,
    Golden,
    benchmark_scores,
    partonomy_scores,
    run_benchmark,
    run_partonomy,
)
from tests.golden.stored_runs import TABLES, TABLES_FOLDER, merge_stored, print_table
from tests.golden.world import hash_world, write_world

FOLDER = Path(__file__).resolve().parent
QUESTIONS_FILE = FOLDER / "questions.json"
PARTONOMY_FILE = FOLDER / "partonomy.json"
BENCHMARKS_FILE = FOLDER / "benchmarks.json"
MERGED_FILE = FOLDER / "merged.json"


def main() -> None:
    """Run everything once and write the files."""
    with tempfile.TemporaryDirectory() as name:
        world = write_world(Path(name) / "world")
        partonomy, benchmarks = {}, {}
        for run, settings in PARTONOMY_RUNS.items():
            run_partonomy(world, Path(name) / run, settings)
            partonomy[run] = partonomy_scores(world, Path(name) / run)
        for run, settings in BENCHMARK_RUNS.items():
            run_benchmark(world, Path(name) / run, settings)
            benchmarks[run] = benchmark_scores(world, Path(name) / run)
        os.chdir(world.folder)
        merged = {
            "oracle": partonomy_scores(world, merge_stored("oracle", Path(name) / "merged")),
            "pope": benchmark_scores(world, merge_stored("pope", Path(name) / "merged")),
        }
        tables = {table: print_table(command) for table, command in TABLES.items()}
        questions = hash_world(world)
        os.chdir(FOLDER)
    _write(QUESTIONS_FILE, questions)
    _write(PARTONOMY_FILE, partonomy)
    _write(BENCHMARKS_FILE, benchmarks)
    _write(MERGED_FILE, merged)
    for table, text in tables.items():
        (TABLES_FOLDER / f"{table}.txt").write_text(text, encoding="utf-8")


def read_golden(path: Path) -> Golden:
    """Read one of the files."""
    content: Golden = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: object) -> None:
    path.write_text(_lines(content, 0) + "\n", encoding="utf-8")


def _lines(content: object, depth: int) -> str:
    """JSON with one metric a line."""
    if not isinstance(content, dict) or not content:
        return json.dumps(content, ensure_ascii=False)
    space = " " * depth
    entries = [f"{space} {json.dumps(key)}: {_lines(value, depth + 1)}" for key, value in content.items()]
    return "{\n" + ",\n".join(entries) + f"\n{space}}}"


if __name__ == "__main__":
    main()
