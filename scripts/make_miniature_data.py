"""Write a miniature copy of every download: `python scripts/make_miniature_data.py --output data/miniature`.

It holds a few drawn pictures in the real file formats and folder layouts, so that training, validation and
`data-status` can be tried from end to end before anything is downloaded. `--partonomy FOLDER` also builds what
configs/plum_{7b,13b}_*.yaml read from `data/`, from the miniature and with the commands of the README.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partonomy.__main__ import main as partonomy
from plum.data.miniature.writer import MIN_IMAGES, write_miniature

DOWNLOADS = {
    "paco": ("paco", "vlpart/paco/annotations/paco_lvis_v1_train.json", "coco"),
    "pascal": ("pascal_part", "vlpart/pascal_part/train.json", "vlpart/pascal_part/VOCdevkit"),
    "part_imagenet": ("part_imagenet", "vlpart/partimagenet/train.json", "vlpart/partimagenet"),
}
"""Reader, annotations and images (below the root) of each part data set, by its folder."""
MIN_SPLIT_IMAGES = 36
"""Two pictures of each of the eighteen classes: a split keeps one of every object in train."""
QUICK = ("--embedding_model", "char-ngram-tfidf")
"""Choose wrong objects by the letters of their names, so that no model has to be loaded ten times."""
UNREAD = ("--mutation", "paper")
"""Ask about all images of a part data set in the way that takes no fit: only its annotations are read, by `split`."""
BENCHMARKS = {"paco": "partonomy_paco", "pascal": "partonomy_pascal_part", "part_imagenet": "partonomy_part_imagenet"}


def build_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--output", required=True, type=Path, help="new or empty folder, the root of the downloads")
    parser.add_argument("--images", type=int, default=18, help="pictures of each data set (default: 18)")
    parser.add_argument("--size", type=int, default=128, help="height of the pictures in pixels (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--partonomy", type=Path, help="also build the part data sets and Partonomy's splits here")
    return parser


def build_partonomy(root: Path, output: Path) -> None:
    """Build part data sets, their train and val questions, and a published record file imported as `partonomy_core`.

    Raises:
        ValueError: a command failed; it has printed why.
    """
    for name, (source, annotations, images) in DOWNLOADS.items():
        parts, splits, benchmark = output / name, output / "splits" / name, output / BENCHMARKS[name]
        places = ["--annotations", str(root / annotations), "--images", str(root / images)]
        _run(["build", "--source", source, *places, *QUICK, *UNREAD, "--output", str(parts)])
        sides = {side: str(splits / side) for side in ("train", "val")}
        _run(
            ["split", str(parts), "--output_train", sides["train"], "--output_val", sides["val"], "--val_share", "0.3"]
        )
        for side, folder in sides.items():
            _run(["build", "--source", "dataset", "--images", folder, *QUICK, "--output", str(benchmark / side)])
    drawn, record = output / "core" / "drawn", output / "core" / "partonomy_core_qa_pairs.json"
    _run(["build", "--source", "synthetic", "--split", "val", "--images", "6", *QUICK, "--output", str(drawn)])
    _run(["export", "--questions", str(drawn), "--output", str(record)])
    _run(["import", "--questions", str(record), "--output", str(output / "partonomy_core")])


def _run(command: list[str]) -> None:
    if partonomy(command) != 0:
        raise ValueError(f"python -m partonomy {' '.join(command)} failed")


def main(command: Sequence[str] | None = None) -> None:
    """Write the miniature and print the next command.

    Args:
        command: what follows the program's name; None to take the process's own.
    """
    parser = build_parser()
    arguments = parser.parse_args(command)
    if arguments.images < MIN_IMAGES:
        parser.error(f"--images must be at least {MIN_IMAGES}, so that every split has one")
    if arguments.partonomy is not None and arguments.images < MIN_SPLIT_IMAGES:
        parser.error(f"--partonomy needs --images {MIN_SPLIT_IMAGES} or more, so that every object is in train and val")
    if arguments.output.exists() and any(arguments.output.iterdir()):
        parser.error(f"{arguments.output} is not empty")
    write_miniature(arguments.output, arguments.images, arguments.size, arguments.seed)
    if arguments.partonomy is not None:
        build_partonomy(arguments.output, arguments.partonomy)
    print(f"{arguments.output}: {arguments.images} pictures of each data set")
    print(f"python -m plum data-status --root {arguments.output}")


if __name__ == "__main__":
    main()
