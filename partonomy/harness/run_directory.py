"""The output folder of an evaluation: config.json, records.jsonl (append-only until finished), summary.json.

Several ranks append to `records.rank<r>-of-<n>.jsonl` each; whoever completes the set merges them. A line that a killed
process left half-written is dropped on resume; any other damage is an error that names file and line. Each record file
has one writer at a time, held by a lock that ends with its process.
"""

import dataclasses
import errno
import fcntl
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from partonomy.benchmarks.partonomy.records import Record, iterate_records, read_records, record_to_line
from partonomy.benchmarks.partonomy.steps import VERSION, ChoiceProtocol
from partonomy.files import write_text_atomically
from partonomy.harness.ranks import Rank
from partonomy.harness.stored_records import StoredRecords, join_records

CONFIG_FILE = "config.json"
RECORDS_FILE = "records.jsonl"
SUMMARY_FILE = "summary.json"
MODEL_FILE = "model.json"
MERGE_FILE = "merged_from.json"
SHARD_PATTERN = "records.rank*-of-*.jsonl"
_FREE_TO_CHANGE = frozenset(
    {
        "questions",
        "output",
        "checkpoint",
        "training_metrics",
        "text_matching",
        "text_threshold",
        "api_key_env",
        "answer_cache",
        "num_trained_on",
        "sam_cache",
    }
)
"""Config keys that may differ on resume: questions and checkpoint are compared by content hash instead of by path, the
training's metrics are only drawn in the report, embedding matching reads finished records, and neither where an
endpoint's key and its cached answers are, nor the count of images trained on, nor kept embeddings change them."""
_FREE_TO_MERGE = _FREE_TO_CHANGE - {"text_matching", "text_threshold"} | {"shard"}
"""Config keys that may differ between runs that are merged."""

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What network file systems without locks answer; records are written there all the same."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What determines the numbers of a run; a resumed run must have the same.

    Attributes:
        checkpoint_hash: Tells weights apart that were written to the same folder one after the other.
        text_matching: Embedding model of the additional text metrics; None without them.
        text_threshold: Least cosine of part names that match there.
        shard: The part of the images that is asked, e.g. "2/8"; None for all.
        choice_protocol: Whether each answer is scored alone or all are shown at once.
        endpoint, model_name, image_format, request_options: Of a chat endpoint: its address, the model it is asked
            for, how images are sent, and the JSON settings of every request.
        api_key_env: Name of the environment variable with the endpoint's key; the key itself is recorded nowhere.
        answer_cache: Folder of the endpoint's answers.
        segmenter: "package.module:Class" of an open-vocabulary segmenter.
        num_trained_on: How many of the question set's photographs the model was trained on; None: unknown.
        sam_cache: Folder of SAM's embeddings of images, read and filled.
    """

    model: str
    checkpoint: str | None
    questions: str
    questions_hash: str
    output: str
    question_types: tuple[str, ...]
    limit: int | None
    generate: tuple[str, ...]
    part_whole: str
    seed: int
    device: str
    training_metrics: tuple[str, ...] = ()
    protocol_version: str = VERSION
    checkpoint_hash: str | None = None
    text_matching: str | None = None
    text_threshold: float | None = None
    shard: str | None = None
    choice_protocol: str = ChoiceProtocol.LIKELIHOOD.value
    endpoint: str | None = None
    model_name: str | None = None
    image_format: str | None = None
    request_options: str | None = None
    api_key_env: str | None = None
    answer_cache: str | None = None
    segmenter: str | None = None
    num_trained_on: int | None = None
    sam_cache: str | None = None


def open_run(output: Path, config: EvaluationConfig, resume: bool, rank: Rank) -> None:
    """Prepare the folder, or refuse.

    Raises:
        FileExistsError: The folder holds results and `resume` is off.
        ValueError: The folder's run has another configuration; names the differing keys.
    """
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        _refuse_existing(output, rank)
    content = config_to_json(config)
    path = output / CONFIG_FILE
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        before = _with_defaults(old)
        differing = [
            f"{key} (was {before.get(key)!r}, now {content.get(key)!r})"
            for key in _differing_keys(before, content, _FREE_TO_CHANGE)
        ]
        has_records = any(record_files(output))
        if differing and (resume and has_records or rank.world_size > 1):
            raise ValueError(
                f"{path} is of a run with other settings: {', '.join(differing)}. Use the same settings, or another "
                "--output for a new run"
            )
        if old == content:
            return
    write_config(output, config)


def config_to_json(config: EvaluationConfig) -> dict[str, Any]:
    """What `config.json` holds."""
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return content


def write_config(output: Path, config: EvaluationConfig) -> None:
    """Write `config.json`."""
    write_text_atomically(output / CONFIG_FILE, json.dumps(config_to_json(config), indent=2) + "\n")


def read_config(output: Path) -> EvaluationConfig:
    """Read `config.json`.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: The file is not the configuration of an evaluation.
    """
    path = output / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is {output} the output folder of validate_partonomy.py?")
    content = json.loads(path.read_text(encoding="utf-8"))
    fields = {entry.name: entry for entry in dataclasses.fields(EvaluationConfig)}
    needed = {name for name, entry in fields.items() if entry.default is dataclasses.MISSING}
    if not isinstance(content, dict) or not needed <= set(content) <= set(fields):
        raise ValueError(f"{path} is not the configuration of an evaluation by this version of the code")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return EvaluationConfig(**values)


def check_mergeable(configs: Mapping[Path, EvaluationConfig]) -> None:
    """Refuse runs whose records were made, or would be counted, under different settings.

    Raises:
        ValueError: Names the keys that differ and the runs.
    """
    (first_path, first), *others = configs.items()
    reference = config_to_json(first)
    for path, config in others:
        content = config_to_json(config)
        differing = [
            f"{key} ({reference[key]!r}, {content[key]!r})"
            for key in _differing_keys(reference, content, _FREE_TO_MERGE)
        ]
        if differing:
            raise ValueError(f"{first_path} and {path} are runs with different settings: {', '.join(differing)}")


def record_path(output: Path, rank: Rank) -> Path:
    """Where a rank appends its records."""
    name = RECORDS_FILE if rank.world_size == 1 else f"records.rank{rank.index}-of-{rank.world_size}.jsonl"
    return output / name


def record_files(output: Path) -> tuple[Path, ...]:
    """Every file of the folder that may hold records."""
    merged = output / RECORDS_FILE
    return (*([merged] if merged.is_file() else []), *sorted(output.glob(SHARD_PATTERN)))


def read_all_records(output: Path) -> dict[str, Record]:
    """All records of the folder by question id."""
    return {record.question_id: record for path in record_files(output) for record in read_records(path)}


def answered_ids(output: Path) -> frozenset[str]:
    """Ids of the questions that have a record in the folder."""
    return frozenset(record.question_id for path in record_files(output) for record, _ in iterate_records(path))


def merge_records(output: Path, question_ids: Sequence[str]) -> StoredRecords | None:
    """Write `records.jsonl` in the order of the questions, if every question has its record; else return None.

    Idempotent and atomic, so that several ranks that finish together may all do it.

    Raises:
        ValueError: The folder holds records of other questions.
    """
    merged = output / RECORDS_FILE
    if join_records(record_files(output), question_ids, merged):
        return None
    return StoredRecords(merged)


def write_records(output: Path, records: Sequence[Record]) -> None:
    """Write `records.jsonl` in one step."""
    write_text_atomically(output / RECORDS_FILE, "".join(record_to_line(record) + "\n" for record in records))


def remove_shards(output: Path) -> None:
    """Delete the ranks' files after their merge, when no rank is running any more."""
    for path in sorted(output.glob(SHARD_PATTERN)):
        path.unlink()


class RecordWriter:
    """Appends records, one line each, flushed at once.

    Raises:
        BlockingIOError: Another process is writing the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                self._file.close()
                raise BlockingIOError(
                    f"{path} is being written by another process, perhaps a worker of a run that was killed; wait "
                    "until it has ended, or end it"
                ) from error
        _drop_partial_line(path)

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(record_to_line(record) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _refuse_existing(output: Path, rank: Rank) -> None:
    # With several ranks the others may have started already: their files of this world size are no obstacle.
    others = {record_path(output, Rank(index, rank.world_size)) for index in range(rank.world_size)}
    others.discard(record_path(output, rank))
    if (output / SUMMARY_FILE).is_file():
        raise FileExistsError(
            f"{output} holds finished results. Choose another --output, or pass --resume to read them again"
        )
    for path in record_files(output):
        if path not in others:
            raise FileExistsError(
                f"{path} holds records of an unfinished run. Pass --resume to continue it, or choose another --output"
            )


def _differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], free: frozenset[str]) -> list[str]:
    return [key for key in sorted((set(old) | set(new)) - free) if old.get(key) != new.get(key)]


def _with_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the keys that the version of the code that wrote it did not have yet, at their defaults."""
    fields = [entry for entry in dataclasses.fields(EvaluationConfig) if entry.default is not dataclasses.MISSING]
    return {entry.name: entry.default for entry in fields} | dict(content)


def _drop_partial_line(path: Path) -> None:
    """Cut a last line that was not written to its end."""
    if not path.is_file():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with path.open("r+b") as file:
            file.truncate(complete)
