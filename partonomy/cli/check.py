"""`python -m partonomy check`: reports the problems of a data set as a table and an exit status."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from partonomy.datasets.curation.check import (
    PROBLEMS,
    CheckConfig,
    CheckInput,
    CheckLimits,
    CheckReport,
    Finding,
    Severity,
    check_input,
    folder_input,
)
from partonomy.datasets.curation.check_tools import ToolInput
from partonomy.datasets.curation.sharded_check import check_shard, merge_checks, remove_check_shards
from partonomy.datasets.sources.registry import SourceOptions, find_source, tool_config
from partonomy.files import open_atomically
from partonomy.sharding import parse_shard
from partonomy.table_format import ColumnGroup, Table, TableFormat, TableRow, render_table
from partonomy.terminal import one_line

NUM_EXAMPLES = 5


def check(
    folder: str | None = None,
    *,
    annotations: str | None = None,
    images: str | None = None,
    object_name: str | None = None,
    categories: str | None = None,
    name_map: str | None = None,
    source: Literal["coco", "cvat", "label_studio", "labelme", "via", "supervisely"] = "coco",
    label_separator: str | None = None,
    label_attribute: str | None = None,
    min_pixels: int = 16,
    min_share: float = 0.0005,
    max_outside: float = 0.1,
    num_workers: int = 1,
    headers_only: bool = False,
    strict: bool = False,
    output: str | None = None,
    shard: str | None = None,
    merge: bool = False,
) -> int:
    """Find broken images, masks, links and names in a data set, or in annotation files before they are built into one.

    Give either the folder of a data set, or --annotations and --images for COCO-style files (of an annotation tool's
    own files, also their --source). Exit status: 2 if there
    are errors (`build` refuses the record or leaves it out), 1 if there are warnings and --strict is given, else 0. It
    is also 1 if the annotation file itself cannot be read.

    To split a check over machines, run --shard 1/N to --shard N/N and then --merge once, with the same flags. The
    findings and exit status of --merge are those of a single process; the exit status of --shard says only whether the
    shard is done.

    Args:
        folder: Folder of a data set.
        annotations: COCO-style annotation file to check instead, or the file or folder of an annotation tool.
        images: Folder of its images.
        object_name: Object that all parts belong to, for files without object annotations.
        categories: JSON file object -> category.
        name_map: JSON file raw name -> natural name.
        source: Form of the annotations: coco, or an annotation tool's own files (see docs/annotation_tools.md).
        label_separator: Text between object and part in the labels of an annotation tool (default ":"), or part-of.
        label_attribute: Attribute that holds the label (via).
        min_pixels: Warn about part masks with fewer pixels.
        min_share: Note part masks that cover a smaller fraction of their image.
        max_outside: Fraction of a part that may lie outside its object's mask.
        num_workers: Number of threads that read images.
        headers_only: Read only the images' sizes; truncated files are then not noticed.
        strict: Exit with status 1 if there are warnings.
        output: JSON file for all findings.
        shard: Check one shard of the images, given as NUMBER/COUNT, for example 2/8; needs --output.
        merge: Join the shards and delete their files; needs --output.

    Returns:
        The exit status.
    """
    config = CheckConfig(
        limits=CheckLimits(min_pixels=min_pixels, min_share=min_share, max_outside=max_outside),
        num_workers=num_workers,
        headers_only=headers_only,
        object_name=object_name,
        categories=None if categories is None else Path(categories),
        name_map=None if name_map is None else Path(name_map),
    )
    raw_only = {"annotations": annotations, "images": images, "object_name": object_name, "categories": categories}
    of_tools = {"label_separator": label_separator, "label_attribute": label_attribute}
    if source == "coco":
        raw_only |= of_tools
        files = _find_input(folder, raw_only)
        return _check(files, config, strict=strict, output=output, shard=shard, merge=merge)
    if folder is not None:
        raise ValueError(f"--source {source} needs --annotations; a data set folder is checked without --source")
    with tempfile.TemporaryDirectory() as scratch:  # for the images inside labelme's files
        options = SourceOptions(
            output=Path(scratch),
            seed=0,
            num_workers=num_workers,
            invalid="collect",
            images=images,
            annotations=None if annotations is None else Path(annotations),
            object_name=object_name,
            categories=config.categories,
            name_map=config.name_map,
            label_separator=label_separator,
            label_attribute=label_attribute,
        )
        find_source(source, options)
        tool = ToolInput(source, tool_config(source, options))
        files = CheckInput(tool.config.annotations, tool.config.images)
        config = replace(config, foreign=tool)
        return _check(files, config, strict=strict, output=output, shard=shard, merge=merge)


def _check(
    files: CheckInput, config: CheckConfig, *, strict: bool, output: str | None, shard: str | None, merge: bool
) -> int:
    """Run a check, one of its shards or the merge; see `check`."""
    if shard is not None or merge:
        if output is None or (shard is not None and merge):
            raise ValueError("--shard NUMBER/COUNT and --merge are separate steps, each with the same --output FILE")
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    if shard is not None:
        count = check_shard(files, config, Path(str(output)), parse_shard(shard))
        found = "was finished before, nothing to do" if count is None else f"finished, {count:,} findings"
        print(f"{files.annotations}: shard {shard} {found}")
        return 0
    report = merge_checks(files, config, Path(str(output))) if merge else check_input(files, config)
    _print_report(report)
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(Path(output)) as file:
            for text in _to_json(report):
                file.write(text.encode("utf-8", errors="backslashreplace"))
        print(f"All findings: {output}")
    if merge:
        remove_check_shards(Path(str(output)))
    return report.exit_status(strict)


def _find_input(folder: str | None, raw_only: Mapping[str, str | None]) -> CheckInput:
    """Return the input to check: a data set folder, or an annotation file with its folder of images.

    Args:
        folder: the data set folder.
        raw_only: flags for COCO-style files; a data set folder already holds their values.
    """
    if folder is not None:
        given = [f"--{name}" for name, value in raw_only.items() if value is not None]
        if given:
            raise ValueError(
                f"{', '.join(given)}: these flags apply only to COCO-style files; leave them out for a data set folder"
            )
        return folder_input(Path(folder))
    unused = [f"--{name}" for name in ("label_separator", "label_attribute") if raw_only[name] is not None]
    if unused:
        raise ValueError(f"{', '.join(unused)}: pass the annotation tool too, for example --source labelme")
    annotations, images = raw_only["annotations"], raw_only["images"]
    if annotations is None or images is None:
        raise ValueError("pass the folder of a data set, or --annotations FILE and --images FOLDER")
    if not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: the image folder (--images) does not exist")
    return CheckInput(Path(annotations), Path(images))


def _print_report(report: CheckReport) -> None:
    print(f"{report.source}: {report.num_images} images, {report.num_annotations} annotations")
    found = [(problem, report.of_problem(problem)) for problem in PROBLEMS]
    found = [(problem, findings) for problem, findings in found if findings]
    if not found:
        print("no problem found")
    else:
        rows = tuple(TableRow((one.title, one.severity.value, f"{len(findings):,}")) for one, findings in found)
        columns = (ColumnGroup("", ("Problem", "Severity", "Count")),)
        print(render_table(Table("Problems", columns, rows), TableFormat.TEXT))
        for problem, findings in found:
            print(f"\n{problem.severity.value}: {problem.title} ({problem.advice})")
            for line in _examples(findings):
                print(f"  {line}")
    for remark in report.remarks:
        print(f"\nnot checked: {remark}")
    counts = report.findings.count_severities()
    print("\n" + ", ".join(f"{counts[severity]:,} {severity.value}s" for severity in Severity))


def _examples(findings: Sequence[Finding]) -> list[str]:
    lines = [one_line(f"{finding.record}: {finding.detail}") for finding in findings[:NUM_EXAMPLES]]
    num_more = len(findings) - NUM_EXAMPLES
    return [*lines, f"... and {num_more:,} more"] if num_more > 0 else lines


def _to_json(report: CheckReport) -> Iterator[str]:
    """Yield the text of the file of all findings: one JSON object, in pieces, because there may be millions."""
    counts = report.findings.count_severities()
    content = {
        "source": report.source,
        "num_images": report.num_images,
        "num_annotations": report.num_annotations,
        "counts": {severity.value: counts[severity] for severity in Severity},
        "not_looked_at": list(report.remarks),
        "findings": [],
    }
    start, end = _indented(content, 0).rsplit("[]", 1)
    yield start + "["
    for number, finding in enumerate(report.findings):
        row = {
            "problem": finding.problem.title,
            "severity": finding.problem.severity.value,
            "record": finding.record,
            "detail": finding.detail,
        }
        yield ("," if number else "") + "\n  " + _indented(row, 2)
    yield ("\n ]" if report.findings else "]") + end + "\n"


def _indented(content: object, depth: int) -> str:
    """Return JSON as `write_json` writes it with `indent=1`, for a value so deep in the file."""
    return json.dumps(content, indent=1, ensure_ascii=False).replace("\n", "\n" + " " * depth)
