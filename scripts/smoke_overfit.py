"""Check whether a set-up can overfit 8 samples; launched by scripts/smoke_overfit.sh, which explains it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config
from plum.training.reporting import run_reported, start_log
from plum.training.smoke_overfit import SmokeReport, run_smoke_overfit

DEFAULT_UPDATES = 200


def main() -> None:
    """Command line entry; exits with 1 when a check fails or the run cannot start."""
    start_log()

    def program() -> int:
        own, config = parse(sys.argv[1:])
        report = run_smoke_overfit(config, own.updates, own.data_folder)
        if os.environ.get("RANK", "0") == "0":
            print(describe(report))
        return int(not report.is_passed)

    sys.exit(run_reported("FAIL  smoke_overfit.py", program))


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, TrainConfig]:
    """Return this program's own flags, and the run that the others describe.

    Raises:
        ValueError: a flag is unknown, or the configuration is wrong.
    """
    parser = argparse.ArgumentParser(description="Overfit 8 samples; other flags are train.py's", allow_abbrev=False)
    parser.add_argument("--updates", type=int, default=DEFAULT_UPDATES, help="updates of 8 images")
    parser.add_argument("--data_folder", help="a data set in partonomy's own form instead of the configuration's data")
    own, others = parser.parse_known_args(arguments)
    if own.updates < 1:
        raise ValueError(f"--updates is {own.updates}, it must be at least 1")
    return own, load_train_config(others)


def describe(report: SmokeReport) -> str:
    """Return one line per check, and the verdict."""
    lines = [f"{'pass' if check.is_passed else 'FAIL'}  {check.name}: {check.finding}" for check in report.checks]
    verdict = "PASS  this set-up learns" if report.is_passed else "FAIL  this set-up does not learn what it is shown"
    return "\n".join(["", *lines, f"{verdict} (samples {', '.join(report.sample_ids)})"])


if __name__ == "__main__":
    main()
