"""`python -m plum COMMAND`; `python -m plum --help` lists the commands."""

import sys

from plum.cli.main import main


def run() -> None:
    """Run the command line and exit with its status; the installed command `plum` calls it."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
