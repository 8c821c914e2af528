"""Writes the golden values anew: `python -m tests.golden.capture`, from the repository's root.

Only after a change of the numbers that is meant; say in the commit which ones changed and why.
"""

import json
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
from tests.golden.world import hash_world, write_world

FOLDER = Path(__file__).parent
QUESTIONS_FILE = FOLDER / "questions.json"
PARTONOMY_FILE = FOLDER / "partonomy.json"
BENCHMARKS_FILE = FOLDER / "benchmarks.json"


def main() -> None:
    """Run everything once and write the three files."""
    with tempfile.TemporaryDirectory() as name:
        world = write_world(Path(name) / "world")
        partonomy, benchmarks = {}, {}
        for run, settings in PARTONOMY_RUNS.items():
            run_partonomy(world, Path(name) / run, settings)
            partonomy[run] = partonomy_scores(world, Path(name) / run)
        for run, settings in BENCHMARK_RUNS.items():
            run_benchmark(world, Path(name) / run, settings)
            benchmarks[run] = benchmark_scores(world, Path(name) / run)
        _write(QUESTIONS_FILE, hash_world(world))
    _write(PARTONOMY_FILE, partonomy)
    _write(BENCHMARKS_FILE, benchmarks)


def read_golden(path: Path) -> Golden:
    """Read one of the three files."""
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
