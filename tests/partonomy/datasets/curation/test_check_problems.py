"""Every problem that `check` knows is made in a sound file, one at a time, and found; the sound file has none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from partonomy.datasets.curation import check as problems
from partonomy.datasets.curation.check import PROBLEMS, Problem
from tests.partonomy.datasets.checked_file import (
    HEIGHT,
    WIDTH,
    Content,
    add_annotation,
    add_category,
    add_unlinked_class,
    add_unused_category,
    add_unused_image,
    check,
    copy_file,
    cut_file,
    drop_parts,
    edit_first,
    found,
    keep_objects,
    leave_folder,
    remove_file,
    repeat,
    sound,
    square,
    turn_file,
    turn_photograph,
    use_root_category,
    write_no_image,
)

CASES: list[tuple[str, Callable[[Content, Path], None], Problem, str]] = [
    ("no file", remove_file, problems.MISSING_IMAGE, "image 1"),
    ("path", leave_folder, problems.OUTSIDE_IMAGE, "image 1"),
    ("absolute path", edit_first("images", file_name="/1.png"), problems.OUTSIDE_IMAGE, "image 1"),
    ("cut file", cut_file, problems.UNREADABLE_IMAGE, "image 1"),
    ("text file", write_no_image, problems.UNREADABLE_IMAGE, "image 1"),
    ("other size", turn_file, problems.SIZE_MISMATCH, "image 1"),
    ("image without name", edit_first("images", file_name=None), problems.BAD_RECORD, "image 1"),
    ("image of no size", edit_first("images", height=-5), problems.BAD_RECORD, "image 1"),
    ("category without name", edit_first("categories", name=""), problems.BAD_RECORD, "category 0"),
    ("annotation without id", add_annotation(id=None), problems.BAD_RECORD, "annotation at position 6"),
    ("crowd of 2", add_annotation(iscrowd=2), problems.BAD_RECORD, "annotation 99"),
    ("image twice", repeat("images"), problems.DUPLICATE_ID, "image 1"),
    ("category twice", repeat("categories"), problems.DUPLICATE_ID, "category 0"),
    ("annotation twice", repeat("annotations"), problems.DUPLICATE_ID, "annotation 10"),
    ("image unknown", add_annotation(image_id=7), problems.UNKNOWN_IMAGE, "annotation 99"),
    ("category unknown", add_annotation(category_id=7), problems.UNKNOWN_CATEGORY, "annotation 99"),
    (
        "fractions",
        add_annotation(segmentation=[[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]),
        problems.UNREADABLE_MASK,
        "annotation 99",
    ),
    ("two points", add_annotation(segmentation=[[1, 2, 3, 4]]), problems.UNREADABLE_MASK, "annotation 99"),
    (
        "mask of another size",
        add_annotation(segmentation={"size": [5, 5], "counts": [25]}),
        problems.UNREADABLE_MASK,
        "annotation 99",
    ),
    ("no polygon", add_annotation(segmentation=[]), problems.EMPTY_MASK, "annotation 99"),
    (
        "no pixel",
        add_annotation(segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        problems.EMPTY_MASK,
        "annotation 99",
    ),
    ("link to nothing", add_annotation(obj_ann_id=55), problems.NO_OBJECT, "annotation 99"),
    ("link to another image", add_annotation(obj_ann_id=20), problems.NO_OBJECT, "annotation 99"),
    ("link to a part", add_annotation(obj_ann_id=11), problems.NO_OBJECT, "annotation 99"),
    (
        "two categories",
        lambda content, photos: [
            edit_first("categories", category="road")(content, photos),
            content["categories"].append({"id": 9, "name": "Car", "supercategory": "OBJECT", "category": "toys"}),
            content["annotations"][3].update(category_id=9, obj_ann_id=20),
        ],
        problems.TWO_CATEGORIES,
        "object 'car'",
    ),
    ("no name", add_category("car:__", "PART"), problems.EMPTY_NAME, "part '__'"),
    (
        "object of no pixel",
        add_annotation(category_id=0, segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        problems.EMPTY_OBJECT_MASK,
        "annotation 99",
    ),
    # 3 x 3 pixels of 8,000: fewer than 16, and more than .05%, which is 4 pixels.
    ("9 pixels", add_annotation(segmentation=square(20, 40, 3)), problems.FEW_PIXELS, "annotation 99"),
    # The car ends at column 60: 8 of the 10 columns lie beyond.
    ("outside", add_annotation(segmentation=square(58, 20, 10)), problems.OUTSIDE_OBJECT, "annotation 99"),
    ("one once cleaned", add_category("car:Wheel", "PART"), problems.COLLAPSED_NAMES, "part 'wheel'"),
    ("plural", add_category("car:doors", "PART"), problems.SIMILAR_NAMES, "parts 'door', 'doors'"),
    ("same mask", add_annotation(segmentation=square(15, 15, 10)), problems.SAME_MASK, "annotation 99"),
    ("same file", copy_file, problems.SAME_IMAGE, "image 2"),
    (
        "crowd",
        add_annotation(category_id=0, segmentation=square(62, 62, 15), iscrowd=True),
        problems.CROWD,
        "annotation 99",
    ),
    ("crowd part", add_annotation(iscrowd=True), problems.CROWD_PART, "annotation 99"),
    ("crowd null", edit_first("annotations", iscrowd=None), problems.CROWD_VALUE, "annotation 10"),
    ("id as text", edit_first("annotations", id="10"), problems.WHOLE_NUMBER, "annotation '10'"),
    ("size as float", edit_first("images", width=100.0), problems.WHOLE_NUMBER, "image 1"),
    ("box of text", edit_first("annotations", bbox="none"), problems.UNUSED_BOX, "annotation 10"),
    ("no area", edit_first("annotations", area=None), problems.UNUSED_AREA, "annotation 10"),
    (
        "stray ring",
        add_annotation(segmentation=[*square(40, 12, 10), [1, 2, 3, 4]]),
        problems.SHORT_RING,
        "annotation 99",
    ),
    ("beyond the image", add_annotation(segmentation=square(40, 12, 99)), problems.LEAVES_IMAGE, "image 1"),
    ("turned", turn_photograph(80), problems.TURNED, "image 1"),
    ("perhaps turned", turn_photograph(60), problems.UNDECIDED_TURN, "image 1"),
    ("root category", use_root_category, problems.ROOT_CATEGORY, "category 1"),
    (
        "outline without the part",
        add_annotation(segmentation=square(70, 60, 15), obj_ann_id=None),
        problems.ONLY_OBJECT,
        "annotation 99",
    ),
    (
        "part of another class",
        add_category("bus:door", "PART"),
        problems.NO_OBJECT,
        "annotation 99",
    ),
    ("part of no class here", add_unlinked_class, problems.NO_CONTAINER, "annotation 99"),
    ("objects alone", keep_objects, problems.NO_PARTS, "the file"),
    ("no part", drop_parts, problems.NOTHING_TO_ASK, "the file"),
    ("no annotation", add_unused_image, problems.NO_ANNOTATION, "image 3"),
    ("no use", add_unused_category, problems.UNUSED_CATEGORY, "category 9"),
]


@pytest.mark.parametrize(("edit", "problem", "record"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_problem_is_found(photos: Path, edit: Callable[[Content, Path], None], problem: Problem, record: str) -> None:
    content = sound()
    edit(content, photos)
    report = check(content, photos)
    assert (problem.title, record) in found(report)
    # What follows from the problem itself: annotations of a category, or parts of an object, that was not read.
    follows = {
        problems.UNKNOWN_IMAGE,
        problems.UNKNOWN_CATEGORY,
        problems.NO_OBJECT,
        problems.COLLAPSED_NAMES,
        problems.OUTSIDE_OBJECT,
        problems.CROWD,
    }
    assert {finding.problem for finding in report.findings} - follows - {problem} == set()
    worst = min((finding.problem.severity for finding in report.findings), key=["error", "warning", "note"].index)
    assert report.exit_status(is_strict=False) == (2 if worst == "error" else 0)
    assert report.exit_status(is_strict=True) == {"error": 2, "warning": 1, "note": 0}[worst]


def test_every_problem_has_a_case() -> None:
    elsewhere = {
        problems.SMALL_SHARE,  # test_checking.py, as the next one
        problems.NO_CATEGORY,
        problems.CHANGED_FILE,  # test_seal.py
        problems.UNREAD_SHAPE,  # cli/test_annotation_tools.py
    }
    cased = {case[2] for case in CASES} | elsewhere
    assert cased == set(PROBLEMS)
    severities = [problem.severity for problem in PROBLEMS]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_a_sound_file_has_no_problem(photos: Path) -> None:
    report = check(sound(), photos)
    assert (report.findings, report.remarks) == ((), ())
    assert (report.num_images, report.num_annotations) == (2, 6)
    assert report.exit_status(is_strict=True) == 0
