"""Writes docs/reproduce.md from partonomy/paper_rows/commands.yaml: python scripts/write_reproduce.py."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from partonomy.files import write_text_atomically  # noqa: E402
from partonomy.row_commands import read_row_commands, render_page  # noqa: E402

PAGE = ROOT / "docs" / "reproduce.md"


def main() -> None:
    """Write the page."""
    write_text_atomically(PAGE, render_page(read_row_commands()))
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
