"""`python -m plum COMMAND`; `python -m plum --help` lists the commands."""

import sys

from plum.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
