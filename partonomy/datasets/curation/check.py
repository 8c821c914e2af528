"""Finds all problems of a data set, or of the files that it is built from, in a single pass.

A broken record becomes a finding instead of an error, and reading continues. The reader is that of `build`
(`partonomy.datasets.sources.coco`), so that `build` refuses a COCO-style file exactly if this check finds an error.
`PROBLEMS` gives the severity of each problem and the advice for it.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum, auto
from operator import eq
from pathlib import Path
from typing import Protocol, overload

import numpy as np

from partonomy.datasets.annotation_file import FormChecker
from partonomy.datasets.photographs import find_same_files
from partonomy.datasets.seal import has_seal, list_changes
from partonomy.datasets.sources.coco import CategoryRole, CocoReader, ImageRecords, find_image_fault, iterate_coco
from partonomy.datasets.sources.group_parts_by_object import OUTSIDE_OBJECTS, group_records
from partonomy.datasets.sources.records import (
    CocoImage,
    CocoRecords,
    DeviationKind,
    FaultKind,
    RawAnnotation,
    UnusableAnnotation,
)
from partonomy.datasets.store import ANNOTATIONS_FILE, DATASET_FILE
from partonomy.files import hash_files, read_json
from partonomy.masks import canonical_rle, intersection_area, rle_area
from partonomy.names import LemmaComparator, clean_name, clean_names, read_text_map
from partonomy.progress import progress
from partonomy.sharding import Shard
from partonomy.stored_lines import Mapped, Spool
from partonomy.structures import RLE

STATUS_ERRORS = 2
STATUS_WARNINGS = 1


class Severity(StrEnum):
    """error: `build` refuses the file. warning: questions or scores may be wrong. note: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Problem:
    """A kind of problem."""

    title: str
    severity: Severity
    advice: str


COLLECT = "; or leave it out: build --invalid collect"
"""The other cure of a bad record."""
CHANGED_FILE = Problem(
    "file changed since the build",
    Severity.ERROR,
    "restore it or build the folder again; python -m partonomy seal FOLDER keeps a change on purpose",
)
MISSING_IMAGE = Problem("missing image", Severity.ERROR, "check the image folder, or remove the record" + COLLECT)
OUTSIDE_IMAGE = Problem(
    "image outside the image folder", Severity.ERROR, "move it into the folder and name it relative to it" + COLLECT
)
UNREADABLE_IMAGE = Problem("unreadable or truncated image", Severity.ERROR, "fetch the file again" + COLLECT)
SIZE_MISMATCH = Problem(
    "image size differs from its annotation",
    Severity.ERROR,
    "use the image that was annotated, or correct its size" + COLLECT,
)
BAD_RECORD = Problem("broken record", Severity.ERROR, "correct the record in the annotation file" + COLLECT)
DUPLICATE_ID = Problem("id that occurs twice", Severity.ERROR, "give every record an id of its own" + COLLECT)
UNKNOWN_IMAGE = Problem(
    "annotation of an unknown image", Severity.ERROR, "add the image or remove the annotation" + COLLECT
)
UNKNOWN_CATEGORY = Problem(
    "annotation of an unknown category", Severity.ERROR, "add the category or remove the annotation" + COLLECT
)
UNREADABLE_MASK = Problem("unreadable mask", Severity.ERROR, "draw or export the mask again" + COLLECT)
EMPTY_MASK = Problem("part without mask", Severity.ERROR, "draw the mask or remove the annotation" + COLLECT)
NO_OBJECT = Problem(
    "part of no object",
    Severity.ERROR,
    "link it by obj_ann_id, name its category object:part, or pass --object_name" + COLLECT,
)
NO_PARTS = Problem(
    "no category is a part",
    Severity.ERROR,
    "name parts object:part, give them the supercategory PART or that of their object's category, or pass "
    "--object_name",
)
NOTHING_TO_ASK = Problem("no part can be asked about", Severity.ERROR, "annotate parts of objects that are no crowds")
TWO_CATEGORIES = Problem(
    "object in two categories", Severity.WARNING, "give it one; `build` takes the first in alphabetical order"
)
NO_CATEGORY = Problem("object without category", Severity.ERROR, "add it to the file of --categories")
EMPTY_NAME = Problem("name of which nothing is left", Severity.ERROR, "give it a name in the file of --name_map")
EMPTY_OBJECT_MASK = Problem("object with an empty mask", Severity.WARNING, "draw the mask or leave it out")
FEW_PIXELS = Problem(
    "mask of very few pixels", Severity.WARNING, "look at the mask: stray strokes are often of this size"
)
OUTSIDE_OBJECT = Problem(
    "part outside its object", Severity.WARNING, "check the link to the object and the object's outline"
)
NO_CONTAINER = Problem(
    "part in no object of its class",
    Severity.WARNING,
    "`build` leaves it out and does not ask about the objects of its class in the image; link it by obj_ann_id",
)
LEAVES_IMAGE = Problem(
    "polygons that leave their image",
    Severity.WARNING,
    "the masks are cut off: were the coordinates drawn on the image in another size?",
)
COLLAPSED_NAMES = Problem(
    "names that become one once cleaned", Severity.WARNING, "tell them apart, or unite them, in the file of --name_map"
)
SIMILAR_NAMES = Problem(
    "names that differ in plural, hyphen or case",
    Severity.WARNING,
    "unite them in the file of --name_map, or build with --part_comparison lemma",
)
SAME_MASK = Problem("same label on the same mask", Severity.WARNING, "remove one of the annotations")
SAME_IMAGE = Problem("same image file twice", Severity.WARNING, "keep one; `split` keeps both on one side")
SMALL_SHARE = Problem("mask of a small share of its image", Severity.NOTE, "small parts are real, but hard to score")
CROWD = Problem(
    "iscrowd object", Severity.NOTE, "a group: `build` leaves it and its parts out; a single object has iscrowd 0"
)
NO_ANNOTATION = Problem("image without annotations", Severity.NOTE, "nothing is asked about it")
UNREAD_SHAPE = Problem(
    "shape that is left out", Severity.NOTE, "draw it again as a polygon or mask, if its pixels matter"
)
UNUSED_CATEGORY = Problem("category without annotations", Severity.NOTE, "it is ignored")
TURNED = Problem("polygons of a turned photograph", Severity.NOTE, str(DeviationKind.TURNED))
UNDECIDED_TURN = Problem("turned photograph of unknown frame", Severity.NOTE, str(DeviationKind.UNDECIDED_TURN))
WHOLE_NUMBER = Problem("integer in another notation", Severity.NOTE, str(DeviationKind.WHOLE_NUMBER))
CROWD_VALUE = Problem("iscrowd in another notation", Severity.NOTE, str(DeviationKind.CROWD_VALUE))
CROWD_PART = Problem("iscrowd part", Severity.NOTE, str(DeviationKind.CROWD_PART))
UNUSED_BOX = Problem("unusable bbox beside a mask", Severity.NOTE, str(DeviationKind.BOX))
UNUSED_AREA = Problem("area that is no number", Severity.NOTE, str(DeviationKind.AREA))
SHORT_RING = Problem("stray ring of a mask", Severity.NOTE, str(DeviationKind.SHORT_RING))
ROOT_CATEGORY = Problem("part by its supercategory", Severity.NOTE, str(DeviationKind.ROOT))
ONLY_OBJECT = Problem("part of the only object of its class", Severity.NOTE, str(DeviationKind.ONLY_OBJECT))

PROBLEMS: tuple[Problem, ...] = (
    CHANGED_FILE,
    MISSING_IMAGE,
    OUTSIDE_IMAGE,
    UNREADABLE_IMAGE,
    SIZE_MISMATCH,
    BAD_RECORD,
    DUPLICATE_ID,
    UNKNOWN_IMAGE,
    UNKNOWN_CATEGORY,
    UNREADABLE_MASK,
    EMPTY_MASK,
    NO_OBJECT,
    NO_CATEGORY,
    EMPTY_NAME,
    NO_PARTS,
    NOTHING_TO_ASK,
    LEAVES_IMAGE,
    TWO_CATEGORIES,
    EMPTY_OBJECT_MASK,
    FEW_PIXELS,
    OUTSIDE_OBJECT,
    NO_CONTAINER,
    COLLAPSED_NAMES,
    SIMILAR_NAMES,
    SAME_MASK,
    SAME_IMAGE,
    SMALL_SHARE,
    CROWD,
    NO_ANNOTATION,
    UNREAD_SHAPE,
    UNUSED_CATEGORY,
    TURNED,
    UNDECIDED_TURN,
    WHOLE_NUMBER,
    CROWD_VALUE,
    CROWD_PART,
    UNUSED_BOX,
    UNUSED_AREA,
    SHORT_RING,
    ROOT_CATEGORY,
    ONLY_OBJECT,
)
"""All kinds of problem, in the order of the report: errors, warnings, notes."""
NUMBER_OF_PROBLEM: Mapping[Problem, int] = {problem: number for number, problem in enumerate(PROBLEMS)}


FAULTS: Mapping[FaultKind, Problem] = {
    FaultKind.MISSING_IMAGE: MISSING_IMAGE,
    FaultKind.OUTSIDE_IMAGE: OUTSIDE_IMAGE,
    FaultKind.UNREADABLE_IMAGE: UNREADABLE_IMAGE,
    FaultKind.SIZE_MISMATCH: SIZE_MISMATCH,
    FaultKind.RECORD: BAD_RECORD,
    FaultKind.DUPLICATE_ID: DUPLICATE_ID,
    FaultKind.UNKNOWN_IMAGE: UNKNOWN_IMAGE,
    FaultKind.UNKNOWN_CATEGORY: UNKNOWN_CATEGORY,
    FaultKind.MASK: UNREADABLE_MASK,
    FaultKind.EMPTY_MASK: EMPTY_MASK,
    FaultKind.NO_OBJECT: NO_OBJECT,
    FaultKind.NO_PARTS: NO_PARTS,
}
"""The problem that a reader's fault is listed as."""
DEVIATIONS: Mapping[DeviationKind, Problem] = {
    DeviationKind.WHOLE_NUMBER: WHOLE_NUMBER,
    DeviationKind.CROWD_VALUE: CROWD_VALUE,
    DeviationKind.CROWD_PART: CROWD_PART,
    DeviationKind.BOX: UNUSED_BOX,
    DeviationKind.AREA: UNUSED_AREA,
    DeviationKind.SHORT_RING: SHORT_RING,
    DeviationKind.EMPTY_OBJECT: EMPTY_OBJECT_MASK,
    DeviationKind.TURNED: TURNED,
    DeviationKind.ROOT: ROOT_CATEGORY,
    DeviationKind.ONLY_OBJECT: ONLY_OBJECT,
    DeviationKind.UNDECIDED_TURN: UNDECIDED_TURN,
    DeviationKind.LEAVES_IMAGE: LEAVES_IMAGE,
}
"""The problem that a deviation is listed as."""


class Stage(IntEnum):
    """The steps of a check, in the order in which findings of the same kind are listed."""

    CATEGORY_RECORDS = auto()
    IMAGE_RECORDS = auto()
    ANNOTATION_RECORDS = auto()
    UNUSED = auto()
    NAMES = auto()
    OBJECT_CATEGORIES = auto()
    IMAGES = auto()
    SAME_FILES = auto()
    MASKS = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem found.

    Attributes:
        problem: the kind of problem.
        record: the record concerned ("annotation 7").
        detail: the problem in words.
        stage, number: step and record index, which sort findings in the order of a single process.
    """

    problem: Problem
    record: str
    detail: str
    stage: Stage = field(default=Stage.NAMES, compare=False)
    number: int = field(default=0, compare=False)


class Findings(Sequence[Finding]):
    """Findings whose texts stay on disk: every record of a large file may have several.

    Args:
        findings: the first ones.
    """

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self._texts = Spool[tuple[str, str]]()
        self._problems, self._stages, self._numbers = array("B"), array("B"), array("q")
        self._order: np.ndarray | None = None
        self.extend(findings)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add findings at the end."""
        for one in findings:
            self._texts.append((one.record, one.detail))
            self._problems.append(NUMBER_OF_PROBLEM[one.problem])
            self._stages.append(one.stage)
            self._numbers.append(one.number)

    def sort(self) -> None:
        """Order them as a report does: by problem, stage and record; equal ones keep their order. Add none later."""
        keys = (np.array(column) for column in (self._numbers, self._stages, self._problems))
        self._order = np.lexsort(tuple(keys))

    def of_problem(self, problem: Problem) -> Sequence[Finding]:
        """Return the findings of one kind, in their order."""
        problems = np.array(self._problems)
        ordered = problems if self._order is None else problems[self._order]
        return Mapped(np.flatnonzero(ordered == NUMBER_OF_PROBLEM[problem]).tolist(), self.__getitem__)

    def count_severities(self) -> Counter[Severity]:
        """Count the findings of each severity."""
        counts: Counter[Severity] = Counter()
        for number, count in Counter(self._problems).items():
            counts[PROBLEMS[number].severity] += count
        return counts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Finding, ...]: ...
    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = index if self._order is None else int(self._order[index])
        problem, stage = PROBLEMS[self._problems[place]], Stage(self._stages[place])
        return Finding(problem, *self._texts[place], stage, self._numbers[place])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return f"Findings({list(self)!r})"


@dataclass(frozen=True)
class CheckReport:
    """All findings. `remarks` list what was not checked, with the reasons."""

    source: str
    num_images: int
    num_annotations: int
    findings: Findings
    remarks: tuple[str, ...]

    def of_problem(self, problem: Problem) -> Sequence[Finding]:
        """Return the findings of one kind, in file order."""
        return self.findings.of_problem(problem)

    def exit_status(self, is_strict: bool) -> int:
        """Return 2 if there are errors, 1 if there are warnings and `is_strict` is set, else 0."""
        counts = self.findings.count_severities()
        if counts[Severity.ERROR]:
            return STATUS_ERRORS
        return STATUS_WARNINGS if is_strict and counts[Severity.WARNING] else 0


STAGES = {
    "": Stage.CATEGORY_RECORDS,
    "categories": Stage.CATEGORY_RECORDS,
    "images": Stage.IMAGE_RECORDS,
    "annotations": Stage.ANNOTATION_RECORDS,
}


@dataclass(frozen=True)
class CheckedFile:
    """What is read of a shard's images but their annotations. Categories and counts are those of the whole file.

    Attributes:
        root: folder of the images.
        images: the shard's images of known size.
        positions: image id -> index of the image record in the file, including other shards' images.
        categories: all categories.
        used_categories: those that annotations name.
        num_images, num_annotations: numbers of records in the whole file.
        findings: findings about the shard's records; records without an image belong to the first shard.
        places: record -> its name in findings, where the file itself has no ids (annotation tools).
    """

    root: Path
    images: tuple[CocoImage, ...]
    positions: Mapping[int, int]
    categories: tuple[CategoryRole, ...]
    used_categories: tuple[CategoryRole, ...]
    num_images: int
    num_annotations: int
    findings: Findings
    places: Mapping[str, str] = field(default_factory=dict)


Visit = Callable[[ImageRecords], None]
"""Called with the annotations of each image that has any, which are not kept."""


class ForeignInput(Protocol):
    """Files in another form than COCO's, with a reader of their own."""

    @property
    def settings(self) -> dict[str, object]:
        """What the findings depend on."""
        ...

    def read(self, shard: Shard | None, visit: Visit) -> CheckedFile:
        """Read the files, or the images of a shard."""
        ...


def read_checked_file(
    path: Path,
    image_root: Path,
    visit: Visit,
    object_name: str | None = None,
    shard: Shard | None = None,
    *,
    is_own_form: bool = False,
) -> CheckedFile:
    """Read an annotation file.

    Args:
        path: COCO-style JSON, or `annotations.json` of a data set folder.
        image_root: folder that its `file_name`s are relative to.
        visit: called with the annotations of every image.
        object_name: the object that all parts belong to, for files without object annotations.
        shard: read only the masks of the shard's images, assigned in turn; the file is then read twice, record by
            record.
        is_own_form: whether it is the file of a data set folder, which is read without lenience.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object with COCO's three lists.
    """
    reader = CocoReader(image_root, object_name, shard)
    own = FormChecker(path) if is_own_form else None
    strict: dict[tuple[str, int], Finding] = {}
    findings = Findings()
    for table, record in iterate_coco(path, is_streamed=shard is not None):
        reader.read(table, record)
        image_id = record.get("image_id") if isinstance(record, Mapping) else None
        if own is not None and (table != "annotations" or reader.owns(image_id)):
            reason = own.find_fault(table, record)
            if reason is not None and reader.is_own_record:
                number = reader.counts[table] - 1
                strict[table, number] = Finding(BAD_RECORD, reader.where, reason, STAGES[table], number)
        _move_notes(reader, strict, findings)
    for records in reader.read_images():
        _move_notes(reader, strict, findings)
        visit(records)
    _move_notes(reader, strict, findings)
    findings.extend(strict.values())
    if shard is None or shard.index == 0:
        findings.extend(_find_unused(reader))
    return CheckedFile(
        image_root,
        tuple(image for image in reader.images.values() if reader.owns(image.image_id)),
        reader.positions,
        tuple(reader.roles.values()),
        tuple(role for number, role in reader.roles.items() if number in reader.used_categories),
        reader.counts["images"],
        reader.counts["annotations"],
        findings,
    )


def _move_notes(reader: CocoReader, strict: dict[tuple[str, int], Finding], findings: Findings) -> None:
    """Turn what the reader has noted since the last call into findings.

    Args:
        reader: the reader.
        strict: what is wrong with records by the rules of the project's own form, by list and index; both readers may
            refuse a record, which is then listed once.
        findings: receives the findings.
    """
    faults, deviations = reader.take_notes()
    for fault in faults:
        strict.pop((fault.table, fault.number), None)
    findings.extend(
        Finding(FAULTS[one.kind], one.record or "the file", one.reason, STAGES[one.table], one.number) for one in faults
    )
    findings.extend(
        Finding(DEVIATIONS[one.kind], one.record, one.detail or str(one.kind), STAGES[one.table], one.number)
        for one in deviations
    )


def _find_unused(reader: CocoReader) -> Iterator[Finding]:
    """Note images and categories without annotations."""
    for image_id in sorted(reader.positions.keys() - reader.annotated_images):
        yield Finding(NO_ANNOTATION, f"image {image_id}", "no annotation names it", Stage.UNUSED)
    for number, name in reader.category_names.items():
        if number not in reader.used_categories:
            yield Finding(UNUSED_CATEGORY, f"category {number}", name, Stage.UNUSED)


@dataclass(frozen=True)
class CheckLimits:
    """Thresholds of the mask checks.

    Attributes:
        min_pixels: a part mask with fewer pixels is a warning.
        min_share: a part mask that covers a smaller fraction of its image is a note.
        max_outside: fraction of a part's pixels that may lie outside its object's mask.
        duplicate_iou: IoU above which two masks of the same label count as duplicates.
    """

    min_pixels: int = 16
    min_share: float = 0.0005
    max_outside: float = 0.1
    duplicate_iou: float = 0.99

    def __post_init__(self) -> None:
        if self.min_pixels < 0:
            raise ValueError(f"min_pixels must be 0 or more, got {self.min_pixels}")
        for name in ("min_share", "max_outside", "duplicate_iou"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class CheckedMasks:
    """The findings of one image.

    `num_not_compared` parts have no object mask to be compared with; `num_parts` belong to an object.
    """

    findings: tuple[Finding, ...]
    num_not_compared: int
    num_parts: int


def check_masks(
    image: CocoImage,
    annotations: Sequence[RawAnnotation],
    limits: CheckLimits,
    unusable: Sequence[UnusableAnnotation] = (),
) -> CheckedMasks:
    """Check all usable annotations of an image.

    Args:
        image: the image.
        annotations: its usable annotations.
        limits: the thresholds.
        unusable: what of its other annotations is visible.
    """
    grouping = group_records(CocoRecords((image,), tuple(annotations), (), tuple(unusable)))
    records = {one.annotation_id: f"annotation {one.annotation_id}" for one in annotations}
    labels = {records[one.annotation_id]: f"{describe(one)} in image {image.image_id}" for one in annotations}
    findings = [Finding(FAULTS[one.kind], one.record, f"{labels[one.record]}: {one.reason}") for one in grouping.faults]
    findings += (Finding(DEVIATIONS[one.kind], one.record, labels[one.record]) for one in grouping.deviations)
    for row in grouping.skipped:
        if row.reason == OUTSIDE_OBJECTS:
            findings += (Finding(NO_CONTAINER, records[one], labels[records[one]]) for one in row.annotation_ids)
    (groups,) = grouping.groups
    findings += (Finding(CROWD, f"annotation {one.instance_id}", one.raw_label) for one in groups if one.is_crowd)
    objects = {one.annotation_id: one for one in annotations if one.raw_part is None}
    ownerless = {one.identifier for one in grouping.faults}
    num_not_compared = 0
    for part in annotations:
        if part.raw_part is None or part.mask is None:
            continue
        findings += _check_size(part, part.mask, image, limits)
        if part.annotation_id in ownerless:
            continue
        owners = _possible_owners(part, objects)
        if not owners:
            num_not_compared += 1
            continue
        outside = min(_share_outside(part.mask, owner) for owner in owners)
        if outside > limits.max_outside:
            record = records[part.annotation_id]
            detail = f"{outside:.0%} of {labels[record]} lies outside its object"
            findings.append(Finding(OUTSIDE_OBJECT, record, detail))
    findings += _find_duplicates(image, annotations, limits.duplicate_iou)
    return CheckedMasks(tuple(findings), num_not_compared, grouping.num_parts)


def describe(annotation: RawAnnotation) -> str:
    """Return an annotation's raw names as `object:part`, as far as they are known."""
    names = (annotation.raw_object, annotation.raw_part)
    return repr(":".join(name for name in names if name is not None))


def _check_size(part: RawAnnotation, mask: RLE, image: CocoImage, limits: CheckLimits) -> Iterator[Finding]:
    area, pixels = rle_area(mask), image.height * image.width
    where, what = f"annotation {part.annotation_id}", f"{describe(part)} in image {image.image_id}"
    if area < limits.min_pixels:
        yield Finding(FEW_PIXELS, where, f"{what}: {area} pixels")
    if area < limits.min_share * pixels:
        yield Finding(SMALL_SHARE, where, f"{what}: {area / pixels:.4%} of the image, {area} pixels")


def _possible_owners(part: RawAnnotation, objects: Mapping[int, RawAnnotation]) -> list[RLE]:
    """Return the mask of the linked object or, without a link, the masks of all objects of the part's class."""
    if part.object_id is not None:
        candidates = [objects[part.object_id]]
    else:
        candidates = [one for one in objects.values() if part.raw_object in (None, one.raw_object)]
    return [one.mask for one in candidates if one.mask is not None]


def _share_outside(part: RLE, owner: RLE) -> float:
    return 1.0 - intersection_area(part, owner) / rle_area(part)


def _find_duplicates(image: CocoImage, annotations: Sequence[RawAnnotation], duplicate_iou: float) -> Iterator[Finding]:
    by_label: dict[str, list[RawAnnotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.mask is not None:
            by_label[describe(annotation)].append(annotation)
    for label, same in by_label.items():
        areas = {one.annotation_id: rle_area(one.mask) for one in same if one.mask is not None}
        ordered = sorted(same, key=lambda one: (areas[one.annotation_id], one.annotation_id))
        for position, first in enumerate(ordered):
            for second in ordered[position + 1 :]:
                small, large = areas[first.annotation_id], areas[second.annotation_id]
                if small <= duplicate_iou * large:  # the IoU is at most the ratio of the areas
                    break
                iou = _mask_iou(first, second, small + large)
                if iou > duplicate_iou:
                    detail = f"{label} in image {image.image_id} is annotated again by {first.annotation_id}"
                    yield Finding(SAME_MASK, f"annotation {second.annotation_id}", f"{detail}, IoU {iou:.3f}")
                    break


def _mask_iou(first: RawAnnotation, second: RawAnnotation, total_area: int) -> float:
    assert first.mask is not None
    assert second.mask is not None
    shared = intersection_area(first.mask, second.mask)
    return shared / (total_area - shared)


def check_names(
    categories: Sequence[CategoryRole], used: Sequence[CategoryRole], name_map: Mapping[str, str]
) -> Iterator[Finding]:
    """Check the vocabularies of objects and parts; names that the name map unites are not reported.

    Args:
        categories: all categories.
        used: those with annotations; the others' names are not needed.
        name_map: raw name -> natural name.
    """
    needed = {name for one in used for name in (one.raw_object, one.raw_part)}
    vocabularies = {
        "object": {one.raw_object for one in categories if one.raw_object is not None},
        "part": {one.raw_part for one in categories if one.raw_part is not None},
    }
    for kind, raw_names in vocabularies.items():
        usable, empty = _split_empty(raw_names, name_map)
        for raw in (one for one in empty if one in needed):
            yield Finding(EMPTY_NAME, f"{kind} {raw!r}", "only prefixes, underscores or spaces")
        names = clean_names(usable, name_map)
        raw_of: dict[str, list[str]] = defaultdict(list)
        for raw, name in sorted(names.items()):
            raw_of[name].append(raw)
        for name, same in sorted(raw_of.items()):
            if len(same) > 1 and not all(raw in name_map for raw in same):
                yield Finding(COLLAPSED_NAMES, f"{kind} {name!r}", f"from {_quote(same)}")
        for group in find_similar_names(raw_of):
            yield Finding(SIMILAR_NAMES, f"{kind}s {_quote(group)}", "one name in several forms")


def find_similar_names(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return the sorted groups of names that differ only in plural, hyphens and case (see `LemmaComparator`)."""
    synonyms = LemmaComparator().find_synonyms(sorted(set(names)))
    groups = {tuple(sorted(group)) for group in synonyms.values() if len(group) > 1}
    return tuple(sorted(groups))


def check_categories(
    categories: Sequence[CategoryRole],
    used: Sequence[CategoryRole],
    name_map: Mapping[str, str],
    table: Mapping[str, str],
    table_path: Path | None,
) -> Iterator[Finding]:
    """Check that every object has one category.

    Args:
        categories: categories of the annotation file; in the project's own form, they include the objects' categories.
        used: those with annotations.
        name_map: raw name -> natural name.
        table: object (raw or natural name) -> category.
        table_path: file of the table; None if there is none.
    """
    raw_objects = {one.raw_object for one in categories if one.raw_object is not None}
    names = clean_names(_split_empty(raw_objects, name_map)[0], name_map)
    found: dict[str, set[str]] = defaultdict(set)
    for one in categories:
        if one.raw_object in names and one.raw_part is None and one.object_category is not None:
            found[names[one.raw_object]].add(one.object_category)
    needed = {one.raw_object for one in used}
    for raw, name in sorted(names.items()) if table_path is not None else []:
        if raw not in needed:
            continue
        given = next((table[key] for key in (raw, name) if key in table), None)
        if given is None:
            yield Finding(NO_CATEGORY, f"object {name!r}", f"raw name {raw!r} is not in {table_path}")
        else:
            found[name].add(given)
    for name, group in sorted(found.items()):
        if len(group) > 1:
            yield Finding(TWO_CATEGORIES, f"object {name!r}", f"in {_quote(sorted(group))}")


def _split_empty(raw_names: Iterable[str], name_map: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Separate names that are not empty after cleaning from those that are."""
    usable: list[str] = []
    empty: list[str] = []
    for raw in sorted(raw_names):
        try:
            usable.append(raw if raw in name_map or clean_name(raw) else raw)
        except ValueError:
            empty.append(raw)
    return usable, empty


def _quote(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


@dataclass(frozen=True)
class CheckConfig:
    """Settings of a check.

    Attributes:
        limits: thresholds of the mask checks.
        num_workers: number of threads that read images (decoding releases Python's lock).
        headers_only: read only the images' sizes, not their pixels: fast, but truncated files are not noticed.
        object_name, categories, name_map: settings of a COCO-style file, see `CocoConfig`.
        foreign: the files, if they are those of an annotation tool.
    """

    limits: CheckLimits = CheckLimits()
    num_workers: int = 1
    headers_only: bool = False
    object_name: str | None = None
    categories: Path | None = None
    name_map: Path | None = None
    foreign: ForeignInput | None = None

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be 1 or more, got {self.num_workers}")


@dataclass(frozen=True)
class CheckInput:
    """The input of a check: an annotation file, the folder of its images, and the data set folder if it is one."""

    annotations: Path
    images: Path
    folder: Path | None = None


def folder_input(folder: Path) -> CheckInput:
    """Return the annotations and images of a data set folder in the project's own form.

    Raises:
        FileNotFoundError: `dataset.json` is missing.
        ValueError: it is not JSON of the right form.
    """
    description = read_json(folder / DATASET_FILE)
    if not isinstance(description.get("image_root"), str):
        raise ValueError(f"{folder / DATASET_FILE}: 'image_root', the folder of the images, is missing")
    return CheckInput(folder / ANNOTATIONS_FILE, (folder / description["image_root"]).resolve(), folder)


def check_folder(folder: Path, config: CheckConfig) -> CheckReport:
    """Check a data set folder in the project's own form.

    Raises:
        FileNotFoundError: one of its files is missing.
        ValueError: `dataset.json` or `annotations.json` is not JSON of the right form.
    """
    return check_input(folder_input(folder), config)


def check_files(annotations: Path, image_root: Path, config: CheckConfig) -> CheckReport:
    """Check a COCO-style annotation file and its images.

    Raises:
        FileNotFoundError: the annotation file, or a table given with it, is missing.
        ValueError: one of them is not JSON of the right form.
    """
    return check_input(CheckInput(annotations, image_root), config)


def check_input(files: CheckInput, config: CheckConfig) -> CheckReport:
    """Check a data set folder or a COCO-style annotation file; raises what `check_files` raises."""
    return join_checks(files.annotations, [check_part(files, config)], config, files.folder)


@dataclass(frozen=True)
class ImageContent:
    """An image file. `content` is equal for files of equal bytes; `position` is the index of the image's record."""

    position: int
    image_id: int
    file_name: str
    content: str


@dataclass(frozen=True)
class PartialCheck:
    """The results for some of the images.

    Attributes:
        num_images, num_annotations: numbers of records in the whole file.
        findings: all findings except those that need every image.
        contents: image files that may equal others.
        num_not_compared: number of parts without an object mask to be compared with.
        num_parts: number of part annotations that belong to an object.
    """

    num_images: int
    num_annotations: int
    findings: Sequence[Finding]
    contents: tuple[ImageContent, ...]
    num_not_compared: int
    num_parts: int


def check_part(files: CheckInput, config: CheckConfig, shard: Shard | None = None) -> PartialCheck:
    """Check the images of a shard with their annotations; the first shard checks what belongs to no image.

    Args:
        files: the input.
        config: settings of the check.
        shard: the shard whose images are read; None for all images.
    """
    name_map = read_text_map(config.name_map, "name map") if config.name_map else {}
    table = read_text_map(config.categories, "categories") if config.categories else {}
    is_own_form = files.folder is not None
    masks = _MaskCheck(config.limits)
    if config.foreign is not None:
        file = config.foreign.read(shard, masks.check)
    else:
        file = read_checked_file(
            files.annotations, files.images, masks.check, config.object_name, shard, is_own_form=is_own_form
        )
    findings = file.findings
    if shard is None or shard.index == 0:
        changes = [] if files.folder is None else list_changes(files.folder)
        findings.extend(Finding(CHANGED_FILE, "folder", change) for change in changes)
        findings.extend(check_names(file.categories, file.used_categories, name_map))
        of_categories = check_categories(file.categories, file.used_categories, name_map, table, config.categories)
        findings.extend(replace(one, stage=Stage.OBJECT_CATEGORIES) for one in of_categories)
    findings.extend(_check_images(file, config))
    findings.extend(masks.findings)
    return PartialCheck(
        num_images=file.num_images,
        num_annotations=file.num_annotations,
        findings=findings if not file.places else Findings(_with_places(findings, file.places)),
        contents=_group_contents(file, config) if shard is None else _hash_contents(file, config),
        num_not_compared=masks.num_not_compared,
        num_parts=masks.num_parts,
    )


def _with_places(findings: Findings, places: Mapping[str, str]) -> Iterator[Finding]:
    return (replace(one, record=places.get(one.record, one.record)) for one in findings)


def join_checks(
    annotations: Path, parts: Sequence[PartialCheck], config: CheckConfig, folder: Path | None = None
) -> CheckReport:
    """Join the results of any number of shards into a report.

    Args:
        annotations: the checked file.
        parts: the results of all shards.
        config: the settings of the check.
        folder: the data set folder of the file, if it is in one.
    """
    findings = Findings(one for part in parts for one in part.findings)
    findings.extend(_find_same_images(content for part in parts for content in part.contents))
    if not sum(part.num_parts for part in parts) and not findings.count_severities()[Severity.ERROR]:
        findings.extend([Finding(NOTHING_TO_ASK, "the file", "no annotation of a part belongs to an object")])
    findings.sort()
    remarks = []
    num_not_compared = sum(part.num_not_compared for part in parts)
    if num_not_compared:
        remarks.append(f"{num_not_compared} parts were not compared with their object, whose mask is not annotated")
    if config.headers_only:
        remarks.append("only the headers of the images were read: cut-off files were not looked for")
    if folder is not None and not has_seal(folder):
        remarks.append("the folder has no hashes of its files: changes since the build were not looked for")
    first = parts[0]
    return CheckReport(str(annotations), first.num_images, first.num_annotations, findings, tuple(remarks))


def _check_images(file: CheckedFile, config: CheckConfig) -> Iterator[Finding]:
    images = file.images
    is_whole = not config.headers_only
    with ThreadPoolExecutor(config.num_workers) as executor, progress(len(images), "images", "image") as shown:
        checked = executor.map(lambda image: find_image_fault(file.root, image, is_whole), images)
        for image, found in zip(images, checked, strict=True):
            if found is not None:
                kind, reason = found
                number = file.positions[image.image_id]
                yield Finding(FAULTS[kind], f"image {image.image_id}", reason, Stage.IMAGES, number)
            shown.update()


def _group_contents(file: CheckedFile, config: CheckConfig) -> tuple[ImageContent, ...]:
    """Group equal files of all images; a file is read only if another has the same size."""
    groups = find_same_files([file.root / image.file_name for image in file.images], config.num_workers)
    return tuple(
        _image_content(file, file.images[position], str(number))
        for number, group in enumerate(groups)
        for position in group
    )


def _hash_contents(file: CheckedFile, config: CheckConfig) -> tuple[ImageContent, ...]:
    """Hash every file of a shard, because the other shards' file sizes are unknown."""
    present = [image for image in file.images if _is_file(file.root / image.file_name)]
    with ThreadPoolExecutor(config.num_workers) as executor:
        digests = executor.map(lambda image: hash_files([file.root / image.file_name]), present)
        return tuple(_image_content(file, *row) for row in zip(present, digests, strict=True))


def _image_content(file: CheckedFile, image: CocoImage, content: str) -> ImageContent:
    return ImageContent(file.positions[image.image_id], image.image_id, image.file_name, content)


def _find_same_images(contents: Iterable[ImageContent]) -> Iterator[Finding]:
    groups: dict[str, list[ImageContent]] = defaultdict(list)
    for one in sorted(contents, key=lambda one: one.position):
        groups[one.content].append(one)
    for group in groups.values():
        first = group[0]
        for again in group[1:]:
            detail = f"{again.file_name} has the content of {first.file_name} (image {first.image_id})"
            yield Finding(SAME_IMAGE, f"image {again.image_id}", detail, Stage.SAME_FILES)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long for the file system, so there is no such file
        return False


class _MaskCheck:
    """Checks the masks of images, one by one.

    Attributes:
        findings: what was found in all of them.
        num_not_compared, num_parts: see `PartialCheck`.
    """

    def __init__(self, limits: CheckLimits) -> None:
        self._limits = limits
        self.findings = Findings()
        self.num_not_compared = self.num_parts = 0

    def check(self, records: ImageRecords) -> None:
        """Check the masks of an image."""
        annotations = [
            one if one.mask is None else replace(one, mask=canonical_rle(one.mask))
            for one in records.annotations.values()
        ]
        checked = check_masks(records.image, annotations, self._limits, records.unusable)
        self.findings.extend(replace(one, stage=Stage.MASKS, number=records.position) for one in checked.findings)
        self.num_not_compared += checked.num_not_compared
        self.num_parts += checked.num_parts
