"""Try the readers of all data on damaged files: `python -m scripts.bench.fuzz_readers --cases 20000`.

Prints per reader how many cases were read, refused by kind of reason, and crashed (0 is the only good number; the
status is 1 otherwise). The cases are those of tests/fuzz, the same ones for the same `--number`, and memory is limited:
a reader that allocates what a damaged file claims crashes here.
"""

import argparse
import contextlib
import io
import logging
import resource
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from partonomy.progress import progress
from tests.fuzz.readers import make_readers
from tests.fuzz.trial import Reader, Tally, run_cases

MEMORY_LIMIT = 6 << 30  # bytes of address space; an image of PIL's largest size takes .7 GB


def try_reader(reader: Reader, num_cases: int, folder: Path, number: int) -> Tally:
    """Run the cases of one reader under a progress bar."""
    folder.mkdir()
    with progress(num_cases, reader.name, "case") as shown:
        return run_cases(reader, num_cases, folder, collect_crashes=True, on_case=shown.update, number=number)


def print_tally(reader: Reader, tally: Tally) -> None:
    """Print one reader's counts and its first crash."""
    num_cases = tally.outcomes.total() + len(tally.crashes)
    print(f"{reader.name}: {num_cases} cases, {len(tally.crashes)} crashes")
    for outcome, count in tally.outcomes.most_common():
        print(f"  {count:>7}  {outcome}")
    for case, error in tally.crashes[:1]:
        print(f"  first crash, on {case!r:.2000}")
        traceback.print_exception(error, file=sys.stdout)
    sys.stdout.flush()


def main() -> int:
    """Try every reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="cases per reader")
    parser.add_argument("--reader", help="only the reader of this name")
    parser.add_argument("--number", type=int, default=0, help="other cases for every number, to try more in portions")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    warnings.simplefilter("ignore")  # PIL's, about damaged files
    logging.disable(logging.WARNING)
    num_crashes = 0
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            readers = make_readers(Path(folder) / "valid")
        for number, reader in enumerate(readers):
            if arguments.reader in (None, reader.name):
                tally = try_reader(reader, arguments.cases, Path(folder) / str(number), arguments.number)
                print_tally(reader, tally)
                num_crashes += len(tally.crashes)
    return 1 if num_crashes else 0


if __name__ == "__main__":
    sys.exit(main())
