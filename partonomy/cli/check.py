"""`python -m partonomy check`: everything that is wrong with a data set, as a table and an exit status."""

from collections.abc import Sequence
from pathlib import Path

from partonomy.datasets.curation.check import (
    PROBLEMS,
    CheckConfig,
    CheckLimits,
    CheckReport,
    Finding,
    Severity,
    check_files,
    check_folder,
    count_severities,
)
from partonomy.files import write_json
from partonomy.table_format import ColumnGroup, Table, TableFormat, TableRow, render_table

NUM_EXAMPLES = 5


def check(
    folder: str | None = None,
    *,
    annotations: str | None = None,
    images: str | None = None,
    object_name: str | None = None,
    categories: str | None = None,
    name_map: str | None = None,
    min_pixels: int = 16,
    min_share: float = 0.0005,
    max_outside: float = 0.1,
    num_workers: int = 1,
    headers_only: bool = False,
    strict: bool = False,
    output: str | None = None,
) -> int:
    """Look for broken images, masks, links and names in a data set, or in files before they are built into one.

    Give either the folder of a data set, or --annotations and --images of COCO-style files. Exit status: 2 with errors
    (`build` refuses the record or leaves it out), 1 with warnings under --strict, else 0; 1 also when the annotation
    file itself cannot be read.

    Args:
        folder: Folder of a data set.
        annotations: COCO-style annotation file to check instead.
        images: Folder of its images.
        object_name: Object of all parts, for files without object annotations.
        categories: JSON file object -> category.
        name_map: JSON file raw name -> natural name.
        min_pixels: A part mask of fewer pixels is a warning.
        min_share: A part mask of a smaller share of its image is a note.
        max_outside: Share of a part that may lie outside its object's mask.
        num_workers: Threads that read images.
        headers_only: Read the images' sizes only; cut-off files are then not noticed.
        strict: Exit with 1 when there are warnings.
        output: JSON file for all findings.

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
    if folder is not None:
        raw_only = {"annotations": annotations, "images": images, "object_name": object_name, "categories": categories}
        given = [f"--{name}" for name, value in raw_only.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: of COCO-style files; a data set folder knows them itself")
        report = check_folder(Path(folder), config)
    elif annotations is None or images is None:
        raise ValueError("give the folder of a data set, or --annotations FILE and --images FOLDER")
    elif not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: the image folder (--images) does not exist")
    else:
        report = check_files(Path(annotations), Path(images), config)
    _print_report(report)
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(output), _to_json(report), indent=1)
        print(f"All findings: {output}")
    return report.exit_status(strict)


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
        print(f"\nnot looked at: {remark}")
    counts = count_severities(report.findings)
    print("\n" + ", ".join(f"{counts[severity]:,} {severity.value}s" for severity in Severity))


def _examples(findings: Sequence[Finding]) -> list[str]:
    lines = [f"{finding.record}: {finding.detail}" for finding in findings[:NUM_EXAMPLES]]
    num_more = len(findings) - NUM_EXAMPLES
    return [*lines, f"... and {num_more:,} more"] if num_more > 0 else lines


def _to_json(report: CheckReport) -> dict[str, object]:
    counts = count_severities(report.findings)
    return {
        "source": report.source,
        "num_images": report.num_images,
        "num_annotations": report.num_annotations,
        "counts": {severity.value: counts[severity] for severity in Severity},
        "not_looked_at": list(report.remarks),
        "findings": [
            {
                "problem": finding.problem.title,
                "severity": finding.problem.severity.value,
                "record": finding.record,
                "detail": finding.detail,
            }
            for finding in report.findings
        ],
    }
