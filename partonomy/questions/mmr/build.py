"""Writes an MMR-like data set: questions about every image of a part data set, in MMR's schema and folder layout.

Images are not copied. Below `refer_seg/images/mscoco/images`, a link with the data set's name leads to them; file names
contain it as their first folder, like `train2017/` in the published files.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

import msgspec

from partonomy.datasets.sources.mmr import FOLDER, IMAGE_FOLDER, Kind, MmrImage, MmrQuestion, mmr_file, write_mmr
from partonomy.files import convert_json, read_json_as, write_json
from partonomy.progress import counted, progress
from partonomy.questions.mmr.pairs import UNANSWERED, MadePairs, PairMaker
from partonomy.questions.mmr.scene import kind_of
from partonomy.structures import AnnotatedImage, PartDataset

NOTE = "MMR-like, not the published MMR"

_TESTS = (("test_mixed", Kind.MIXED), ("test_obj_only", Kind.OBJECT), ("test_part_only", Kind.PART))
SPLIT_FILES: Mapping[str, Sequence[tuple[str, Kind | None]]] = {
    "train": (("train", None),),
    "val": (("val", None), *_TESTS),
    "test": _TESTS,
}
"""Files of a split and the kind of their questions; None stands for every kind."""


class BuildState(Enum):
    """The state of a split's files. UNFINISHED: a file is missing, or an image has no answer yet."""

    ABSENT = "absent"
    OTHER = "made with other settings"
    UNFINISHED = "unfinished"
    DONE = "done"


@dataclass
class FileCounts:
    """Counts of the questions of one MMR-like file, and of what was left out of it.

    Attributes:
        num_images: images with at least one question.
        without_question: images left out because they have no question.
        by_kind, by_targets: questions by the kind and by the number of their targets.
        rejected: rejected pairs by criterion and reason.
        not_askable: annotations that no question could ask for, by category.
        withheld: images in which a purpose was not asked for because the answer could be incomplete or would be too
            long, by purpose.
    """

    num_images: int = 0
    without_question: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_targets: Counter[int] = field(default_factory=Counter)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    not_askable: Counter[str] = field(default_factory=Counter)
    withheld: Counter[str] = field(default_factory=Counter)

    def add(self, made: MadePairs) -> None:
        """Count the pairs of an image."""
        self.num_images += bool(made.questions)
        self.without_question += not made.questions
        self.by_kind.update(kind_of(question).value for question in made.questions)
        self.by_targets.update(len(question.targets) for question in made.questions)
        self.rejected.update((one.criterion, one.reason) for one in made.rejections)
        self.not_askable.update(made.not_askable)
        self.withheld.update(made.withheld)

    def to_json(self) -> dict[str, object]:
        """Return the counts in the form of `build.json`."""
        rejected = [
            {"criterion": criterion, "reason": reason, "count": count}
            for (criterion, reason), count in sorted(self.rejected.items())
        ]
        return {
            "images": self.num_images,
            "images_without_question": self.without_question,
            "questions": sum(self.by_kind.values()),
            "questions_by_kind": dict(sorted(self.by_kind.items())),
            "questions_by_number_of_targets": {
                str(number): self.by_targets[number] for number in sorted(self.by_targets)
            },
            "rejected": rejected,
            "not_askable": dict(sorted(self.not_askable.items())),
            "withheld": dict(sorted(self.withheld.items())),
        }


def build_mmr(
    dataset: PartDataset, maker: PairMaker, root: Path, split: str, settings: Mapping[str, object]
) -> dict[str, FileCounts]:
    """Write the files of a split, the rejected pairs (`MMR_<split>.rejected.jsonl`) and last `MMR_<split>.build.json`.

    Args:
        dataset: images with their annotations.
        maker: makes their questions.
        root: root of the MMR layout.
        split: a key of `SPLIT_FILES`.
        settings: the origin of the data set, for `build.json`.

    Returns:
        Counts by file.

    Raises:
        ValueError: no image yields a question.
        FileExistsError: the root already has other images under the data set's name.
    """
    build_file(root, split).unlink(missing_ok=True)
    folder = link_images(root, dataset)
    counts = {name: FileCounts() for name, _ in SPLIT_FILES[split]}
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with rejected_file(root, split).open("w", encoding="utf-8") as rejected:
        for name, kind in SPLIT_FILES[split]:
            with progress(len(dataset.images), f"MMR_{name}", "image") as shown:
                images = counted(dataset.images, shown)
                made = _make_pairs(images, maker, kind, counts[name], rejected)
                write_mmr((_to_record(image, questions, folder) for image, questions in made), mmr_file(root, name))
            if not counts[name].num_images:
                raise ValueError(
                    f"{dataset.name}: none of its {len(dataset.images)} images yields a question of {name}"
                )
    files = {name: one.to_json() for name, one in counts.items()}
    write_json(build_file(root, split), _account(maker, settings) | {"files": files}, indent=2)
    return counts


class _Rejected(msgspec.Struct):
    """Rejected pairs of one criterion in `build.json`."""

    criterion: str


class _BuiltFile(msgspec.Struct):
    """A file of questions in `build.json`."""

    rejected: list[_Rejected]


class _BuiltFiles(msgspec.Struct):
    """What is read of the counts in `build.json`."""

    files: dict[str, _BuiltFile]


def find_build(root: Path, split: str, maker: PairMaker, settings: Mapping[str, object]) -> BuildState:
    """Return the state of a split's existing files.

    Raises:
        ValueError: `build.json` is damaged; the message names the file and the field.
    """
    path = build_file(root, split)
    if not path.is_file():
        return BuildState.ABSENT
    cure = "delete it and build again"
    content = read_json_as(path, dict[str, Any], cure)
    expected = json.loads(json.dumps(_account(maker, settings)))
    if any(content.get(key) != value for key, value in expected.items()):
        return BuildState.OTHER
    if not all(mmr_file(root, name).is_file() for name, _ in SPLIT_FILES[split]):
        return BuildState.UNFINISHED
    files = convert_json(content, _BuiltFiles, str(path), cure).files
    is_answered = all(row.criterion != UNANSWERED for one in files.values() for row in one.rejected)
    return BuildState.DONE if is_answered else BuildState.UNFINISHED


def build_file(root: Path, split: str) -> Path:
    """Return the path of a split's `build.json`."""
    return root / FOLDER / f"MMR_{split}.build.json"


def rejected_file(root: Path, split: str) -> Path:
    """Return the path of the JSON-lines file of a split's rejected pairs."""
    return root / FOLDER / f"MMR_{split}.rejected.jsonl"


def link_images(root: Path, dataset: PartDataset) -> str:
    """Link the data set's images below the root, and return the folder for their file names.

    Raises:
        FileExistsError: something else has this name.
    """
    folder = Path(dataset.name).name
    link = root / IMAGE_FOLDER / folder
    target = dataset.image_root.resolve()
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() or link.exists():
        if link.resolve() != target:
            raise FileExistsError(f"{link} leads to {link.resolve()}, not to {target}; choose another --output")
        return folder
    link.symlink_to(os.path.relpath(target, link.parent.resolve()), target_is_directory=True)
    return folder


def _make_pairs(
    images: Iterable[AnnotatedImage],
    maker: PairMaker,
    kind: Kind | None,
    counts: FileCounts,
    rejected: TextIO,
) -> Iterator[tuple[AnnotatedImage, tuple[MmrQuestion, ...]]]:
    """Yield images with at least one question; count everything and list rejected pairs."""
    for image in images:
        made = maker.make(image, kind)
        counts.add(made)
        for one in made.rejections:
            line = {"image_id": image.image_id, "kind": None if kind is None else kind.value, **vars(one)}
            rejected.write(json.dumps(line, ensure_ascii=False) + "\n")
        rejected.flush()
        if made.questions:
            yield image, made.questions


def _to_record(image: AnnotatedImage, questions: tuple[MmrQuestion, ...], folder: str) -> MmrImage:
    return MmrImage(str(image.image_id), f"{folder}/{image.file_name}", image.height, image.width, questions)


def _account(maker: PairMaker, settings: Mapping[str, object]) -> dict[str, object]:
    """Return everything that the files depend on."""
    return {"note": NOTE, **settings, "maker": dict(maker.settings)}
