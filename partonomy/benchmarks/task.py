"""The task contract: everything that the harness needs to know of a benchmark.

A task turns an item into requests once (`ask`), gets every request answered once, and scores the item once (`score`).
The harness owns the rest: images, batches, models, records on disk, resume, ranks, shards, intervals. To add a
benchmark, write one file with a `Task` and its `Benchmark` (`define_benchmark`), and add the latter to
`partonomy.benchmarks.registry`.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from partonomy.benchmarks.cases import IMAGE, Case, CasePicture, CaseText, Verdict
from partonomy.images import image_size, load_image
from partonomy.masks import RLE, rle_to_json
from partonomy.metrics.bootstrap import ImageRatio, MeanOfRatios
from partonomy.models.contract import AnswerMarks, Request
from partonomy.table_format import Table
from partonomy.visualize import part_colours

MAX_REASON = 500
"""Characters kept of an error message."""
ALL = "all"
"""The group of a benchmark whose metrics are all computed from all records."""


class Status(StrEnum):
    """Whether an item was scored.

    A failed item counts as 0 in every metric that was asked for. An unsupported one was refused by a model that cannot
    do what the benchmark asks; where the model refused items and answered none, the metrics are null.
    """

    SCORED = "scored"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of one item: everything needed to compute every metric again and to draw the case.

    Attributes:
        item_id: Unique within the run.
        image_id: The same for all items of one image: the bootstrap draws images.
        image_path: The image file.
        group: Part of the benchmark that is also scored alone; may be empty.
        prompt: The user's words.
        status: See `Status`.
        reason: Why the item failed; empty where it was scored.
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
        """What the item is about in a few words, for lists of items."""
        return ""

    @property
    def quality(self) -> float | None:
        """How well the item was answered, in [0, 1]; None where that was not asked for or the model cannot do it."""
        return None

    @property
    def said(self) -> str:
        """The model's own words, where the benchmark scores words; else empty."""
        return ""

    def verdicts(self) -> tuple[Verdict, ...]:
        """What the model was right or wrong in, in the order of the questions; empty where it cannot answer them."""
        return ()

    def masks(self) -> Iterable[RLE]:
        """Every predicted mask; a record file is only read if all of them are sound."""
        return ()

    def check(self) -> None:
        """Check what the types of the fields do not say.

        Raises:
            ValueError: A value is impossible.
        """

    @classmethod
    def upgrade(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the JSON of a record by an earlier version of the code in today's fields."""
        return content


@dataclass(frozen=True)
class Picture:
    """What the model sees of an image.

    Attributes:
        path: The file.
        height, width: Of the annotation's frame, pixels; None takes the image upright as it is.
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
            ValueError: It is no image, or of another size.
        """
        if self.height is None or self.width is None:
            return load_image(self.path, *image_size(self.path))
        return load_image(self.path, self.height, self.width)


class Item(Protocol):
    """What the harness needs to know of an item."""

    @property
    def item_id(self) -> str: ...  # noqa: D102
    @property
    def image_id(self) -> int | str: ...  # noqa: D102
    @property
    def picture(self) -> Picture: ...  # noqa: D102
    @property
    def group(self) -> str: ...  # noqa: D102


Metric = ImageRatio | MeanOfRatios


@dataclass(frozen=True)
class Group:
    """Counts and metrics of the records of one group.

    `reasons` counts why items failed or, for a group without items, why none could be asked. A metric is None where
    the group has no such number.
    """

    name: str
    num_expected: int
    num_failed: int
    reasons: Mapping[str, int]
    metrics: Mapping[str, Metric | None]


@dataclass(frozen=True)
class Words:
    """What tables and pages call the things of a benchmark.

    Attributes:
        item: An item; several have an "s" behind.
        group: A group of items, as a heading.
        subject: `Record.subject`, as a heading.
        quality: `Record.quality`, beside a number.
        quality_of: The same of several items, as in "items of the highest ..."; empty: `quality`.
        quality_title: The same with its unit, at the beginning of a title.
        quality_key: The same in files.
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
        """Several items."""
        return f"{self.item}s"


ItemT = TypeVar("ItemT", bound=Item)
AnswerT = TypeVar("AnswerT")
RecordT = TypeVar("RecordT", bound=Record)

Asking = Generator[Sequence[Request], Sequence[Any], AnswerT]
"""Yields the next requests of an item, all of one kind; is sent one answer per request; returns what `score` reads.

Where the model raises, the error is raised at the `yield`: NotImplementedError if the model cannot do what is asked.
"""


class Task(ABC, Generic[ItemT, AnswerT, RecordT]):
    """A benchmark's split under one protocol.

    A task without items still knows its protocol and its metrics: tables and comparisons read finished runs with it.

    Attributes:
        benchmark: Name in the registry.
        split: Part of the benchmark.
        items: What is asked, in the order of the records.
    """

    VERSION: ClassVar[str]
    """Changes whenever a prompt, a protocol or a metric changes a number."""
    RECORD: ClassVar[type[Record]]
    MAX_NEW_TOKENS: ClassVar[int] = 128
    """Longest answer of a model in its own words."""
    WORDS: ClassVar[Words] = Words()
    COMPARED: ClassVar[tuple[str, ...]] = ()
    """Metrics that a comparison of two runs shows unless told otherwise; empty: every metric."""
    EXPORT_NEEDS_ITEMS: ClassVar[bool] = False
    """Whether `prediction` reads the item, so that predictions cannot be exported once the data are gone."""

    benchmark: str
    split: str
    items: Sequence[ItemT]

    @property
    @abstractmethod
    def protocol(self) -> str:
        """How items are asked and scored, in words: it stands beside every score."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The metric by which the benchmark is usually quoted."""

    @property
    def lost(self) -> Sequence[RecordT]:
        """Failed records of entries that cannot be asked; they count like items that failed."""
        return ()

    @abstractmethod
    def ask(self, item: ItemT, marks: AnswerMarks) -> Asking[AnswerT]:
        """Return the requests of an item, see `Asking`.

        Args:
            item: The item.
            marks: What marks the model's answers carry.
        """

    @abstractmethod
    def score(self, item: ItemT, answer: AnswerT) -> RecordT:
        """Score what `ask` returned. Touches no device.

        Raises:
            ValueError: The answer has an impossible form; the item fails.
        """

    @abstractmethod
    def fail(self, item: ItemT, reason: str) -> RecordT:
        """Return the record of an item without an answer: it scores 0."""

    @abstractmethod
    def metrics(self, records: Sequence[RecordT]) -> Mapping[str, Metric | None]:
        """Every metric of the records of one group, in the order in which tables show them."""

    def settle(self, records: Sequence[RecordT]) -> Iterable[RecordT]:
        """Return the records as the metrics count them, see `settle_status`."""
        return settle_status(records)

    def groups(self, records: Sequence[RecordT]) -> Iterator[Group]:
        """Divide the records of a run into groups and compute each group's metrics; here all records are one group."""
        settled = settle_status(records)
        metrics = self.metrics(settled)
        if any(record.status is Status.UNSUPPORTED for record in settled):  # also beside an image that is missing
            metrics = dict.fromkeys(metrics)
        yield make_group(ALL, settled, metrics)

    def notes(self, records: Sequence[RecordT]) -> tuple[str, ...]:
        """What a reader of the scores has to know besides, one line each."""
        return ()

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings that change what a number means, by name: a comparison names those in which two runs differ."""
        return {"protocol": self.protocol}

    def counted_by(self, metric: str) -> tuple[str, str]:
        """Whose protocol counts a metric, and the metric's name without it; here all are counted in one way."""
        return self.protocol, metric

    def further_tables(self, records: Sequence[RecordT]) -> tuple[Table, ...]:
        """Tables of a run besides those of its metrics."""
        return ()

    def show(self, record: RecordT, item: ItemT | None) -> Case:
        """Say what a page shows of an item.

        Args:
            record: Its outcome.
            item: The item; None where the data are gone, and with them the image and the true masks.
        """
        masks = tuple(record.masks())
        pictures = (IMAGE, CasePicture("predicted", masks, part_colours(len(masks)))) if masks else (IMAGE,)
        texts = [CaseText("Question", record.prompt)]
        texts += [CaseText("Reply", record.said)] if record.said else []
        return Case(record.subject, pictures if item is not None else (), texts=tuple(texts))

    def prediction(self, record: RecordT, item: ItemT | None, folder: Path) -> Mapping[str, Any]:
        """Return what an exported file of predictions says of an item, as JSON values.

        Args:
            record: Its outcome.
            item: The item; None unless `EXPORT_NEEDS_ITEMS`.
            folder: Where the file will lie; paths are relative to it.
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

    @abstractmethod
    def content(self) -> Iterator[object]:
        """Everything that is asked and its truth as JSON values, wherever the files lie."""

    def content_hash(self) -> str:
        """Return the sha256 of `content`: runs with the same hash asked the same."""
        digest = hashlib.sha256()
        for row in self.content():
            digest.update(json.dumps(row).encode("ascii"))
        return digest.hexdigest()

    def image_paths(self) -> frozenset[Path]:
        """Return the image files of the benchmark, which are compared with those that a model was trained on."""
        return frozenset(item.picture.path for item in self.items)

    def dataset(self) -> Mapping[str, Any]:
        """What a summary says of the data, as JSON values."""
        return {"name": f"{self.benchmark} {self.split}".strip(), "num_items": len(self.items)}


def settle_status(records: Sequence[RecordT]) -> Sequence[RecordT]:
    """An item refused by a model that answered others has failed: it scores 0."""
    found = {record.status for record in records}
    if not {Status.SCORED, Status.UNSUPPORTED} <= found:
        return records
    reason = "NotImplementedError, which the model did not raise on other items"
    return [
        replace(record, status=Status.FAILED, reason=reason) if record.status is Status.UNSUPPORTED else record
        for record in records
    ]


def make_group(name: str, records: Sequence[Record], metrics: Mapping[str, Metric | None]) -> Group:
    """Return the group of some records, with the reasons of failures, most frequent first."""
    num_scored = sum(record.is_scored for record in records)
    return Group(name, len(records), len(records) - num_scored, count_reasons(records), metrics)


def count_reasons(records: Sequence[Record]) -> dict[str, int]:
    """Count why items were not scored, most frequent reason first."""
    counts = Counter(record.reason for record in records if not record.is_scored)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def describe_error(error: Exception) -> str:
    """Type and message of an error on one line."""
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
    """Where a benchmark's data lie and which of them are asked.

    Attributes:
        root: Folder of the download (Partonomy: data set folder or published record file).
        split: Part of the benchmark; None for its default.
        annotations: A file that replaces the split's own; None for the split's own.
        limit: At most so many items (of each group, where the benchmark has groups); None for all.
        seed: Of what a task draws when it asks, such as the order of choices.
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
        """Name the split that a benchmark's default stands for."""
        return replace(self, split=split) if self.split is None else self


AnyTask = Task[Any, Any, Any]


@dataclass(frozen=True)
class Options:
    """Base of a benchmark's own flags: a frozen dataclass with one field per flag."""

    FREE_TO_RESUME: ClassVar[frozenset[str]] = frozenset()
    """Options that may differ when a run is resumed, since they change no record."""
    FREE_TO_MERGE: ClassVar[frozenset[str]] = frozenset()
    """Options that may differ between runs that are merged, since they change no number."""

    def resolve(self, model: str) -> Self:
        """Spell out what defaults stand for, so that a run records it, and check the values.

        Args:
            model: Name of the model, on which a default may depend.

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
        options: Its own flags.
        read: Read what is asked under some options.
        make: Return the task of a split and some options without its items, for the metrics of finished runs.
        root_flag: The flag that names the data, without dashes.
        root_help: What that flag takes.
        takes_annotations: Whether a file may replace the split's own.
        has_splits: Whether a split is named; otherwise the data are one.
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
) -> Benchmark:
    """Describe a benchmark whose split is a sequence of items.

    Args:
        name, title, splits, options, takes_annotations: See `Benchmark`.
        read_items: Read the items of `source.split`, all of them.
        make_task: Return the task; called with name, split, options and items.
        default_split: The split where none is named.
        keep: What `--limit` keeps of the items.
    """

    def read(source: Source, chosen: OptionsT) -> AnyTask:
        source = source.in_split(default_split(chosen))
        return make_task(name, str(source.split), chosen, keep(read_items(source, chosen), source.limit))

    def make(split: str, chosen: OptionsT) -> AnyTask:
        return make_task(name, split, chosen, ())

    return Benchmark(name, title, splits, options, read, make, takes_annotations=takes_annotations)
