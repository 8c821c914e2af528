"""InstructPart: parts of everyday objects by task-oriented instructions (Wan et al., ACL 2025).

Layout: `instructpart_part/InstructPart/{test, train/train200, ..., train/train1800, all}`. Each holds `images/`,
`masks/` and a JSON file: `data_test.json`, `data_train.json` or `data_all.json`. The file is a list of records with
`image_path` ("NAME.jpg") and `part_list`; a part has `object`, `part`, `affordance`, `action` and six wordings,
`instruction`. Every part has a copy of its photograph, `images/NAME-OBJECT-PART.jpg`, with "_" for blanks, and a mask
of the same name.

Tasks: TRPS (task reasoning part segmentation) asks by an instruction, ORPS (oracle referring part segmentation) by the
part's name, with or without its affordance. `--instruction` chooses the wording.

Metrics: gIoU (mean IoU), cIoU, P50 (the share of parts whose IoU is at least 0.5), and P50:95 (the mean of that share
at 0.50, 0.55, ..., 0.95).

The authors' README gives the file names of the photographs' copies, but not those of the masks. Public loaders read PNG
files and count every value above 0. JPEG masks are read too; only values above 127 count, because compression blurs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.segmentation import (
    SegmentationItem,
    SegmentationOptions,
    SegmentationTask,
    segmentation_ratios,
    share_reaching,
)
from partonomy.benchmarks.task import Metric, Source, Words, define_benchmark
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, iterate_records, reason_of, shorten
from partonomy.images import image_size, load_image
from partonomy.masks import encode_mask

NAME = "instructpart"
FOLDER = "instructpart_part/InstructPart"
LARGEST_BACKGROUND = {".png": 0, ".jpg": 127}
"""Suffixes of mask files, the usual one first -> the largest pixel value that is still background."""
PRECISION_PERCENTS = tuple(range(50, 100, 5))


class Instruction(StrEnum):
    """The six wordings, in the order of the file."""

    HUMAN = "human"
    REWRITTEN = "rewritten"
    PART_SENTENCE = "part_sentence"
    AFFORDANCE_SENTENCE = "affordance_sentence"
    PART_NAME = "part_name"
    AFFORDANCE_NAME = "affordance_name"

    @property
    def is_sentence(self) -> bool:
        """Whether the wording is a whole instruction rather than a name."""
        return self not in (Instruction.PART_NAME, Instruction.AFFORDANCE_NAME)


def read_instruct_part(
    root: Path, split: str, instruction: Instruction, *, needs_images: bool = True
) -> tuple[SegmentationItem, ...]:
    """Read one split under one wording: one item per part, in file order.

    Args:
        root: Folder that holds `FOLDER`.
        split: "test", "all", or a training set such as "train1800".
        instruction: The wording.
        needs_images: Whether missing or unreadable photographs, or those of another size than their mask, are an
            error. An evaluation passes False: it knows the mask in the frame of its own file, and scores the item 0.

    Raises:
        FileNotFoundError: The JSON file, or photographs, are missing.
        ValueError: A record or a mask is broken; the message names the file and the record.
    """
    path = annotation_file(root, split)
    items: dict[str, SegmentationItem] = {}
    for number, record in enumerate(iterate_records(path)):
        image = shorten(record.get("image_path") if isinstance(record, Mapping) else record)
        where = f"{path}, record {number} (image {image})"
        try:
            image_name = check_relative_path(record["image_path"], "'image_path'")
            for part in record["part_list"]:
                item = _read_part(path.parent, image_name, part, instruction, needs_images)
                if item.item_id in items:
                    raise ValueError(f"{item.item_id} occurs twice; keep one of its records")
                items[item.item_id] = item
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}: {error}") from error
        except RECORD_ERRORS as error:
            raise ValueError(f"{where}: {reason_of(error)}") from error
    if not items:
        raise ValueError(f"{path}: the file contains no parts; download it again")
    return tuple(items.values())


def annotation_file(root: Path, split: str) -> Path:
    """Return the JSON file of a split; each size of the training set has its own folder.

    Raises:
        ValueError: The split's path points outside the folder.
    """
    kind = check_relative_path(split, "the split").rstrip("0123456789")
    return root / FOLDER / (kind if split != kind else "") / split / f"data_{kind}.json"


def _read_part(
    folder: Path, image_name: str, part: Any, instruction: Instruction, needs_images: bool
) -> SegmentationItem:
    words = [check_text(part[key], f"'{key}'").replace(" ", "_") for key in ("object", "part")]
    name = check_relative_path("-".join([str(PurePosixPath(image_name).with_suffix("")), *words]), "the part's file")
    place = list(Instruction).index(instruction)
    wordings = part["instruction"]
    if not isinstance(wordings, list) or len(wordings) <= place:
        raise ValueError(f"'instruction' of {name} must be a list with {instruction} at position {place}")
    text = " ".join(check_text(wordings[place], f"wording {place} of {name}").split())
    if not text:
        raise ValueError(f"wording {place} of {name} has no words")
    image_path = folder / "images" / f"{name}.jpg"
    mask = _read_mask(folder / "masks" / name, image_path, needs_images)
    height, width = mask.shape
    return SegmentationItem(
        item_id=f"{NAME}/{name}",
        image_id=f"{NAME}/{image_name}",
        image_path=image_path,
        height=height,
        width=width,
        text=text if instruction.is_sentence else text.lower(),
        is_sentence=instruction.is_sentence,
        mask=encode_mask(mask),
    )


def _read_mask(path: Path, image_path: Path, needs_image: bool) -> np.ndarray:
    """Read a mask, bool (H, W) in the photograph's frame, or in its own if it needs none; `path` has no suffix."""
    candidates = {path.with_name(path.name + ending): limit for ending, limit in LARGEST_BACKGROUND.items()}
    found = next((candidate for candidate in candidates if candidate.is_file()), next(iter(candidates)))
    values = load_image(found, *image_size(image_path if needs_image else found))
    target: np.ndarray = values.max(axis=2) > candidates[found]
    if not target.any():
        raise ValueError(f"{found}: no value is above {candidates[found]}, so the mask is empty")
    return target


@dataclass(frozen=True)
class InstructPartOptions(SegmentationOptions):
    """How parts are asked for.

    Attributes:
        instruction: human asks by a person's task, rewritten by the same task in GPT-4's words; part_sentence and
            affordance_sentence (TRPS) ask by a sentence that names the part, or the part and its affordance; part_name
            and affordance_name (ORPS) ask by the part's name, without or with its affordance.
    """

    instruction: Instruction = Instruction.HUMAN


@dataclass(frozen=True)
class InstructPartTask(SegmentationTask):
    """Parts under one wording; the module's docstring gives the rules."""

    VERSION: ClassVar[str] = "instruct-part-1.0"
    WORDS: ClassVar[Words] = replace(SegmentationTask.WORDS, item="part")

    options: InstructPartOptions
    quoted_by: str = "giou"

    @property
    def protocol(self) -> str:
        """The mode, the wording and the instruction."""
        return f"{super().protocol}, {self.options.instruction} instruction"

    def metrics(self, records: Sequence[AnswerRecord]) -> Mapping[str, Metric | None]:
        """Compute gIoU, cIoU, P50 and P50:95."""
        precisions = {"p50": share_reaching(records, (50,)), "p50_95": share_reaching(records, PRECISION_PERCENTS)}
        return {**segmentation_ratios(records), **precisions}


def _read_items(source: Source, options: InstructPartOptions) -> Sequence[SegmentationItem]:
    return read_instruct_part(source.root, str(source.split), options.instruction, needs_images=False)


BENCHMARK = define_benchmark(
    NAME,
    "Segmentation of parts by instructions",
    "test, train200, train600, train1200, train1800, all",
    options=InstructPartOptions,
    read_items=_read_items,
    make_task=InstructPartTask,
    default_split=lambda options: "test",
)
