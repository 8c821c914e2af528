"""Accuracy of the span tags B, I and O (paper, Table 12), read from the files that `plum teacher-forced` writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from partonomy.files import RECORD_ERRORS, match_json, parse_json, reason_of
from partonomy.quoted_rows import QUOTED, read_quoted
from partonomy.reporting.paper_tables.paper_table import (
    OURS,
    PAPER_PROTOCOL,
    TidyRow,
    tidy_percent,
)
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent

TAG_TABLE = "12"
"""Name of the table for `tables --table`."""
TAG_FILE = "teacher_forced.json"
TAGS = ("B", "I", "O")
PART_KIND = "explanatory"
"""Kind of conversation whose answers name parts."""
COUNTED_OVER = {"tags": "answer tokens", "tags_all_tokens": "all tokens"}
"""Keys of the file -> the tokens that its shares are over."""


@dataclass(frozen=True)
class TagScores:
    """Share of tokens of each true tag that are tagged correctly.

    Attributes:
        run: Folder of the file.
        kind: Kind of conversation, or the data set of expressions.
        tokens: The tokens that count, in words.
        num_images: Number of images.
        by_tag: Share in [0, 1] by tag; None without such tokens.
    """

    run: str
    kind: str
    tokens: str
    num_images: int
    by_tag: Mapping[str, float | None]


def find_tag_scores(run: Path) -> TagScores | None:
    """Return the accuracy over answer tokens on parts, from the run's folder or the one above; None without a file.

    Raises:
        ValueError: A file is damaged.
    """
    for folder in (run, run.resolve().parent):
        if (folder / TAG_FILE).is_file():
            for scores in read_tag_scores(folder):
                if scores.kind == PART_KIND and scores.tokens == COUNTED_OVER["tags"]:
                    return scores
    return None


def read_tag_scores(path: Path) -> tuple[TagScores, ...]:
    """Read a file of `plum teacher-forced`, or the one in a folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged; the message names file and kind.
    """
    file = path / TAG_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; write it with `python -m plum teacher-forced --output {file}`")
    content = parse_json(file.read_bytes(), f"{file}: not valid JSON")
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a file of `python -m plum teacher-forced`: it has no kinds of conversation")
    scores = []
    for kind, entry in content.items():
        try:
            num_images = match_json(entry, _Images).num_images
            scores += [
                TagScores(file.resolve().parent.name, kind, words, num_images, _read_tags(entry[key]))
                for key, words in COUNTED_OVER.items()
            ]
        except RECORD_ERRORS as error:
            raise ValueError(
                f"{file}, {kind}: not a result of `python -m plum teacher-forced` ({reason_of(error)}); run it again"
            ) from error
    return tuple(scores)


def tag_table(paths: Sequence[Path]) -> Table:
    """Return the rows of the paper's Table 12, then one row per file, kind of conversation and set of tokens."""
    rows = [
        TableRow((row["method"], row["data"], "-", *(row[tag] for tag in TAGS)), "paper (quoted)")
        for row in read_quoted("table12").rows
    ]
    for scores in _read_all(paths):
        data = f"{scores.kind}, {scores.num_images} images"
        cells = (format_percent(scores.by_tag[tag]) for tag in TAGS)
        rows.append(TableRow((scores.run, data, scores.tokens, *cells), "runs"))
    return Table(
        "Accuracy of the span tags (%), as the paper's Table 12",
        (ColumnGroup("", ("Method", "Data", "Tokens", "B-Acc", "I-Acc", "O-Acc")),),
        tuple(rows),
        "Answers are given. The paper does not say which tokens count; its code counts all, prompt and image included, "
        "and those are O.",
    )


def tidy_tag_rows(paths: Sequence[Path]) -> Iterator[TidyRow]:
    """Generate the numbers of `tag_table` as tidy rows."""
    for row in read_quoted("table12").rows:
        for tag in TAGS:
            yield TidyRow(TAG_TABLE, row["method"], row["data"], QUOTED, PAPER_PROTOCOL, "", tag, row[tag])
    for scores in _read_all(paths):
        for tag, value in scores.by_tag.items():
            labels = (TAG_TABLE, scores.run, scores.kind, OURS, f"teacher forced, {scores.tokens}", "", tag)
            yield TidyRow(*labels, tidy_percent(value))


def _read_all(paths: Sequence[Path]) -> Iterator[TagScores]:
    for path in paths:
        yield from read_tag_scores(path)


class _Images(msgspec.Struct):
    """The number of images of a kind of conversation."""

    num_images: int


def _read_tags(entry: object) -> dict[str, float | None]:
    found = match_json(entry, dict[str, float | None])
    tags = {tag: found[tag] for tag in TAGS}
    for tag, share in tags.items():
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"the share of {tag} lies between 0 and 1, got {share}")
    return tags
