"""The output folder of a run: config.json, records.jsonl (append-only until finished), model.json, summary.json.

With several ranks, each appends to its own `records.rank<r>-of-<n>.jsonl`; the last rank to end joins the files.
Folders by earlier versions of the code are read; their settings and records are converted to the current format.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from partonomy.benchmarks.registry import find_benchmark
from partonomy.benchmarks.task import AnyTask, Benchmark, Source, Status
from partonomy.files import parse_json, remove_remains, write_text_atomically
from partonomy.harness.ranks import RANKS_FILE, Rank
from partonomy.harness.records import RecordCodec, StoredRecords, join_records
from partonomy.locks import lock_folder, require_unlocked
from partonomy.models.registry import ModelSettings

CONFIG_FILE = "config.json"
RECORDS_FILE = "records.jsonl"
SUMMARY_FILE = "summary.json"
MODEL_FILE = "model.json"
MERGE_FILE = "merged_from.json"
RANK_FILES = "records.rank*-of-*.jsonl"
_OWN_FILES = (CONFIG_FILE, RECORDS_FILE, SUMMARY_FILE, MODEL_FILE, MERGE_FILE, RANKS_FILE)
SECONDS_TO_END = 10.0
"""How long to wait for the workers of a killed run, which end after the image that they are asked about."""
SECONDS_TO_START = 600.0
"""How long a launcher's ranks wait for the first one, which may read its data from a slower disk."""
SECONDS_PER_LOOK = 0.2
SCHEMA = 2
"""Version of config.json, records.jsonl and summary.json; version 1 had a separate format for Partonomy."""

_UNKNOWN = "unknown"
"""The device in runs of earlier code, which did not record it."""


@dataclass(frozen=True)
class ImportedFile:
    """A file of predictions that another program made, and its SHA-256."""

    path: str
    sha256: str


@dataclass(frozen=True)
class ImportedPredictions:
    """Where the answers of an imported run come from.

    Attributes:
        files: The files that were read.
        protocol: How the predictions were made, in the user's words; may be empty.
        shares_mask: Whether all phrases of an answer share one mask, so that tables compare it with the union.
    """

    files: tuple[ImportedFile, ...]
    protocol: str = ""
    shares_mask: bool = False


@dataclass(frozen=True)
class RunConfig:
    """The settings that determine the numbers of a run; a resumed run must have the same ones.

    Attributes:
        benchmark: Name of the benchmark.
        split: Part of the benchmark.
        root: Location of the data.
        annotations: A file that replaces the split's own; None for the split's own.
        options: The benchmark's own settings.
        protocol: How items are asked and scored, in words.
        protocol_version: See `Task.VERSION`.
        content_hash: Hash of all questions and their truth, in all shards.
        model: The model and its settings.
        checkpoint_hash: Hash of the checkpoint; distinguishes weights written to the same folder at different times.
        output: The run's folder.
        limit: Maximum number of items; None for all.
        shard: The part of the images to ask, e.g. "2/8"; None for all.
        seed: Seed of the bootstrap and of `--model random`.
        num_trained_on: Number of the benchmark's photographs that the model was trained on; None if unknown.
        imported: Where imported answers come from; None if a model of this code has answered.
    """

    FREE_TO_RESUME: ClassVar[frozenset[str]] = frozenset({"root", "annotations", "output", "num_trained_on", "schema"})
    """Settings that may differ when a run is resumed: data are compared by content hash instead of by path."""
    FREE_TO_MERGE: ClassVar[frozenset[str]] = FREE_TO_RESUME | {"shard"}
    """Settings that may differ between merged runs."""

    benchmark: str
    split: str
    root: str
    options: Mapping[str, Any]
    protocol: str
    protocol_version: str
    content_hash: str
    model: ModelSettings
    output: str
    annotations: str | None = None
    checkpoint_hash: str | None = None
    limit: int | None = None
    shard: str | None = None
    seed: int = 0
    num_trained_on: int | None = None
    schema: int = SCHEMA
    imported: ImportedPredictions | None = None

    @property
    def registered(self) -> Benchmark:
        """The benchmark."""
        return find_benchmark(self.benchmark)

    def load_task(self, root: Path | None = None) -> AnyTask:
        """Read the items of all shards.

        Args:
            root: Location of the data; None for the one in the configuration.

        Raises:
            FileNotFoundError, ValueError: Files are missing or broken.
        """
        annotations = None if self.annotations is None else Path(self.annotations)
        source = Source(root or Path(self.root), self.split or None, annotations, self.limit, self.seed)
        return self.registered.read(source, self.read_options())

    def empty_task(self) -> AnyTask:
        """Return the task without its items: its protocol and its metrics."""
        return self.registered.make(self.split, self.read_options())

    def read_options(self) -> Any:
        """The benchmark's options as its dataclass.

        Raises:
            ValueError: They are not its options.
        """
        known = {entry.name for entry in dataclasses.fields(self.registered.options)}
        if unknown := sorted(set(self.options) - known):
            raise ValueError(f"{self.benchmark} has no option {', '.join(unknown)}")
        options = {**self.registered.earlier_options, **self.options}
        return _validate(TypeAdapter(self.registered.options), options, f"options of {self.benchmark}")


_ADAPTER = TypeAdapter(RunConfig)


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """Return the content of `config.json`."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    if config.imported is None:  # as in earlier versions
        del content["imported"]
    return content


def write_config(output: Path, config: RunConfig) -> None:
    """Write `config.json`."""
    write_text_atomically(output / CONFIG_FILE, json.dumps(config_to_json(config), indent=2) + "\n")


def read_config(output: Path) -> RunConfig:
    """Read `config.json`.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: The file is not the configuration of a run.
    """
    path = output / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is {output} the output folder of a benchmark run?")
    content = parse_json(path.read_bytes(), f"{path}: not valid JSON")
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not the configuration of a benchmark run")
    what = f"{path} is not the configuration of a benchmark run"
    try:
        upgraded = upgrade_config(content, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{what} ({type(error).__name__}: {error})") from error
    config: RunConfig = _validate(_ADAPTER, upgraded, what)
    try:
        config.read_options()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def parse_config(content: Mapping[str, Any], where: Path) -> RunConfig:
    """Read settings that a file other than `config.json` records.

    Args:
        content: Settings in the current format; see `upgrade_config`.
        where: The file, for messages.

    Raises:
        ValueError: They are not the configuration of a run.
    """
    config: RunConfig = _validate(_ADAPTER, content, f"{where} does not contain the configuration of a benchmark run")
    try:
        config.read_options()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return config


def upgrade_config(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Convert the settings of a run by an earlier version to the current format.

    Raises:
        ValueError: The settings were written by a later version.
    """
    schema = content.get("schema", 1)
    if schema == SCHEMA:
        return content
    if schema != 1:
        raise ValueError(f"{path}: written by a later version of this code (schema {schema}); update the code")
    return _upgrade_item_config(content) if "settings" in content else _upgrade_question_config(content)


def _upgrade_question_config(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert the settings of validate_partonomy.py, from before all benchmarks shared one format."""
    settings = [entry.name for entry in dataclasses.fields(ModelSettings)]
    matching = content.get("text_matching")
    options = {
        "question_types": ",".join(content.get("question_types", ())),
        "generate": ",".join(content.get("generate", ())) or "none",
        "part_whole": content.get("part_whole"),
        "choice_protocol": content.get("choice_protocol", "likelihood"),
        "training_metrics": ",".join(content.get("training_metrics", ())),
    }
    if matching is not None:
        options |= {"text_matching": matching, "text_threshold": content.get("text_threshold")}
    return {
        "benchmark": "partonomy",
        "split": "",
        "root": content.get("questions"),
        "options": options,
        "protocol": f"{options['choice_protocol']}, {options['part_whole']} first answers",
        "protocol_version": content.get("protocol_version"),
        "content_hash": content.get("questions_hash"),
        "model": {name: content[name] for name in settings if name in content},
        "schema": SCHEMA,
        **{
            name: content[name]
            for name in ("output", "checkpoint_hash", "limit", "shard", "seed", "num_trained_on")
            if name in content
        },
    }


def _upgrade_item_config(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert the settings of `plum validate`, from before all benchmarks shared one format."""
    settings = content["settings"]
    options = {name: settings[name] for name in ("mode", "wording") if settings.get(name) is not None}
    if settings.get("vqa_protocol") is not None:
        options["protocol"] = settings["vqa_protocol"]
    if settings.get("with_ocr") is False:
        options["no_ocr"] = True
    benchmark = find_benchmark(settings["benchmark"])
    return {
        "benchmark": benchmark.name,
        "split": settings["split"],
        "root": content["root"],
        "annotations": settings.get("annotations"),
        "options": options,
        "protocol": content["protocol"],
        # These folders do not name a version: all of them were written under the first.
        "protocol_version": _first_version(benchmark.make(settings["split"], benchmark.options()).VERSION),
        "content_hash": content["content_hash"],
        "model": {
            "model": "plum",
            "checkpoint": content["checkpoint"],
            "base": content["is_base"],
            "device": _UNKNOWN,
        },
        "output": "",
        "checkpoint_hash": content["checkpoint_hash"],
        "limit": settings.get("limit"),
        "shard": content.get("shard"),
        "seed": content.get("seed", 0),
        "num_trained_on": content.get("num_trained_on"),
        "schema": SCHEMA,
    }


def _first_version(version: str) -> str:
    return f"{version.rpartition('-')[0]}-1.0"


def differing_settings(old: RunConfig, new: RunConfig, *, may_merge: bool = False) -> list[str]:
    """Describe the settings in which two configurations differ.

    Args:
        old: The first configuration.
        new: The second configuration.
        may_merge: Whether the runs are to be merged rather than one resumed.
    """
    free: set[str] = set()
    for prefix, settings in (("", RunConfig), ("model.", ModelSettings), ("options.", new.registered.options)):
        names: frozenset[str] = settings.FREE_TO_MERGE if may_merge else settings.FREE_TO_RESUME
        free |= {f"{prefix}{name}" for name in names}
    if not new.registered.has_splits:
        free |= {"split"}  # only a name; the content hash distinguishes the data
    before, after = dict(_flat(old)), dict(_flat(new))
    if may_merge:  # the shards of an imported run may be in files of their own
        free |= {"imported.files"}
    free |= {key for key, value in before.items() if value == _UNKNOWN and key == "model.device"}
    keys = sorted((set(before) | set(after)) - free)
    return [
        f"{key} (was {before.get(key)!r}, now {after.get(key)!r})" for key in keys if before.get(key) != after.get(key)
    ]


def _flat(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Generate settings by dotted name; options that a configuration does not name have their defaults."""
    content = config_to_json(dataclasses.replace(config, options=asdict(config.read_options())))
    del content["model"]["segmenter_options"]
    for name, value in config.model.compared_segmenter_options().items():
        yield f"model.segmenter_options.{name}", value
    for key, value in content.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


@contextmanager
def hold_run(output: Path, rank: Rank) -> Iterator[None]:
    """Hold a run's folder: one process, with its workers, or the ranks of one launcher write there.

    The first of a launcher's ranks holds the folder for all of them; each rank also holds its own record file
    (`RecordWriter`). Temporary files of killed writers are deleted when a process has the folder to itself.

    Args:
        output: The folder, created if missing.
        rank: This process among those of a launcher.

    Raises:
        BlockingIOError: Another run writes to the folder, or a process of a killed run still does.
    """
    if rank.index > 0:
        output.mkdir(parents=True, exist_ok=True)
        yield
        return
    with lock_folder(output, is_shared=True):
        if rank.world_size == 1:
            for lock in sorted(output.glob(".records*.jsonl.lock")):
                path = output / lock.name.removeprefix(".").removesuffix(".lock")
                refusal = (
                    f"{path} is being written by another process, a rank of another run or of one that was killed; "
                    "wait until it has ended, or end it"
                )
                require_unlocked(path, refusal, SECONDS_TO_END)
            remove_remains(output)
        yield


def remove_run(output: Path) -> None:
    """Delete what a run has written to its folder, except cached answers of endpoints."""
    for path in (*(output / name for name in _OWN_FILES), *sorted(output.glob(RANK_FILES))):
        path.unlink(missing_ok=True)


def open_run(output: Path, config: RunConfig, rank: Rank, *, resume: bool, overwrite: bool = False) -> None:
    """Prepare the folder of a new or resumed run, which `hold_run` holds.

    A folder whose run ended before its first record is taken over, whatever its settings.

    Args:
        output: The folder.
        config: The run's settings.
        rank: This process among those of a launcher.
        resume: Whether to continue the run that is there.
        overwrite: Whether to delete the run that is there and start anew.

    Raises:
        FileExistsError: The folder holds results, and `resume` and `overwrite` are off.
        ValueError: The folder's run has another configuration; the message names the differing settings.
    """
    if overwrite:
        remove_run(output)
    elif not resume:
        _refuse_existing(output, rank)
    path = output / CONFIG_FILE
    if path.is_file():
        has_records = any(record_files(output))
        old = _read_old(output, has_records)
        if old is None:
            write_config(output, config)
            return
        differing = differing_settings(old, config)
        if differing and has_records and (resume or rank.world_size > 1):
            if len(differing) == 1 and old.protocol_version != config.protocol_version:
                raise ValueError(
                    f"{path} belongs to a run under {old.protocol_version}; this version of the code counts by "
                    f"{config.protocol_version}, and the two do not mix. tables, compare and report still read that "
                    "run; use another --output for a new one"
                )
            raise ValueError(
                f"{path} belongs to a run with different settings: {', '.join(differing)}. Use the same settings, or "
                "choose another --output"
            )
        if differing and rank.index > 0:
            _wait_for_config(output, config)
            return
        if old == config:
            return
    write_config(output, config)


def _read_old(output: Path, has_records: bool) -> RunConfig | None:
    """Read the configuration in the folder; None if it is damaged and nothing has been recorded under it."""
    try:
        return read_config(output)
    except ValueError:
        if has_records:
            raise
        return None


def _wait_for_config(output: Path, config: RunConfig) -> None:
    """Wait until the first rank, which holds the folder, has replaced the settings of a run without records."""
    end = time.monotonic() + SECONDS_TO_START
    while differing := differing_settings(read_config(output), config):
        if time.monotonic() > end:
            raise ValueError(
                f"{output / CONFIG_FILE} belongs to a run with different settings ({', '.join(differing)}), and the "
                "first rank has not replaced them; choose another --output"
            )
        time.sleep(SECONDS_PER_LOOK)


def record_path(output: Path, rank: Rank) -> Path:
    """Return the file that a rank appends its records to."""
    name = RECORDS_FILE if rank.world_size == 1 else f"records.rank{rank.index}-of-{rank.world_size}.jsonl"
    return output / name


def record_files(output: Path) -> tuple[Path, ...]:
    """Return the folder's record files that are not empty; a run whose model could not be built leaves an empty one."""
    paths = (output / RECORDS_FILE, *sorted(output.glob(RANK_FILES)))
    return tuple(path for path in paths if path.is_file() and path.stat().st_size)


def codec_of(task: AnyTask) -> RecordCodec[Any]:
    """Return the codec of a task's records."""
    return RecordCodec(task.RECORD)


@dataclass(frozen=True)
class Answered:
    """The items that have a record: `done` keep it, and `failed`, with their reasons, are asked again."""

    done: frozenset[str]
    failed: Mapping[str, str]


def read_answered(output: Path, codec: RecordCodec[Any]) -> Answered:
    """Return the items that have a record in the folder."""
    done: set[str] = set()
    failed: dict[str, str] = {}
    for path in record_files(output):
        for record, _ in codec.iterate(path):
            if record.status is Status.FAILED:
                failed[record.item_id] = record.reason
            else:
                done.add(record.item_id)
    return Answered(frozenset(done), {name: reason for name, reason in failed.items() if name not in done})


def merge_records(output: Path, item_ids: Sequence[str], codec: RecordCodec[Any]) -> StoredRecords[Any] | None:
    """Write `records.jsonl` in item order if every item has its record; otherwise return None.

    Idempotent and atomic, so that several ranks that finish together may all call it.

    Raises:
        ValueError: The folder holds records of other items.
    """
    merged = output / RECORDS_FILE
    if join_records(record_files(output), item_ids, merged, codec):
        return None
    return StoredRecords(merged, codec)


def remove_rank_files(output: Path) -> None:
    """Delete the ranks' files after their merge, when no rank is running."""
    for path in sorted(output.glob(RANK_FILES)):
        path.unlink()


def _refuse_existing(output: Path, rank: Rank) -> None:
    # Other ranks may have started already; their files of this world size are no obstacle.
    others = {record_path(output, Rank(index, rank.world_size)) for index in range(rank.world_size)}
    others.discard(record_path(output, rank))
    if (output / SUMMARY_FILE).is_file():
        raise FileExistsError(
            f"{output} holds finished results. Choose another --output, pass --resume to read them again and to ask "
            "failed items again, or --overwrite to start anew"
        )
    for path in record_files(output):
        if path not in others:
            raise FileExistsError(
                f"{path} holds records of an unfinished run. Pass --resume to continue it, --overwrite to start anew, "
                "or choose another --output"
            )


def _validate(adapter: TypeAdapter[Any], content: object, what: str) -> Any:
    try:
        return adapter.validate_json(json.dumps(content, default=_enum_value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        raise ValueError(f"{what} ({place}: {first['msg']})") from error


def _enum_value(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    raise TypeError(f"{value!r} is not a JSON value")
