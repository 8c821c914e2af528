"""A miniature copy of every download of stage 0: `python scripts/make_miniature_data.py --output data/miniature`.

A few drawn pictures in the real file formats and folder layouts, so that training, validation and `data-status` can be
tried from end to end before anything is downloaded.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plum.data.miniature.writer import MIN_IMAGES, write_miniature


def build_parser() -> argparse.ArgumentParser:
    """The script's flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--output", required=True, type=Path, help="new or empty folder, the root of the downloads")
    parser.add_argument("--images", type=int, default=18, help="pictures of each data set (default: 18)")
    parser.add_argument("--size", type=int, default=128, help="height of the pictures in pixels (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    """Write the miniature and say what to do with it."""
    parser = build_parser()
    arguments = parser.parse_args()
    if arguments.images < MIN_IMAGES:
        parser.error(f"--images must be at least {MIN_IMAGES}, so that every split has one")
    if arguments.output.exists() and any(arguments.output.iterdir()):
        parser.error(f"{arguments.output} is not empty")
    write_miniature(arguments.output, arguments.images, arguments.size, arguments.seed)
    print(f"{arguments.output}: {arguments.images} pictures of each data set")
    print(f"python -m plum data-status --root {arguments.output}")


if __name__ == "__main__":
    main()
