"""A finished run of any benchmark, loaded for tables, comparisons, pages and exports."""

import dataclasses
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

from partonomy.benchmarks.task import AnyTask, ChangedRecords, RecordT
from partonomy.harness.records import StoredRecords
from partonomy.harness.run_folder import RECORDS_FILE, SUMMARY_FILE, RunConfig, codec_of, parse_config
from partonomy.harness.summary import Summary, read_summary


class DataChangedError(ValueError):
    """The data have changed since the run."""


@dataclass(frozen=True)
class LoadedRun(Generic[RecordT]):
    """Summary and records of one run.

    Attributes:
        name: Label that identifies it in a table.
        path: Folder of the run.
        summary: Content of `summary.json`.
        config: Settings of the run.
        records: One per item, in order; read from the file on each access.
    """

    name: str
    path: Path
    summary: Summary
    config: RunConfig
    records: Sequence[RecordT]

    @cached_property
    def task(self) -> AnyTask:
        """The task without its items.

        Options that affect only how finished records are counted have their defaults, so that two runs are counted in
        the same way.
        """
        options = self.config.read_options()
        fields = dataclasses.fields(options)
        defaults = {entry.name: entry.default for entry in fields if entry.name in options.FREE_TO_RESUME}
        return self.config.registered.make(self.summary.split, dataclasses.replace(options, **defaults))

    @property
    def dataset_hash(self) -> str:
        """Content hash of the questions and their truth."""
        return str(self.summary.provenance["dataset"]["content_hash"])

    @property
    def dataset_name(self) -> str:
        """Name of the data."""
        return str(self.summary.provenance["dataset"]["name"])

    def of_group(self, group: str) -> Sequence[RecordT]:
        """Return the records of one group, such as a question type; read from the file on each access."""
        return ChangedRecords(self.records, places=self._places.get(group, ()))

    def load_task(self) -> AnyTask:
        """Read the run's items from their original location.

        Raises:
            DataChangedError: The items have changed since the run.
            OSError, ValueError: The items can no longer be read.
        """
        task = self.config.load_task()
        if task.content_hash() != self.dataset_hash:
            raise DataChangedError(f"{self.config.root} has changed since the run {self.path}; run the benchmark again")
        return task

    @cached_property
    def _places(self) -> Mapping[str, Sequence[int]]:
        places: dict[str, array[int]] = {}
        for place, record in enumerate(self.records):
            places.setdefault(record.group, array("q")).append(place)
        return places


AnyRun = LoadedRun[Any]


def load_run(path: Path) -> AnyRun:
    """Read a run's folder and check every record once.

    Raises:
        FileNotFoundError: The folder has no summary or no records.
        ValueError: A file or a record is damaged.
    """
    summary = read_summary(path / SUMMARY_FILE)
    config = parse_config(summary.config, path / SUMMARY_FILE)
    file = path / RECORDS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; run the benchmark again with --resume to restore it")
    codec = codec_of(config.empty_task())
    num_records = sum(1 for _ in codec.iterate(file))
    if num_records != summary.num_expected:
        raise ValueError(
            f"{file} has {num_records} complete records but {SUMMARY_FILE} counts {summary.num_expected}; run the "
            "benchmark again with --resume to restore it"
        )
    records = StoredRecords(file, codec)
    if summary.protocol_version != config.empty_task().VERSION:
        # A summary by an earlier version lacks what is now said of the records, such as how their ties count.
        notes = (*summary.notes, *config.empty_task().notes(records))
        summary = dataclasses.replace(summary, notes=tuple(dict.fromkeys(notes)))
    return LoadedRun(_run_name(path, summary), path, summary, config, records)


def check_same_items(first: AnyRun, second: AnyRun) -> None:
    """Check that two runs are comparable.

    Raises:
        ValueError: The runs have different benchmarks or were asked different items.
    """
    names = [f"{run.summary.benchmark} {run.summary.split}".strip() for run in (first, second)]
    if first.summary.benchmark != second.summary.benchmark:
        raise ValueError(f"the runs are not comparable: {first.path} is on {names[0]}, {second.path} is on {names[1]}")
    if first.dataset_hash != second.dataset_hash:
        raise ValueError(
            f"the runs cover different {first.task.WORDS.items}: {first.path} those of {first.dataset_name} "
            f"({first.dataset_hash[:12]}), {second.path} those of {second.dataset_name} ({second.dataset_hash[:12]})"
        )


def _run_name(path: Path, summary: Summary) -> str:
    """Return model and folder, e.g. "plum (validation)", or one name if they are equal."""
    if summary.is_imported:
        return f"{summary.model_label} ({path.resolve().name})"
    model, folder = summary.config["model"]["model"], path.resolve().name
    return model if model == folder else f"{model} ({folder})"
