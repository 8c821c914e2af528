"""Writes a built question set as a Hugging Face data set (Parquet files with embedded images), and reads it back.

The folder has `README.md` (the card, whose metadata name configurations and splits), `CONFIGURATION/SPLIT-*.parquet`
(see `partonomy.datasets.hub_tables`) and a description, which holds `dataset.json` and `build.json` of the question
set. `datasets.load_dataset(FOLDER)` reads it without this package. The questions, annotations and images that are read
back are byte-identical: their hashes and sizes are those in `build.json`.

Only pyarrow is needed. Images pass through memory a row group at a time. Parquet's dictionary encoding stores an image
once per row group, however many of its questions follow each other.
"""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import yaml

from partonomy.datasets.annotation_file import write_annotations
from partonomy.datasets.hub_tables import (
    ANNOTATIONS,
    COLUMNS,
    CONFIGURATIONS,
    IMAGE,
    IMAGE_BYTES,
    OTHER_IMAGES,
    QUESTIONS,
    AnnotationTable,
    annotation_rows,
    arrow_schema,
    column_table,
    image_cell,
    missing_columns,
    question_line,
    question_row,
)
from partonomy.datasets.kept_values import KEPT_FILE
from partonomy.datasets.question_file import ENCODER, question_to_line
from partonomy.datasets.seal import (
    ANNOTATIONS_FILE,
    BUILD_FILE,
    DATASET_FILE,
    IMAGES_KEY,
    QUESTIONS_FILE,
    SEAL_KEY,
    describe_files,
    list_changes,
    require_unchanged,
)
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.files import (
    RECORD_ERRORS,
    check_relative_path,
    files_below,
    hash_files,
    read_json,
    reason_of,
    require_readable,
    write_json,
)
from partonomy.hub import require_pyarrow
from partonomy.locks import new_folder
from partonomy.progress import Progress, counted, progress
from partonomy.structures import AnnotatedImage, PartDataset, QuestionSet, QuestionType

T = TypeVar("T")

FORMAT, FORMAT_VERSION = "partonomy-hub-dataset", 1
DESCRIPTION_FILE = "partonomy.json"
CARD_FILE = "README.md"
FILE_PATTERNS = (DESCRIPTION_FILE, CARD_FILE, KEPT_FILE, *(f"{name}/*.parquet" for name in CONFIGURATIONS))
"""The files of such a data set, for a download."""
DEFAULT_SPLIT = "test"
SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
"""A split's name, as `datasets` allows it."""
IMAGE_FOLDER = "images"
"""Folder of the images in a question set whose own images lay outside of it."""
MEGABYTE = 1_000_000
DEFAULT_SHARD_MEGABYTES = 400
GROUP_BYTES, LARGEST_GROUP_BYTES = 32 * MEGABYTE, 128 * MEGABYTE
"""Bytes of the images of a row group, each counted for every row. A group that has reached the first size ends with its
image, and none grows beyond the second: this bounds the memory."""
GROUP_ROWS = 1000
GROUP_OVERHEAD_BYTES = 10_000
"""Upper bound of what a row group takes in a file besides its values: page headers, and its columns in the footer."""
READ_ROWS = 4
"""Rows that are read at a time, each with its image."""
PUSH_COMMAND, PULL_COMMAND = "partonomy push-dataset", "partonomy pull-dataset"
TASKS = ("visual-question-answering", "multiple-choice", "image-segmentation")
TAGS = ("partonomy", "part-segmentation")
_SIZE_CLASSES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_LARGEST_CLASS = "n>10M"


@dataclass(frozen=True)
class CardRequest:
    """What the person who publishes a question set says about it.

    Attributes:
        licence: the Hub's name of the licence of the images and annotations, such as "cc-by-4.0".
        title: title of the card; None for the name of the question set.
        split: name of the split; None for "test".
        name: `organisation/name` on the Hub, which the card's examples use; None if it is not known.
    """

    licence: str
    title: str | None = None
    split: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class HubCounts:
    """What was written or read."""

    num_questions: int
    num_images: int
    num_files: int


def write_hub_dataset(
    folder: Path, output: Path, request: CardRequest, shard_megabytes: int = DEFAULT_SHARD_MEGABYTES
) -> HubCounts:
    """Write a built question set as a Hugging Face data set.

    Args:
        folder: the question set.
        output: folder to write; it must not exist, or be empty. It appears complete or not at all.
        request: licence, title and split.
        shard_megabytes: largest size of a Parquet file in 10^6 bytes. A row group is never divided, so that a file that
            holds a single one may be larger.

    Raises:
        FileExistsError: the output holds files.
        FileNotFoundError: the question set or an image is missing; the message names the file.
        ValueError: pyarrow is missing, the split's name is not allowed, or the question set is broken, empty,
            unfinished, was changed since it was built, or was not written by this program.
    """
    require_pyarrow(PUSH_COMMAND)
    if shard_megabytes < 1:
        raise ValueError(f"a Parquet file needs at least one megabyte, got {shard_megabytes}")
    split = _require_split(DEFAULT_SPLIT if request.split is None else request.split)
    questions, dataset = load_questions(folder), load_dataset(folder)
    build = _read_build(folder)
    if not questions.questions:
        raise ValueError(f"{folder / QUESTIONS_FILE}: holds no question; there is nothing to publish")
    require_unchanged(folder, IMAGES_KEY)
    with new_folder(output, "choose a new folder; a data set is never overwritten", accept_empty=True) as partial:
        _require_own_form(folder, questions, dataset, partial / ANNOTATIONS_FILE)
        writer = _TableWriter(partial, split, shard_megabytes * MEGABYTE)
        asked: set[int] = set()
        with progress(len(dataset.images), output.name, "image") as shown:
            writer.write(QUESTIONS, _question_rows(questions, dataset, asked, shown))
            others = [image for image in dataset.images if image.image_id not in asked]
            writer.write(OTHER_IMAGES, _other_rows(counted(others, shown), dataset.image_root))
        rows = ((image.image_id, row) for image in dataset.images for row in annotation_rows(image))
        writer.write(ANNOTATIONS, rows)
        if (folder / KEPT_FILE).is_file():
            shutil.copyfile(folder / KEPT_FILE, partial / KEPT_FILE)
        write_json(partial / DESCRIPTION_FILE, _describe(folder, build, split), indent=2)
        card = hub_card(questions, request, split, writer.files, len(dataset.images))
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
    return HubCounts(len(questions.questions), len(dataset.images), sum(writer.files.values()))


def read_hub_dataset(source: Path, output: Path, name: str = "") -> HubCounts:
    """Write the question set that `write_hub_dataset` has made a Hugging Face data set of.

    Args:
        source: folder of the Hugging Face data set.
        output: folder of the question set; it must not exist, or be empty. It appears complete or not at all.
        name: the data set's name on the Hub, for messages; empty for a folder.

    Raises:
        FileExistsError: the output holds files.
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: pyarrow is missing, the folder is not such a data set (the message lists the missing columns), or it
            was changed since it was written.
    """
    require_pyarrow(PULL_COMMAND)
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; name the folder of a data set, or organisation/name")
    files = [path.relative_to(source).as_posix() for path in sorted(files_below(source))]
    require_hub_dataset(name or str(source), files, lambda path: _columns(source / path))
    description = _Description.read(source / DESCRIPTION_FILE)
    tables = {configuration: _find_tables(source, configuration, description.split) for configuration in CONFIGURATIONS}
    with new_folder(output, "choose a new folder; a question set is never overwritten", accept_empty=True) as partial:
        table = AnnotationTable.empty()
        for _ in _read_rows(tables[ANNOTATIONS], ANNOTATIONS, table.add):
            pass
        annotated = table.build()
        image_files = _ImageFiles(partial / description.image_root, annotated)
        write_annotations(annotated, partial / ANNOTATIONS_FILE)
        num_questions = 0
        with progress(len(annotated), output.name, "image") as shown, (partial / QUESTIONS_FILE).open("xb") as file:
            for line, is_new in _read_rows(
                tables[QUESTIONS], QUESTIONS, lambda row: (question_line(row), image_files.write(row))
            ):
                file.write(ENCODER.encode(line) + b"\n")
                shown.update(is_new)
                num_questions += 1
            for is_new in _read_rows(tables[OTHER_IMAGES], OTHER_IMAGES, image_files.write):
                shown.update(is_new)
        image_files.require_all(source)
        write_json(partial / DATASET_FILE, description.dataset, indent=2)
        if (source / KEPT_FILE).is_file():
            shutil.copyfile(source / KEPT_FILE, partial / KEPT_FILE)
        write_json(partial / BUILD_FILE, description.build, indent=2)
        _require_sealed(name or str(source), partial)
    return HubCounts(num_questions, len(annotated), sum(map(len, tables.values())))


def require_hub_dataset(name: str, files: Sequence[str], read_columns: Callable[[str], Sequence[str]]) -> None:
    """Refuse a data set that this program has not written.

    Args:
        name: name or folder of the data set, for the message.
        files: paths of its files.
        read_columns: returns the columns of one of its Parquet files.

    Raises:
        ValueError: its description is missing; the message lists the columns that the data set's first table lacks.
    """
    if DESCRIPTION_FILE in files:
        return
    tables = [path for path in files if path.endswith(".parquet")]
    columns = missing_columns(QUESTIONS, read_columns(tables[0]) if tables else ())
    lack = f"{tables[0]} lacks the columns" if tables else "it holds no Parquet file with the columns"
    reason = f", and {lack} {', '.join(columns)}" if columns else ""
    raise ValueError(
        f"{name}: not a question set that `{PUSH_COMMAND}` has written: {DESCRIPTION_FILE} is missing{reason}; to make "
        "questions from its images and masks, write them as a COCO file and use `partonomy build`"
    )


def hub_card(
    questions: QuestionSet, request: CardRequest, split: str, files: Mapping[str, int], num_images: int
) -> str:
    """Return the card of a data set: metadata that the Hub reads, and a description.

    Args:
        questions: the question set.
        request: licence and title.
        split: name of the split.
        files: configuration -> number of its Parquet files; one that is not there is left out.
        num_images: number of annotated images.
    """
    number, name = len(questions.questions), request.name or "FOLDER_OF_THIS_DATA_SET"
    metadata = {
        "pretty_name": request.title or questions.name,
        "license": request.licence,
        "language": ["en"],
        "task_categories": list(TASKS),
        "tags": list(TAGS),
        "size_categories": [next((name for limit, name in _SIZE_CLASSES if number < limit), _LARGEST_CLASS)],
        "configs": [
            {
                "config_name": configuration,
                "data_files": [{"split": split, "path": f"{configuration}/{split}-*.parquet"}],
            }
            | ({"default": True} if configuration == QUESTIONS else {})
            for configuration in CONFIGURATIONS
            if configuration in files
        ],
    }
    counts = Counter(question.question_type.value for question in questions.questions)
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {request.title or questions.name}",
        "",
        f"{number:,} multiple-choice questions about the visible parts of objects in {num_images:,} images, with the "
        "masks of the parts, in the form of the Partonomy benchmark ([paper](https://arxiv.org/abs/2505.20759)).",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'questions = load_dataset("{name}", "{QUESTIONS}", split="{split}")',
        "```",
        "",
        '`pycocotools.mask.decode(part["mask"])` returns a part\'s mask. To score a model, write the question set back',
        "to a folder:",
        "",
        "```bash",
        f"python -m {PULL_COMMAND} {name} QUESTIONS",
        "python validate_partonomy.py --model random --questions QUESTIONS --output runs/random",
        "```",
        "",
        "| question type | questions |",
        "|---|---|",
        *(f"| {kind.value} | {counts[kind.value]:,} |" for kind in QuestionType if counts[kind.value]),
    ]
    for configuration in files:
        lines += ["", f"## Columns of `{configuration}`", "", *column_table(configuration)]
    return "\n".join(lines) + "\n"


class _TableWriter:
    """Writes tables as Parquet files of a limited size.

    Args:
        folder: the data set.
        split: the split.
        shard_bytes: the limit.
    """

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes
        self.files: dict[str, int] = {}
        """Configuration -> number of its files."""

    def write(self, configuration: str, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Write a table, unless it has no row.

        Args:
            configuration: the table's name.
            rows: the id of the row's image, and the row.
        """
        from pyarrow import Table  # noqa: PLC0415  (optional)
        from pyarrow.parquet import ParquetWriter  # noqa: PLC0415

        schema, paths = arrow_schema(configuration), list[Path]()
        with ExitStack() as stack:
            file: BinaryIO | None = None
            footer = 0
            for group in _row_groups(rows):
                table = Table.from_pylist(group.rows, schema=schema)
                footer += GROUP_OVERHEAD_BYTES
                size = table.nbytes - group.plain_bytes + group.image_bytes
                if file is None or file.tell() + size + footer > self._shard_bytes:
                    stack.close()
                    paths.append(self._folder / configuration / f"{self._split}-{len(paths):05d}.parquet")
                    paths[-1].parent.mkdir(exist_ok=True)
                    file, footer = stack.enter_context(paths[-1].open("xb")), GROUP_OVERHEAD_BYTES
                    # An image that follows itself is stored once, whatever its size.
                    parquet = ParquetWriter(
                        file,
                        schema,
                        compression="zstd",
                        use_dictionary=[IMAGE_BYTES],
                        dictionary_pagesize_limit=2 * LARGEST_GROUP_BYTES,
                    )
                    stack.callback(parquet.close)
                parquet.write_table(table, row_group_size=len(group.rows))
        for number, path in enumerate(paths):
            path.rename(path.with_name(f"{self._split}-{number:05d}-of-{len(paths):05d}.parquet"))
        if paths:
            self.files[configuration] = len(paths)


@dataclass
class _Group:
    """Rows of a row group; `plain_bytes` counts a row's image for each row, `image_bytes` once if rows repeat it."""

    rows: list[Mapping[str, Any]] = field(default_factory=list)
    plain_bytes: int = 0
    image_bytes: int = 0


def _row_groups(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[_Group]:
    """Divide rows into groups that fit into memory, between images if possible."""
    group, last = _Group(), None
    for image_id, row in rows:
        size = len(row[IMAGE]["bytes"]) if IMAGE in row else 0
        is_full = group.plain_bytes >= GROUP_BYTES or len(group.rows) >= GROUP_ROWS
        if group.rows and ((is_full and image_id != last) or group.plain_bytes + size > LARGEST_GROUP_BYTES):
            yield group
            group, last = _Group(), None
        group.rows.append(row)
        group.plain_bytes += size
        group.image_bytes += 0 if image_id == last else size
        last = image_id
    if group.rows:
        yield group


def _question_rows(
    questions: QuestionSet, dataset: PartDataset, asked: set[int], shown: Progress
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Generate the rows of the questions; `asked` receives the ids of their images."""
    names = {image.image_id: image.file_name for image in dataset.images}
    last, cell = None, dict[str, Any]()
    for question in questions.questions:
        number = question.image_id
        if number != last:  # the questions of an image follow each other
            cell, last = _read_image(question.image_path, names[number]), number
            shown.update(0 if number in asked else 1)
            asked.add(number)
        yield number, question_row(question, cell)


def _other_rows(images: Iterable[AnnotatedImage], root: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for image in images:
        cell = _read_image(root / image.file_name, image.file_name)
        yield image.image_id, {IMAGE: cell, "image_id": image.image_id}


def _read_image(path: Path, file_name: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this image is missing; put it back, or build the question set without it")
    return image_cell(file_name, path.read_bytes())


def _read_build(folder: Path) -> dict[str, Any]:
    if not (folder / BUILD_FILE).is_file():
        raise FileNotFoundError(
            f"{folder / BUILD_FILE}: not found, so the question set is unfinished; run the command that builds it again"
        )
    return read_json(folder / BUILD_FILE)


def _require_split(name: str) -> str:
    if SPLIT_NAME.fullmatch(name) is None:
        raise ValueError(f"--split {name}: a split's name consists of letters, digits and underscores")
    return name


def _require_own_form(folder: Path, questions: QuestionSet, dataset: PartDataset, scratch: Path) -> None:
    """Refuse files that would be read back with other bytes, which tables of columns cannot keep.

    Args:
        folder: the question set.
        questions: its questions.
        dataset: its annotations.
        scratch: a file to write, and delete.
    """
    digest = hashlib.sha256()
    for question in questions.questions:
        digest.update(question_to_line(question))
    write_annotations(dataset.images, scratch)
    for path, found in (
        (folder / QUESTIONS_FILE, digest.hexdigest()),
        (folder / ANNOTATIONS_FILE, hash_files([scratch])),
    ):
        if hash_files([path]) != found:
            raise ValueError(
                f"{path}: was edited by hand or written by another program, so that it could not be read back "
                "byte-identical; build or import the question set again"
            )
    scratch.unlink()


def _describe(folder: Path, build: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return the content of the description; of places on this machine, only the last name is published."""
    dataset = read_json(folder / DATASET_FILE)
    if Path(dataset["image_root"]).is_absolute():
        dataset["image_root"] = IMAGE_FOLDER
    sealed = {**build, SEAL_KEY: build.get(SEAL_KEY) or describe_files(folder)}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "split": split,
        "dataset": _without_places(dataset),
        "build": {key: value if key == SEAL_KEY else _without_places(value) for key, value in sealed.items()},
    }


def _without_places(content: Any) -> Any:
    """Return a JSON value with the last name of every absolute path in it."""
    if isinstance(content, Mapping):
        return {key: _without_places(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_places(value) for value in content]
    return Path(content).name if isinstance(content, str) and Path(content).is_absolute() else content


@dataclass(frozen=True)
class _Description:
    """The content of the description; see `_describe`."""

    split: str
    image_root: str
    dataset: Mapping[str, Any]
    build: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "_Description":
        content = read_json(path)
        try:
            if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"expected the format {FORMAT} version {FORMAT_VERSION}; update this program")
            root = check_relative_path(content["dataset"]["image_root"], "'image_root'")
            split = _require_split(content["split"])
            dict(content["build"][SEAL_KEY][IMAGES_KEY])
        except RECORD_ERRORS as error:
            raise ValueError(f"{path}: {reason_of(error)}; download the data set again") from error
        return cls(split, root, content["dataset"], content["build"])


def _find_tables(source: Path, configuration: str, split: str) -> list[Path]:
    """Return the Parquet files of a configuration, in order."""
    folder = source / configuration
    paths = (
        sorted(path for path in files_below(folder) if path.match(f"{split}-*-of-*.parquet")) if folder.is_dir() else []
    )
    expected = int(paths[0].stem.rpartition("-")[2]) if paths and paths[0].stem[-1].isdigit() else 0
    if len(paths) != expected or (not paths and configuration != OTHER_IMAGES):
        raise FileNotFoundError(
            f"{source / configuration}: holds {len(paths)} of {expected or 'the'} Parquet files of the split {split}; "
            "download the data set again"
        )
    for path in paths:
        if missing := missing_columns(configuration, _columns(path)):
            raise ValueError(
                f"{path}: lacks the columns {', '.join(missing)}; only data sets that `{PUSH_COMMAND}` has "
                "written can be read back"
            )
    return paths


def _columns(path: Path) -> list[str]:
    from pyarrow.parquet import read_schema  # noqa: PLC0415  (optional)

    require_readable(path)
    try:
        return list(read_schema(path).names)
    except (ValueError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: not a readable Parquet file ({error}); download the data set again")


def _read_rows(paths: Sequence[Path], configuration: str, read: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    """Yield what `read` makes of each row; an error about a row names the file and the row."""
    for path in paths:
        for number, row in enumerate(_stored_rows(path, list(COLUMNS[configuration]))):
            try:
                value = read(row)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, row {number}: {reason_of(error)}; download the data set again") from error
            yield value


def _stored_rows(path: Path, columns: list[str]) -> Iterator[Mapping[str, Any]]:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415  (optional)

    try:
        with ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(READ_ROWS, columns=columns):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


class _ImageFiles:
    """Writes the images of tables to a folder, each once.

    Args:
        root: the folder.
        images: the annotated images.
    """

    def __init__(self, root: Path, images: Iterable[AnnotatedImage]) -> None:
        self._root = root
        self._names = {image.image_id: image.file_name for image in images}
        self._written: set[int] = set()

    def write(self, row: Mapping[str, Any]) -> bool:
        """Write the image of a row; return whether it was not there yet."""
        number = row["image_id"]
        if number in self._written:
            return False
        if number not in self._names:
            raise ValueError(f"image {number} is not in the table {ANNOTATIONS}")
        content = row[IMAGE]["bytes"]
        if content is None:
            raise ValueError(f"image {number} is not embedded")
        path = self._root / self._names[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._written.add(number)
        return True

    def require_all(self, source: Path) -> None:
        """Refuse a data set that lacks an image.

        Raises:
            ValueError: it lacks one; the message names it.
        """
        missing = [name for number, name in self._names.items() if number not in self._written]
        if missing:
            raise ValueError(
                f"{source}: the image {missing[0]} is in none of its tables ({len(missing)} in all); download the data "
                "set again"
            )


def _require_sealed(name: str, partial: Path) -> None:
    """Refuse a data set from which other files were read than were written to it."""
    if changes := list_changes(partial):
        change = changes[0].replace(f"{partial}/", "").replace("was built", "was pushed")
        raise ValueError(
            f"{name}: differs from the question set that was pushed: {change}; pull another revision, or push the "
            "question set again"
        )
