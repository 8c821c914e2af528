"""What `check` measures, and what it reads besides."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.datasets.curation import check as problems
from partonomy.datasets.curation.check import CheckConfig, CheckLimits, check_files, check_folder, read_checked_file
from partonomy.datasets.sources.coco import read_coco_records
from partonomy.datasets.sources.records import CocoConfig, RawAnnotation
from partonomy.datasets.store import DatasetOrigin, save_dataset
from partonomy.images import EXIF_ORIENTATION
from tests.partonomy.datasets.checked_file import (
    CONFIG,
    HEIGHT,
    WIDTH,
    add_annotation,
    add_category,
    check,
    cut_file,
    found,
    sound,
    square,
)
from tests.partonomy.tiny_world import make_vehicles


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
    mine: list[RawAnnotation] = []
    read_checked_file(path, photos, lambda one: mine.extend(one.annotations.values()), object_name)
    assert [(one.annotation_id, one.raw_object, one.raw_part) for one in mine] == [
        (one.annotation_id, one.raw_object, one.raw_part) for one in records.annotations
    ]


@pytest.mark.parametrize("depth", [100, 700])
def test_a_deeply_nested_mask_is_a_finding_of_its_annotation(photos: Path, depth: int) -> None:
    content = sound()
    add_annotation(segmentation=0)(content, photos)
    path = photos.parent / "instances.json"
    path.write_text(json.dumps(content).replace('"segmentation": 0', f'"segmentation": {"[" * depth}1{"]" * depth}'))
    assert found(check_files(path, photos, CONFIG)) == [("unreadable mask", "annotation 99")]


def test_no_annotation_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match=r"a\.json: a COCO file needs the list 'categories'"):
        check_files(tmp_path / "a.json", tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError, match=r"b\.json"):
        check_files(tmp_path / "b.json", tmp_path, CONFIG)
