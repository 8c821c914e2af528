"""Scores a model on Partonomy questions: records.jsonl and summary.json in the output folder.

python validate_partonomy.py --model plum --checkpoint runs/quickstart/model --questions data/synthetic/validation \
    --output runs/quickstart/validation

The same as `python -m partonomy run partonomy`.
"""

import sys
from collections.abc import Sequence

from partonomy.cli.parsers import error_line
from partonomy.cli.run import run_named
from partonomy.harness.summary import Summary
from partonomy.machine_faults import MachineFault

NAME = "validate_partonomy.py"


def main(argv: Sequence[str] | None = None) -> Summary | None:
    """Run the command; errors in the input end it with a message instead of a trace."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        return run_named("partonomy", NAME, arguments)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"{NAME}: error: {error_line(error, arguments)}") from error
    except MemoryError as error:
        raise SystemExit(f"{NAME}: error: {MachineFault(error)}") from error


if __name__ == "__main__":
    main()
