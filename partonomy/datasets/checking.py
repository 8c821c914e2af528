"""Looks for everything that is wrong with a data set, or with the files it is to be built from, in one pass.

Images are decoded one at a time per worker and dropped at once; masks stay run-length codes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from partonomy.datasets import check_problems as problems
from partonomy.datasets.check_masks import CheckLimits, check_masks
from partonomy.datasets.check_names import check_categories, check_names
from partonomy.datasets.check_problems import PROBLEMS, CheckReport, Finding
from partonomy.datasets.check_records import CheckedAnnotation, CheckedFile, CheckedImage, read_checked_file
from partonomy.datasets.files import read_json
from partonomy.datasets.image_content import find_same_files
from partonomy.datasets.store import ANNOTATIONS_FILE, DATASET_FILE
from partonomy.images import check_image, image_size, load_image
from partonomy.names import read_text_map


@dataclass(frozen=True)
class CheckConfig:
    """What to look at.

    Attributes:
        limits: from where on a mask is worth a look.
        num_workers: threads that read images (decoding leaves Python's lock).
        headers_only: read the size of every image, not its pixels: fast, but cut-off files are not noticed.
        object_name, categories, name_map: of a COCO-style file, see `CocoConfig`.
    """

    limits: CheckLimits = CheckLimits()
    num_workers: int = 1
    headers_only: bool = False
    object_name: str | None = None
    categories: Path | None = None
    name_map: Path | None = None

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be 1 or more, got {self.num_workers}")


def check_folder(folder: Path, config: CheckConfig) -> CheckReport:
    """Check a data set folder of the project's own form.

    Raises:
        FileNotFoundError: a file of it is missing.
        ValueError: `dataset.json` or `annotations.json` is not JSON of the right form.
    """
    description = read_json(folder / DATASET_FILE)
    if not isinstance(description.get("image_root"), str):
        raise ValueError(f"{folder / DATASET_FILE}: 'image_root', the folder of the images, is missing")
    return check_files(folder / ANNOTATIONS_FILE, (folder / description["image_root"]).resolve(), config)


def check_files(annotations: Path, image_root: Path, config: CheckConfig) -> CheckReport:
    """Check a COCO-style annotation file and its images.

    Raises:
        FileNotFoundError: the annotation file, or a table given with it, is missing.
        ValueError: one of them is not JSON of the right form.
    """
    name_map = read_text_map(config.name_map, "name map") if config.name_map else {}
    table = read_text_map(config.categories, "categories") if config.categories else {}
    file = read_checked_file(annotations, image_root, config.object_name)
    findings = [*file.findings, *check_names(file.categories, name_map)]
    findings += check_categories(file.categories, name_map, table, config.categories)
    findings += _check_images(file.images, config)
    mask_findings, remarks = _check_all_masks(file, config.limits)
    findings += mask_findings
    if config.headers_only:
        remarks.append("only the headers of the images were read: cut-off files were not looked for")
    order = {problem: number for number, problem in enumerate(PROBLEMS)}
    ordered = tuple(sorted(findings, key=lambda finding: order[finding.problem]))
    return CheckReport(str(annotations), file.num_images, file.num_annotations, ordered, tuple(remarks))


def _check_images(images: Sequence[CheckedImage], config: CheckConfig) -> Iterator[Finding]:
    with ThreadPoolExecutor(config.num_workers) as executor:
        checked = executor.map(lambda image: _check_image(image, config.headers_only), images)
        for findings in tqdm(checked, total=len(images), desc="images", unit="image", disable=None):
            yield from findings
    for group in find_same_files([image.path for image in images], config.num_workers):
        first = images[group[0]]
        for position in group[1:]:
            again = images[position]
            detail = f"{again.file_name} has the content of {first.file_name} (image {first.image_id})"
            yield Finding(problems.SAME_IMAGE, f"image {again.image_id}", detail)


def _check_image(image: CheckedImage, headers_only: bool) -> list[Finding]:
    where = f"image {image.image_id}"
    if not image.path.is_file():
        return [Finding(problems.MISSING_IMAGE, where, f"{image.file_name} does not exist")]
    try:
        height, width = image_size(image.path)
        if not headers_only:
            load_image(image.path, height, width)
    except (ValueError, OSError) as error:
        return [Finding(problems.UNREADABLE_IMAGE, where, str(error))]
    try:
        check_image(image.path, image.height, image.width)
    except ValueError as error:
        return [Finding(problems.SIZE_MISMATCH, where, str(error))]
    return []


def _check_all_masks(file: CheckedFile, limits: CheckLimits) -> tuple[list[Finding], list[str]]:
    by_image: Mapping[int, list[CheckedAnnotation]] = defaultdict(list)
    for annotation in file.annotations:
        by_image[annotation.image_id].append(annotation)
    findings: list[Finding] = []
    num_not_compared = 0
    for image in tqdm(file.images, desc="masks", unit="image", disable=None):
        checked = check_masks(image, by_image[image.image_id], limits)
        findings += checked.findings
        num_not_compared += checked.num_not_compared
    remarks = []
    if num_not_compared:
        remarks.append(f"{num_not_compared} parts were not compared with their object, whose mask is not annotated")
    return findings, remarks
