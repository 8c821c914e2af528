"""How memory and time of the commands on finished runs and on large files grow.

python scripts/bench/command_growth.py [--records 50000,100000,200000] [--megabytes 125,250,500] [--parts runs,...]

The random model on drawn images of 64 x 64 pixels (files: 256 x 256). Its records are multiplied (`many_records`), and
each command runs in a process of its own with one thread. There is a line for each command and size: CPU seconds and
peak resident size in MB. Everything is written to a temporary folder, which is deleted.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from jsonargparse import CLI

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.datasets.store import ANNOTATIONS_FILE
from partonomy.files import read_json, write_json
from partonomy.harness.run_folder import RECORDS_FILE
from partonomy.masks import decode_mask, rle_from_coco
from scripts.bench.many_records import multiply_dataset, multiply_run

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 48
MEGABYTE = 10**6
PARTS = ("runs", "files", "polygons")


@dataclass(frozen=True)
class Measurement:
    """One command at one size: the number of records or the megabytes of its input, and what it took."""

    command: str
    size: int
    seconds: float
    megabytes: int


def main(
    records: str = "50000,100000,200000",
    megabytes: str = "125,250,500",
    *,
    parts: str = ",".join(PARTS),
    folder: str | None = None,
) -> None:
    """Print a line per command and size, then all of them as one JSON list.

    Args:
        records: numbers of records of a run, comma-separated.
        megabytes: sizes of the files to check, import and export, comma-separated.
        parts: some of runs, files (of run-length codes) and polygons (a check of such a file), comma-separated.
        folder: where to make the temporary folder; default the system's.
    """
    wanted = parts.split(",")
    if unknown := sorted(set(wanted) - set(PARTS)):
        raise SystemExit(f"unknown parts {', '.join(unknown)}; there are {', '.join(PARTS)}")
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="command_growth_", dir=folder) as temporary:
        world = SmallWorld(Path(temporary) / "small")
        for size in map(int, records.split(",")) if "runs" in wanted else ():
            found += _shown(measure_runs(world, Path(temporary) / "runs", size))
            shutil.rmtree(Path(temporary) / "runs")
        for size in map(int, megabytes.split(",")) if "files" in wanted else ():
            found += _shown(measure_files(world, Path(temporary) / "files", size))
            shutil.rmtree(Path(temporary) / "files")
        for size in map(int, megabytes.split(",")) if "polygons" in wanted else ():
            found += _shown(measure_polygons(world, Path(temporary) / "polygons", size))
            shutil.rmtree(Path(temporary) / "polygons")
    print(json.dumps([asdict(one) for one in found]))


class SmallWorld:
    """Drawn data sets and two runs of the random model on the first, which the measured ones are copies of."""

    def __init__(self, folder: Path) -> None:
        self.dataset, self.runs = folder / "dataset", (folder / "run_0", folder / "run_1")
        self.large = folder / "large"
        for dataset, side in ((self.dataset, 64), (self.large, 256)):
            build = ["build", "--source", "synthetic", "--images", str(NUM_IMAGES), "--image_size", str(side)]
            run_command(["-m", "partonomy", *build, "--embedding_model", "char-ngram-tfidf", "--output", str(dataset)])
        for seed, run in enumerate(self.runs):
            run_command(_validate(self.dataset, run, seed))

    @property
    def num_records(self) -> int:
        """Records of each run."""
        return (self.runs[0] / RECORDS_FILE).read_bytes().count(b"\n")


def measure_runs(world: SmallWorld, folder: Path, num_records: int) -> Iterator[Measurement]:
    """Finish, tabulate, report, compare and merge runs of about so many records."""
    copies = max(round(num_records / world.num_records), 1)
    size = copies * world.num_records
    dataset = folder / "dataset"
    multiply_dataset(world.dataset, dataset, copies)
    runs = (folder / "run_0", folder / "run_1")
    for seed, (source, run) in enumerate(zip(world.runs, runs, strict=True)):
        multiply_run(source, dataset, run, copies)
        measured = run_command([*_validate(dataset, run, seed), "--resume"])
        if not seed:
            yield Measurement("finish", size, *measured)
    first, second = map(str, runs)
    yield Measurement("tables", size, *run_command(["-m", "partonomy", "tables", first, "--protocol", "both"]))
    yield Measurement("compare", size, *run_command(["-m", "partonomy", "compare", first, second]))
    output = str(folder / "flips.csv")
    yield Measurement(
        "compare --output", size, *run_command(["-m", "partonomy", "compare", first, second, "--output", output])
    )
    yield Measurement("report", size, *run_command(["-m", "partonomy", "report", first]))
    yield Measurement(
        "report, 1 baseline", size, *run_command(["-m", "partonomy", "report", first, "--baselines", second])
    )
    predictions = str(folder / "predictions.json")
    yield Measurement(
        "export-predictions",
        size,
        *run_command(["-m", "partonomy", "export-predictions", first, "--output", predictions]),
    )
    flags = ["--questions", str(dataset), "--output", str(folder / "imported"), "--name", "other"]
    yield Measurement(
        "import-predictions", size, *run_command(["-m", "partonomy", "import-predictions", predictions, *flags])
    )
    shutil.rmtree(runs[1])
    shards = [str(folder / f"shard_{number}") for number in (1, 2)]
    for place, shard in enumerate(shards):
        multiply_run(
            world.runs[0],
            dataset,
            Path(shard),
            copies,
            shard=f"{place + 1}/2",
            keep=lambda number, record, place=place: number % 2 == place,  # type: ignore[misc]
        )
    merged = str(folder / "merged")
    yield Measurement("merge-runs", size, *run_command(["-m", "partonomy", "merge-runs", *shards, "--output", merged]))


def measure_files(world: SmallWorld, folder: Path, megabytes: int) -> Iterator[Measurement]:
    """Check an annotation file, and import and export a record file, of about so many megabytes."""
    few = folder / "few"
    multiply_dataset(world.large, few, 4)
    exported = few / "few_qa_pairs.json"
    run_command(["-m", "partonomy", "export", "--questions", str(few), "--output", str(exported)])
    per_copy = exported.stat().st_size / 4
    copies = max(round(megabytes * MEGABYTE / per_copy), 1)
    many = folder / "many"
    multiply_dataset(world.large, many, copies)
    record_file = many / "many_qa_pairs.json"
    flags = ["--questions", str(many), "--output", str(record_file)]
    yield Measurement("export", megabytes, *run_command(["-m", "partonomy", "export", *flags]))
    flags = ["--questions", str(record_file), "--output", str(folder / "again")]
    yield Measurement("import of both files", megabytes, *run_command(["-m", "partonomy", "import", *flags]))
    record_file.with_suffix(".annotations.json").unlink()
    flags = ["--questions", str(record_file), "--output", str(folder / "alone")]
    yield Measurement("import", megabytes, *run_command(["-m", "partonomy", "import", *flags]))
    shutil.rmtree(many)
    yield Measurement("check", megabytes, *_check_copies(world.large, many, megabytes))


def measure_polygons(world: SmallWorld, folder: Path, megabytes: int) -> Iterator[Measurement]:
    """Check an annotation file of about so many megabytes whose masks are polygons with a corner at every pixel."""
    source = folder / "source"
    shutil.copytree(world.large, source)
    content = read_json(source / ANNOTATIONS_FILE)
    for annotation in content["annotations"]:
        rle = annotation["segmentation"]
        mask = decode_mask(rle_from_coco(rle, rle["size"][0], rle["size"][1], "the mask")).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        annotation["segmentation"] = [outline.reshape(-1).tolist() for outline in outlines if len(outline) > 2]
    content["annotations"] = [annotation for annotation in content["annotations"] if annotation["segmentation"]]
    write_json(source / ANNOTATIONS_FILE, content)
    yield Measurement("check of polygons", megabytes, *_check_copies(source, folder / "many", megabytes))


def _check_copies(source: Path, folder: Path, megabytes: int) -> tuple[float, int]:
    """Check so many copies of a data set that its annotation file has about so many megabytes."""
    copies = max(round(megabytes * MEGABYTE / (source / ANNOTATIONS_FILE).stat().st_size), 1)
    multiply_dataset(source, folder, copies)
    checked = ["--annotations", str(folder / ANNOTATIONS_FILE), "--images", str(folder / "images"), "--headers_only"]
    return run_command(["-m", "partonomy", "check", *checked])


def run_command(arguments: Sequence[str]) -> tuple[float, int]:
    """Run a command of this repository with one thread and return its CPU seconds and its peak resident size in MB."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{output.read().decode()}")
    return round(usage.ru_utime + usage.ru_stime, 1), round(usage.ru_maxrss * 1024 / MEGABYTE)


def _validate(dataset: Path, run: Path, seed: int) -> list[str]:
    flags = ["--questions", str(dataset), "--output", str(run), "--model", "random", "--seed", str(seed)]
    return ["validate_partonomy.py", *flags]


def _shown(measurements: Iterator[Measurement]) -> Iterator[Measurement]:
    start = time.perf_counter()
    for one in measurements:
        print(
            f"{one.command}: {one.size:,}: {one.seconds} s of CPU, {one.megabytes:,} MB "
            f"(after {time.perf_counter() - start:.0f} s)",
            flush=True,
        )
        yield one


if __name__ == "__main__":
    CLI(main, as_positional=False)
