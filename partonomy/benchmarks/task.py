"""The task contract: everything that the harness needs to know about a benchmark.

A task turns an item into requests once (`ask`), receives one answer per request, and scores the item once (`score`).
The harness owns the rest: images, batches, models, records on disk, resume, ranks, shards and confidence intervals. To
add a benchmark, write one file with a `Task` and its `Benchmark` (`define_benchmark`), and add the `Benchmark` to
`partonomy.benchmarks.registry`.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

import numpy as np

from partonomy.benchmarks.cases import IMAGE, Case, CasePicture, CaseText, Verdict
from partonomy.benchmarks.imported import Entry, answers_of, replay
from partonomy.images import image_size, load_image
from partonomy.masks import RLE, rle_to_json
from partonomy.metrics.bootstrap import ImageRatio, MeanOfRatios, RankedHits
from partonomy.models.contract import AnswerMarks, TaskRequest
from partonomy.table_format import Table
from partonomy.visualize import part_colours

MAX_REASON = 500
"""Error messages are cut to this number of characters."""
UNREADABLE = "unreadable-"
"""Beginning of the record ids of entries that could not be read (`Task.lost`)."""
ALL = "all"
"""Name of the only group of a benchmark that computes every metric from all records."""


class Status(StrEnum):
    """Whether an item was scored.

    A failed item counts as 0 in every requested metric. An unsupported item was refused by a model that cannot
    do what the benchmark asks. If the model refused items and answered none, the metrics are null.
    """

    SCORED = "scored"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of one item: everything needed to recompute every metric and to draw the case.

    Attributes:
        item_id: Unique within the run.
        image_id: Shared by all items of one image, because the bootstrap resamples images.
        image_path: The image file.
        group: Part of the benchmark that is also scored separately; may be empty.
        prompt: The user's words.
        status: See `Status`.
        reason: Why the item failed; empty if it was scored.
        seconds: Wall time spent on the item: the model's answers and their scoring, failed attempts included, without
            loading the image. Only this field and `image_path` differ from run to run.
    """

    item_id: str
    image_id: int | str
    image_path: str
    group: str
    prompt: str
    status: Status = Status.SCORED
    reason: str = ""
    seconds: float = 0.0

    @property
    def is_scored(self) -> bool:
        """Whether the item was answered without error."""
        return self.status is Status.SCORED

    @property
    def subject(self) -> str:
        """The item's subject in a few words, for lists of items."""
        return ""

    @property
    def quality(self) -> float | None:
        """How well the item was answered, in [0, 1]; None if that was not asked or the model does not support it."""
        return None

    @property
    def said(self) -> str:
        """The model's own words if the benchmark scores words; otherwise empty."""
        return ""

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return the right and wrong answers in question order; empty if the model cannot answer them."""
        return ()

    def masks(self) -> Iterable[RLE]:
        """Return every predicted mask; reading a record file checks that all of them are valid."""
        return ()

    def check(self) -> None:
        """Check the constraints that the field types do not express.

        Raises:
            ValueError: A value is impossible.
        """

    @classmethod
    def upgrade(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Convert the JSON of a record written by an earlier version of the code to the current fields."""
        return content


@dataclass(frozen=True)
class Picture:
    """What the model sees of an image.

    Attributes:
        path: The file.
        height, width: Size of the annotation's frame, pixels; None takes the size of the upright image.
        box: (x, y, width, height) of the instance to mark; None marks nothing.
    """

    path: Path
    height: int | None = None
    width: int | None = None
    box: tuple[int, int, int, int] | None = None

    def load(self) -> np.ndarray:
        """Read the image in its frame, uint8 RGB (H, W, 3), without the box.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not an image or has another size.
        """
        if self.height is None or self.width is None:
            return load_image(self.path, *image_size(self.path))
        return load_image(self.path, self.height, self.width)


class Item(Protocol):
    """The attributes of an item that the harness reads."""

    @property
    def item_id(self) -> str: ...  # noqa: D102
    @property
    def image_id(self) -> int | str: ...  # noqa: D102
    @property
    def picture(self) -> Picture: ...  # noqa: D102
    @property
    def group(self) -> str: ...  # noqa: D102


def pictures_of(item: Item) -> tuple[Picture, ...]:
    """Return all pictures of an item: `picture`, and `further_pictures` if it has them."""
    further: tuple[Picture, ...] = getattr(item, "further_pictures", ())
    return (item.picture, *further)


Metric = ImageRatio | RankedHits | MeanOfRatios


@dataclass(frozen=True)
class Group:
    """Counts and metrics of one group's records.

    `reasons` counts why items failed or, for a group without items, why none could be asked. A metric is None if it is
    not defined for the group. `num_tied` counts the items whose best answers tie, where a model chooses among answers.
    """

    name: str
    num_expected: int
    num_failed: int
    reasons: Mapping[str, int]
    metrics: Mapping[str, Metric | None]
    num_tied: int = 0


@dataclass(frozen=True)
class Words:
    """The words that tables and pages use for a benchmark's items.

    Attributes:
        item: Noun for one item; its plural adds an "s".
        group: Heading for a group of items.
        subject: Heading for `Record.subject`.
        quality: Label of `Record.quality` next to a number.
        quality_of: The label for several items, as in "items of the highest ..."; empty means `quality`.
        quality_title: The label with its unit, at the beginning of a title.
        quality_key: The key in files.
    """

    item: str = "item"
    group: str = "Group"
    subject: str = "about"
    quality: str = "score"
    quality_of: str = ""
    quality_title: str = "Score (%)"
    quality_key: str = "score"

    @property
    def items(self) -> str:
        """The plural of `item`."""
        return f"{self.item}s"


ItemT = TypeVar("ItemT", bound=Item)
AnswerT = TypeVar("AnswerT")
RecordT = TypeVar("RecordT", bound=Record)

Asking = Generator[Sequence[TaskRequest], Sequence[Any], AnswerT]
"""Yields an item's next requests, all of one kind; is sent one answer per request; returns the argument of `score`.

An error of the model is raised at the `yield`: NotImplementedError if the model does not support the request.
"""


class Task(ABC, Generic[ItemT, AnswerT, RecordT]):
    """A split of a benchmark under one protocol.

    A task without items still knows its protocol and its metrics; tables and comparisons use it to read finished runs.

    Attributes:
        benchmark: Name in the registry.
        split: Part of the benchmark.
        items: The items to ask, in the order of the records.
    """

    VERSION: ClassVar[str]
    """Changes whenever a prompt, a protocol or a metric changes a number."""
    RECORD: ClassVar[type[Record]]
    MAX_NEW_TOKENS: ClassVar[int] = 128
    """Maximum length of a model's own answer; every model receives it when it is built."""
    WORDS: ClassVar[Words] = Words()
    COMPARED: ClassVar[tuple[str, ...]] = ()
    """Metrics that a comparison of two runs shows by default; empty means every metric."""
    ASKS_SEVERAL_IMAGES: ClassVar[bool] = False
    """Whether items have `further_pictures`. Their requests are asked one by one: a model's batches are of one image
    each."""
    EXPORT_NEEDS_ITEMS: ClassVar[bool] = False
    """Whether `prediction` reads the item; if so, exporting predictions needs the data."""

    benchmark: str
    split: str
    items: Sequence[ItemT]

    @property
    @abstractmethod
    def protocol(self) -> str:
        """How items are asked and scored, in words; printed with every score."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The metric that is usually quoted for the benchmark."""

    @property
    def lost(self) -> Sequence[RecordT]:
        """Records of entries that could not be read, and so count as failed items; ids begin with `UNREADABLE`."""
        return ()

    @abstractmethod
    def ask(self, item: ItemT, marks: AnswerMarks) -> Asking[AnswerT]:
        """Generate the requests of an item; see `Asking`.

        Args:
            item: The item.
            marks: The kind of marks in the model's answers.
        """

    @abstractmethod
    def score(self, item: ItemT, answer: AnswerT) -> RecordT:
        """Score what `ask` returned. Touches no device.

        Raises:
            ValueError: The answer is malformed; the item fails.
        """

    @abstractmethod
    def fail(self, item: ItemT, reason: str) -> RecordT:
        """Return the record of an item without an answer: it scores 0."""

    def refuse(self, item: ItemT, reason: str) -> RecordT:
        """Return the record of an item that the model does not support."""
        return replace(self.fail(item, reason), status=Status.UNSUPPORTED)

    @abstractmethod
    def metrics(self, records: Sequence[RecordT]) -> Mapping[str, Metric | None]:
        """Compute every metric of one group's records, in the order of the tables; None for an undefined one."""

    def settle(self, records: Sequence[RecordT]) -> Sequence[RecordT]:
        """Return the records as the metrics count them; see `settle_status`."""
        return settle_status(records)

    def groups(self, records: Sequence[RecordT]) -> Iterator[Group]:
        """Divide a run's records into groups and compute each group's metrics; by default all records are one group."""
        settled = settle_status(records)
        metrics = self.metrics(settled)
        # Even if another item failed because its image is missing.
        if any(record.status is Status.UNSUPPORTED for record in settled):
            metrics = dict.fromkeys(metrics)
        yield make_group(ALL, settled, metrics)

    def notes(self, records: Sequence[RecordT]) -> tuple[str, ...]:
        """Further facts that a reader of the scores has to know, one line each."""
        return ()

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings that change the meaning of a number, by name; a comparison reports those that differ."""
        return {"protocol": self.protocol}

    def counted_by(self, metric: str) -> tuple[str, str]:
        """Split a metric's name into the protocol that counts it and the bare name; by default all share one."""
        return self.protocol, metric

    def further_tables(self, records: Sequence[RecordT]) -> tuple[Table, ...]:
        """Return a run's tables other than those of its metrics."""
        return ()

    def show(self, record: RecordT, item: ItemT | None) -> Case:
        """Describe what a page shows for an item.

        Args:
            record: The item's outcome.
            item: The item; None if the data, and thus the image and the true masks, are no longer available.
        """
        masks = tuple(record.masks())
        pictures = (IMAGE, CasePicture("predicted", masks, part_colours(len(masks)))) if masks else (IMAGE,)
        texts = [CaseText("Question", record.prompt)]
        texts += [CaseText("Reply", record.said)] if record.said else []
        return Case(record.subject, pictures if item is not None else (), texts=tuple(texts))

    def prediction(self, record: RecordT, item: ItemT | None, folder: Path) -> Mapping[str, Any]:
        """Return an item's entry in an exported file of predictions, as JSON values.

        Args:
            record: The item's outcome.
            item: The item; may be None unless `EXPORT_NEEDS_ITEMS`.
            folder: Folder of the exported file; paths are relative to it.
        """
        return {
            "item_id": record.item_id,
            "group": record.group,
            "image": relative_path(record.image_path, folder) or None,
            "prompt": record.prompt,
            "status": record.status.value,
            "reason": record.reason,
            "reply": record.said or None,
            "masks": [rle_to_json(mask) for mask in record.masks()],
        }

    def answers_of(self, content: Mapping[str, Any]) -> frozenset[str]:
        """Return the names of the answers that an imported entry has, such as "masks".

        Args:
            content: The entry's keys and values, in the schema of `prediction`.
        """
        return answers_of(content)

    def for_import(self, offered: Mapping[str, frozenset[str]]) -> tuple[Self, Mapping[str, Any] | None]:
        """Return the task whose options suit a file of imported predictions, and those options; None for no change.

        Args:
            offered: For each group, the names of the answers that its entries in the file have.
        """
        return self, None

    def import_record(self, item: ItemT, entry: Entry) -> RecordT:
        """Return the record of an item that another program has answered; the inverse of `prediction`.

        Args:
            item: The item.
            entry: Its entry in the file.

        Raises:
            ValueError: The entry is malformed.
        """
        record: RecordT = replay(self, item, entry)  # type: ignore[assignment]
        return record

    @abstractmethod
    def content(self) -> Iterator[object]:
        """Generate all questions and their ground truth as JSON values, independent of where the files are."""

    def content_hash(self) -> str:
        """Return the sha256 of `content`; runs with equal hashes asked the same questions."""
        digest = hashlib.sha256()
        for row in self.content():
            digest.update(json.dumps(row).encode("ascii"))
        return digest.hexdigest()

    def image_paths(self) -> frozenset[Path]:
        """Return the benchmark's image files, for the comparison with a model's training images."""
        return frozenset(picture.path for item in self.items for picture in pictures_of(item))

    def dataset(self) -> Mapping[str, Any]:
        """Return a summary's description of the data, as JSON values."""
        return {"name": f"{self.benchmark} {self.split}".strip(), "num_items": len(self.items)}


class ChangedRecords(Sequence[RecordT]):
    """A view of records that changes each one on access, so that records in a file stay there.

    Args:
        records: The records.
        change: Returns a record as the view shows it.
        places: The places of the view's records, in its order; None for all records in their order.
    """

    def __init__(
        self,
        records: Sequence[RecordT],
        change: Callable[[RecordT], RecordT] | None = None,
        places: Sequence[int] | None = None,
    ) -> None:
        self._records, self._change, self._places = records, change, places

    def __len__(self) -> int:
        return len(self._records) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, index: int) -> RecordT: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RecordT, ...]: ...
    def __getitem__(self, index: int | slice) -> RecordT | tuple[RecordT, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        record = self._records[index if self._places is None else self._places[index]]
        return record if self._change is None else self._change(record)

    def __iter__(self) -> Iterator[RecordT]:
        found = iter(self._records) if self._places is None else map(self._records.__getitem__, self._places)
        return found if self._change is None else map(self._change, found)


def settle_status(records: Sequence[RecordT]) -> Sequence[RecordT]:
    """Mark an item as failed, with score 0, if the model refused it but answered others."""
    found = {record.status for record in records}
    return ChangedRecords(records, _fail_refused) if {Status.SCORED, Status.UNSUPPORTED} <= found else records


def _fail_refused(record: RecordT) -> RecordT:
    reason = "NotImplementedError, which the model did not raise on other items"
    return replace(record, status=Status.FAILED, reason=reason) if record.status is Status.UNSUPPORTED else record


class RecordCounts:
    """Counts the records of a group, which are added one after another, and the reasons for failures."""

    def __init__(self) -> None:
        self.num_expected = 0
        self._reasons = Counter[str]()

    def add(self, record: Record) -> None:
        """Count a record."""
        self.num_expected += 1
        if not record.is_scored:
            self._reasons[record.reason] += 1

    @property
    def num_failed(self) -> int:
        """Number of records that were not scored."""
        return self._reasons.total()

    @property
    def reasons(self) -> dict[str, int]:
        """The reasons why items were not scored, most frequent first."""
        return dict(sorted(self._reasons.items(), key=lambda entry: (-entry[1], entry[0])))


def make_group(name: str, records: Iterable[Record], metrics: Mapping[str, Metric | None]) -> Group:
    """Build a group from its records, with the reasons for failures, most frequent first."""
    counts = RecordCounts()
    for record in records:
        counts.add(record)
    return Group(name, counts.num_expected, counts.num_failed, counts.reasons, metrics)


def describe_error(error: Exception) -> str:
    """Return the type and message of an error on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:MAX_REASON]


def first_items(items: Sequence[ItemT], limit: int | None) -> Sequence[ItemT]:
    """Keep at most `limit` items; None keeps all."""
    return items[:limit]


def relative_path(path: str, folder: Path) -> str:
    """Return a path as seen from a folder; an empty one stays empty."""
    return Path(os.path.relpath(path, folder)).as_posix() if path else ""


def first_of_each_group(items: Sequence[ItemT], limit: int | None) -> tuple[ItemT, ...]:
    """Keep at most `limit` items of each group; None keeps all."""
    counts = Counter[str]()
    kept = []
    for item in items:
        counts[item.group] += 1
        if limit is None or counts[item.group] <= limit:
            kept.append(item)
    return tuple(kept)


@dataclass(frozen=True)
class Source:
    """The location of a benchmark's data and the selection of items to ask.

    Attributes:
        root: Folder of the download (Partonomy: data set folder or published record file).
        split: Part of the benchmark; None for its default.
        annotations: A file that replaces the split's own; None for the split's own.
        limit: Maximum number of items (per group, if the benchmark has groups); None for all.
        seed: Seed of a task's random decisions, such as the order of choices.
    """

    root: Path
    split: str | None = None
    annotations: Path | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit must be at least 1, got {self.limit}")

    def in_split(self, split: str) -> Self:
        """Return the source with the benchmark's default split filled in."""
        return replace(self, split=split) if self.split is None else self


AnyTask = Task[Any, Any, Any]


@dataclass(frozen=True)
class Options:
    """Base of a benchmark's own flags: a frozen dataclass with one field per flag."""

    FREE_TO_RESUME: ClassVar[frozenset[str]] = frozenset()
    """Options that may differ when a run is resumed, because they do not change its records."""
    FREE_TO_MERGE: ClassVar[frozenset[str]] = frozenset()
    """Options that may differ between merged runs, because they do not change the metrics either."""

    def resolve(self, model: str) -> Self:
        """Replace defaults with the values that they stand for, so that a run records them, and check the values.

        Args:
            model: Name of the model; a default may depend on it.

        Raises:
            ValueError: A value is not usable.
        """
        return self


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by name.

    Attributes:
        name: As typed.
        title: One line for the list of benchmarks.
        splits: Its splits, for the help text.
        options: The dataclass of its own flags.
        read: Reads the items to ask, given the options.
        make: Returns the task of a split and options without items, for the metrics of finished runs.
        root_flag: The flag that names the data, without dashes.
        root_help: Help text of that flag.
        takes_annotations: Whether another file may replace the split's own.
        has_splits: Whether the data are divided into splits.
        earlier_options: What runs did before an option existed, for the options whose default is something else.
        depends_on_marks: Whether marks such as [SEG] in a model's answers (`AnswerMarks`) affect the scores.
    """

    name: str
    title: str
    splits: str
    options: type[Options]
    read: Callable[[Source, Any], AnyTask]
    make: Callable[[str, Any], AnyTask]
    root_flag: str = "root"
    root_help: str = "folder of the data set"
    takes_annotations: bool = False
    has_splits: bool = True
    earlier_options: Mapping[str, str] = field(default_factory=dict)
    depends_on_marks: bool = True


OptionsT = TypeVar("OptionsT", bound=Options)


def define_benchmark(
    name: str,
    title: str,
    splits: str,
    *,
    options: type[OptionsT],
    read_items: Callable[[Source, OptionsT], Sequence[ItemT]],
    make_task: Callable[[str, str, OptionsT, Sequence[ItemT]], AnyTask],
    default_split: Callable[[OptionsT], str] = lambda options: "val",
    keep: Callable[[Sequence[ItemT], int | None], Sequence[ItemT]] = first_items,
    takes_annotations: bool = False,
    earlier_options: Mapping[str, str] | None = None,
    depends_on_marks: bool = True,
) -> Benchmark:
    """Describe a benchmark whose split is a sequence of items.

    Args:
        name, title, splits, options, takes_annotations, depends_on_marks, earlier_options: See `Benchmark`.
        read_items: Reads all items of `source.split`.
        make_task: Returns the task; called with name, split, options and items.
        default_split: The split if none is given.
        keep: Selects the items that `--limit` keeps.
    """

    def read(source: Source, chosen: OptionsT) -> AnyTask:
        source = source.in_split(default_split(chosen))
        return make_task(name, str(source.split), chosen, keep(read_items(source, chosen), source.limit))

    def make(split: str, chosen: OptionsT) -> AnyTask:
        return make_task(name, split, chosen, ())

    return Benchmark(
        name,
        title,
        splits,
        options,
        read,
        make,
        takes_annotations=takes_annotations,
        earlier_options=earlier_options or {},
        depends_on_marks=depends_on_marks,
    )
