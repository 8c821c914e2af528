"""`python -m partonomy stats`: compares the sizes of data sets."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from partonomy.datasets.curation.statistics import (
    DatasetEntry,
    compute_joint_statistics,
    compute_statistics,
    question_table,
    size_table,
)
from partonomy.datasets.store import BUILD_FILE, QUESTIONS_FILE, load_dataset, load_questions
from partonomy.files import read_json_as, write_text_atomically
from partonomy.questions.build_config import NUM_EXAMPLE_IDS
from partonomy.reporting.blind_tables import line_on_questions
from partonomy.structures import PartDataset, SkippedType
from partonomy.table_format import TableFormat, render_table


def stats(
    folders: list[str],
    format: Literal["text", "markdown", "latex", "csv"] = "text",
    output: str | None = None,
    quoted: bool = False,
) -> None:
    """Print the sizes of data sets in the columns of the paper's Tables 1 and 8, and their questions per type.

    A note lists what each build left out, and which questions it could not ask, with the reasons (not in CSV). In text,
    a last line says how often a guess that sees the choices alone is right, if well above chance. With
    several folders, for example the two sides of a split, another row gives the figures of all of them together.

    Args:
        folders: Folders of data sets.
        format: text, markdown, latex or csv.
        output: File to write instead of printing.
        quoted: Also print the rows of the paper's two tables above, marked as quoted.
    """
    datasets = [load_dataset(Path(folder)) for folder in folders]
    names = _unique_names(datasets, folders)
    entries = [_make_entry(*row) for row in zip(names, datasets, folders, strict=True)]
    joint = compute_joint_statistics(datasets) if len(datasets) > 1 else None
    tables = (size_table(entries, joint, quoted), question_table(entries))
    text = "\n\n".join(render_table(table, TableFormat(format)) for table in tables) + "\n"
    if TableFormat(format) is TableFormat.TEXT:
        text += "".join(f"\n{line}\n" for line in map(_blind_line, names, folders) if line)
    if output is None:
        print(text, end="")
        return
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(Path(output), text)
    print(f"Written: {output}")


def _blind_line(name: str, folder: str) -> str:
    if not (Path(folder) / QUESTIONS_FILE).is_file():
        return ""
    line = line_on_questions(name, load_questions(Path(folder), invalid="collect").questions)
    return f"{name}: {line}" if line else ""


def describe_left_out(count: int, annotation_ids: Sequence[int], reason: str) -> str:
    """Describe the annotations that a build left out as one indented line with their first ids."""
    numbers = ", ".join(str(number) for number in annotation_ids[:NUM_EXAMPLE_IDS])
    ids = f" (id {numbers}{', ...' if count > NUM_EXAMPLE_IDS else ''})" if count else ""
    return f"  left out: {count} annotation{'' if count == 1 else 's'}{ids}: {reason}"


class _LeftOutRow(msgspec.Struct):
    """Annotations that a build left out for one reason."""

    count: int
    example_ids: list[int]
    reason: str


class _InvalidRow(msgspec.Struct):
    """A record that an import left out."""

    record_index: int
    reason: str


class _LeftOut(msgspec.Struct):
    """What `build.json` says of what is not in the data set."""

    left_out_annotations: list[_LeftOutRow] = []
    invalid_records: list[_InvalidRow] = []


def _make_entry(name: str, dataset: PartDataset, folder: str) -> DatasetEntry:
    build_file = Path(folder) / BUILD_FILE
    built = read_json_as(build_file, _LeftOut, "build the data set again") if build_file.is_file() else _LeftOut()
    left_out = [describe_left_out(row.count, row.example_ids, row.reason).strip() for row in built.left_out_annotations]
    left_out += [f"left out: record {row.record_index}: {row.reason}" for row in built.invalid_records]
    counts = compute_statistics(dataset)
    if not (Path(folder) / QUESTIONS_FILE).is_file():
        return DatasetEntry(name, counts, tuple(left_out), None, ())
    loaded = load_questions(Path(folder))
    asked = Counter(question.question_type for question in loaded.questions)
    return DatasetEntry(name, counts, tuple(left_out), asked, _describe_not_asked(loaded.skipped))


def _describe_not_asked(skipped: Sequence[SkippedType]) -> tuple[str, ...]:
    """Return one line per count and reason, for all types with the same number of images not asked about."""
    types: dict[tuple[int, str], list[str]] = {}
    for row in skipped:
        types.setdefault((row.count, row.reason), []).append(row.question_type.value)
    return tuple(f"{', '.join(names)}: {count} images: {reason}" for (count, reason), names in types.items())


def _unique_names(datasets: Sequence[PartDataset], folders: Sequence[str]) -> list[str]:
    count = Counter(dataset.name for dataset in datasets)
    return [
        dataset.name if count[dataset.name] == 1 else f"{dataset.name} ({folder})"
        for dataset, folder in zip(datasets, folders, strict=True)
    ]
