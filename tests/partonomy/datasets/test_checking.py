"""Every problem that `check` knows is made in a sound file, one at a time, and found; the sound file has none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.datasets import check_problems as problems
from partonomy.datasets.check_masks import CheckLimits
from partonomy.datasets.check_problems import PROBLEMS, CheckReport, Problem
from partonomy.datasets.check_records import read_checked_file
from partonomy.datasets.checking import CheckConfig, check_files, check_folder
from partonomy.datasets.coco_records import CocoConfig, read_coco_records
from partonomy.datasets.store import DatasetOrigin, save_dataset
from partonomy.images import EXIF_ORIENTATION
from tests.partonomy.tiny_world import make_vehicles

WIDTH, HEIGHT = 100, 80
CONFIG = CheckConfig()
Content = dict[str, list[dict[str, Any]]]


def square(left: int, top: int, side: int) -> list[list[int]]:
    """A polygon that covers side x side pixels."""
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def sound() -> Content:
    """Two photographs; in each a car of 50 x 50 pixels with a wheel of 10 x 10 and a door of 20 x 20 inside."""
    names = [("car", "OBJECT"), ("car:wheel", "PART"), ("car:door", "PART")]
    content: Content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2)],
        "categories": [{"id": n, "name": name, "supercategory": kind} for n, (name, kind) in enumerate(names)],
        "annotations": [],
    }
    for image in (1, 2):
        shapes = [square(10, 10, 50), square(15, 15, 10), square(30, 30, 20)]
        for category, polygon in enumerate(shapes):
            number = 10 * image + category
            record = {"id": number, "image_id": image, "category_id": category, "segmentation": polygon}
            content["annotations"].append(record | {"obj_ann_id": 10 * image})
    return content


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 120, 30)).save(folder / f"{number}.png")
    return folder


def check(content: Content, photos: Path, config: CheckConfig = CONFIG) -> CheckReport:
    path = photos.parent / "instances.json"
    path.write_text(json.dumps(content))
    return check_files(path, photos, config)


def found(report: CheckReport) -> list[tuple[str, str]]:
    return [(finding.problem.title, finding.record) for finding in report.findings]


def test_a_sound_file_has_no_problem(photos: Path) -> None:
    report = check(sound(), photos)
    assert (report.findings, report.remarks) == ((), ())
    assert (report.num_images, report.num_annotations) == (2, 6)
    assert report.exit_status(is_strict=True) == 0


def remove_file(content: Content, photos: Path) -> None:
    (photos / "1.png").unlink()


def cut_file(content: Content, photos: Path) -> None:
    path = photos / "1.png"
    Image.effect_noise((WIDTH, HEIGHT), 60).save(path)  # noise: the file is long enough to be cut
    path.write_bytes(path.read_bytes()[:2000])


def write_no_image(content: Content, photos: Path) -> None:
    (photos / "1.png").write_text("not an image")


def turn_file(content: Content, photos: Path) -> None:
    Image.new("RGB", (HEIGHT, WIDTH)).save(photos / "1.png")


def copy_file(content: Content, photos: Path) -> None:
    shutil.copy(photos / "1.png", photos / "2.png")


def leave_folder(content: Content, photos: Path) -> None:
    content["images"][0]["file_name"] = "a/../../1.png"


def add_annotation(**changes: object) -> Callable[[Content, Path], None]:
    """Annotation 99: a wheel of image 1 like the sound ones but elsewhere, with changes; None removes a key."""
    record = {"id": 99, "image_id": 1, "category_id": 1, "obj_ann_id": 10, "segmentation": square(40, 12, 10)} | changes

    def edit(content: Content, photos: Path) -> None:
        content["annotations"].append({key: value for key, value in record.items() if value is not None})

    return edit


def add_category(name: str, kind: str | None = None, **fields: object) -> Callable[[Content, Path], None]:
    """A category 9 with one sound annotation, 99."""

    def edit(content: Content, photos: Path) -> None:
        content["categories"].append({"id": 9, "name": name, "supercategory": kind} | fields)
        add_annotation(category_id=9, segmentation=square(12, 40, 15))(content, photos)

    return edit


def edit_first(table: str, **changes: object) -> Callable[[Content, Path], None]:
    def edit(content: Content, photos: Path) -> None:
        content[table][0].update(changes)

    return edit


def repeat(table: str) -> Callable[[Content, Path], None]:
    def edit(content: Content, photos: Path) -> None:
        content[table].append(dict(content[table][0]))

    return edit


def add_unused_image(content: Content, photos: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "3.png")
    content["images"].append({"id": 3, "file_name": "3.png", "height": HEIGHT, "width": WIDTH})


def add_unused_category(content: Content, photos: Path) -> None:
    content["categories"].append({"id": 9, "name": "car:roof", "supercategory": "PART"})


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
    ("crowd", add_annotation(iscrowd=True), problems.CROWD, "annotation 99"),
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
    follows = {problems.UNKNOWN_IMAGE, problems.UNKNOWN_CATEGORY, problems.NO_OBJECT, problems.COLLAPSED_NAMES}
    assert {finding.problem for finding in report.findings} - follows - {problem} == set()
    assert report.exit_status(is_strict=False) == (2 if problem.severity == "error" else 0)
    assert report.exit_status(is_strict=True) == {"error": 2, "warning": 1, "note": 0}[problem.severity]


def test_every_problem_has_a_case() -> None:
    cased = {case[2] for case in CASES} | {problems.SMALL_SHARE, problems.NO_CATEGORY}  # these two: below
    assert cased == set(PROBLEMS)
    severities = [problem.severity for problem in PROBLEMS]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_limits_of_tiny_masks(photos: Path) -> None:
    content = sound()
    add_annotation(segmentation=square(20, 40, 4))(content, photos)  # 16 of 8,000 pixels: .2%
    assert found(check(content, photos)) == []
    few = check(content, photos, CheckConfig(limits=CheckLimits(min_pixels=17)))
    assert found(few) == [("mask of very few pixels", "annotation 99")]
    small = check(content, photos, CheckConfig(limits=CheckLimits(min_share=0.0021)))
    assert found(small) == [("mask of a small share of its image", "annotation 99")]


def test_share_outside_is_measured_at_its_limit(photos: Path) -> None:
    content = sound()
    # Columns 58 to 67 of a car that ends before column 60: 8 of 10 columns, .8 of the wheel, are outside.
    add_annotation(segmentation=square(58, 20, 10))(content, photos)
    (finding,) = check(content, photos).findings
    assert "80% of 'car:wheel' in image 1" in finding.detail
    assert check(content, photos, CheckConfig(limits=CheckLimits(max_outside=0.8))).findings == ()


def test_unlinked_part_may_lie_in_any_object_of_its_class(photos: Path) -> None:
    content = sound()
    add_annotation(id=98, category_id=0, segmentation=square(70, 40, 20), obj_ann_id=98)(content, photos)
    add_annotation(obj_ann_id=None, segmentation=square(75, 45, 10))(content, photos)
    assert found(check(content, photos)) == []
    add_annotation(id=97, obj_ann_id=10, segmentation=square(75, 45, 8))(content, photos)
    assert found(check(content, photos)) == [("part outside its object", "annotation 97")]


def test_parts_of_objects_without_mask_are_counted_not_compared(photos: Path) -> None:
    content = sound()
    content["annotations"][0]["segmentation"] = None  # the car of image 1 has a box alone
    report = check(content, photos)
    assert report.findings == ()
    assert report.remarks == ("2 parts were not compared with their object, whose mask is not annotated",)


# A door of 20 x 20 again with some pixels more: 3 give an IoU of 400 / 403 = .9926, 5 one of 400 / 405 = .9877.
@pytest.mark.parametrize(("extra", "expected"), [(3, [("same label on the same mask", "annotation 99")]), (5, [])])
def test_duplicates_are_told_by_iou(photos: Path, extra: int, expected: list[tuple[str, str]]) -> None:
    mask = np.zeros((WIDTH, HEIGHT), bool)  # column by column, as COCO counts
    mask[30:50, 30:50] = True
    mask[30, 50 : 50 + extra] = True
    content = sound()
    segmentation = {"size": [HEIGHT, WIDTH], "counts": to_runs(mask.ravel().tolist())}
    add_annotation(category_id=2, segmentation=segmentation)(content, photos)
    assert found(check(content, photos)) == expected


def to_runs(mask: list[bool]) -> list[int]:
    """Uncompressed COCO runs of a mask in column order, zeros first."""
    runs, value = [0], False
    for pixel in mask:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (HEIGHT, WIDTH)])
def test_both_frames_of_a_turned_photograph_fit(photos: Path, size: tuple[int, int]) -> None:
    """The file is stored on its side, 80 wide and 100 high; viewers turn it to 100 x 80."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.new("RGB", (HEIGHT, WIDTH), (9, 9, 9)).save(photos / "1.jpg", exif=exif)
    content = sound()
    content["images"][0] |= {"file_name": "1.jpg", "width": size[0], "height": size[1]}
    assert problems.SIZE_MISMATCH.title not in dict(found(check(content, photos)))
    content["images"][0] |= {"width": 90}
    assert (problems.SIZE_MISMATCH.title, "image 1") in found(check(content, photos))


def test_size_from_the_file_when_the_record_has_none(photos: Path) -> None:
    content = sound()
    del content["images"][0]["width"], content["images"][0]["height"]
    assert found(check(content, photos)) == []
    (photos / "1.png").unlink()
    assert found(check(content, photos)) == [("missing image", "image 1")]


def test_headers_only_overlooks_a_cut_file_and_says_so(photos: Path) -> None:
    content = sound()
    cut_file(content, photos)
    report = check(content, photos, CheckConfig(headers_only=True))
    assert report.findings == ()
    assert "only the headers" in report.remarks[0]


def test_tables_given_with_the_file(photos: Path, tmp_path: Path) -> None:
    content = sound()
    add_category("truck", "OBJECT")(content, photos)
    (tmp_path / "categories.json").write_text('{"car": "road"}')
    report = check(content, photos, CheckConfig(categories=tmp_path / "categories.json"))
    assert found(report) == [("object without category", "object 'truck'")]
    content = sound()
    add_category("car:Wheel", "PART")(content, photos)
    (tmp_path / "names.json").write_text('{"wheel": "wheel", "Wheel": "wheel"}')
    assert check(content, photos, CheckConfig(name_map=tmp_path / "names.json")).findings == ()


def test_the_workers_change_nothing(photos: Path) -> None:
    content = sound()
    for number in range(3, 12):
        content["images"].append({"id": number, "file_name": f"{number % 2 + 1}.png", "height": 80, "width": 100})
    assert check(content, photos, CheckConfig(num_workers=3)) == check(content, photos)


def test_parts_alone_need_an_object_name(photos: Path) -> None:
    content = sound()
    content["categories"] = [{"id": n, "name": name, "supercategory": "PART"} for n, name in enumerate("abc")]
    for record in content["annotations"]:
        del record["obj_ann_id"]
    assert {title for title, _ in found(check(content, photos))} == {"part of no object"}
    report = check(content, photos, CheckConfig(object_name="car"))
    assert found(report) == []
    assert "6 parts were not compared" in report.remarks[0]


def test_a_built_data_set(tmp_path: Path) -> None:
    dataset = make_vehicles(tmp_path / "out" / "images", 6)
    save_dataset(dataset, tmp_path / "out", DatasetOrigin("test"))
    report = check_folder(tmp_path / "out", CheckConfig(limits=CheckLimits(min_pixels=1)))
    # The drawn images are all of one colour: five copies of the first.
    assert {title for title, _ in found(report)} == {"same image file twice"}
    assert len(report.findings) == 5
    (tmp_path / "out" / "images" / "3.png").unlink()
    assert ("missing image", "image 3") in found(check_folder(tmp_path / "out", CONFIG))


@pytest.mark.parametrize("object_name", [None, "thing"])
def test_categories_are_read_as_a_build_reads_them(photos: Path, object_name: str | None) -> None:
    """One annotation of each category form: `check` and the reader agree on object and part."""
    names = [
        ("_background_", None),
        ("cat", "OBJECT"),
        ("tail", "PART"),
        ("cat:ear", None),
        ("dogs--pug--part:nose", "x"),
    ]
    content = sound()
    content["categories"] = [{"id": n, "name": name, "supercategory": kind} for n, (name, kind) in enumerate(names)]
    content["categories"].append({"id": 5, "name": "plain"})
    content["annotations"] = [
        {"id": n, "image_id": 1, "category_id": n, "segmentation": square(5, 5, 20 + n)} for n in range(6)
    ]
    path = photos.parent / "instances.json"
    path.write_text(json.dumps(content))
    records = read_coco_records(CocoConfig(path, photos, object_name=object_name))
    mine = read_checked_file(path, photos, object_name).annotations
    assert [(one.annotation_id, one.category.raw_object, one.category.raw_part) for one in mine] == [
        (one.annotation_id, one.raw_object, one.raw_part) for one in records.annotations
    ]


def test_no_annotation_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match=r"a\.json: a COCO file needs the list 'categories'"):
        check_files(tmp_path / "a.json", tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError, match=r"b\.json"):
        check_files(tmp_path / "b.json", tmp_path, CONFIG)
