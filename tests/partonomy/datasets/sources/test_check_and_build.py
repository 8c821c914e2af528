"""`check` and `build` pass the same files: what one refuses the other refuses, and what both read is counted."""

import copy
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets.curation.check import DEVIATIONS, CheckConfig, check_files
from partonomy.datasets.sources.coco import read_coco
from partonomy.datasets.sources.records import CocoConfig, DeviationKind
from partonomy.datasets.store import load_dataset
from partonomy.images import EXIF_ORIENTATION
from partonomy.masks import rle_area

WIDTH, HEIGHT = 60, 40
PARTS = ("wheel", "door", "hood", "roof", "trunk", "light")
Content = dict[str, Any]
Edit = Callable[[Content, Path], object]


def rectangle(left: int, top: int, width: int, height: int) -> list[float]:
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def code(ring: list[float], height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    """The run-length code of a rectangle, with a list of runs, as CVAT writes brush masks."""
    mask = np.zeros((width, height), bool)
    mask[int(ring[0]) : int(ring[2]), int(ring[1]) : int(ring[5])] = True
    changes = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel(), [False]]).astype(np.int8)))
    runs = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return {"size": [height, width], "counts": runs}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs of different content."""
    folder = tmp_path / "cars" / "photos"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 9, 9)).save(folder / f"{number}.png")
    return folder


def sound() -> Content:
    """In every photograph a car with its six parts, of 4 x 5 pixels each; the ids count from 0."""
    content: Content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(3)],
        "categories": [{"id": 0, "name": "car"}, *({"id": n, "name": f"car:{p}"} for n, p in enumerate(PARTS, 1))],
        "annotations": [],
    }
    for image in range(3):
        rings = [rectangle(2, 2, 50, 30), *(rectangle(5 + 8 * place, 6, 4, 5) for place in range(len(PARTS)))]
        for category, ring in enumerate(rings):
            record = {"image_id": image, "category_id": category, "segmentation": [ring], "iscrowd": 0}
            content["annotations"].append({"id": len(content["annotations"])} | record)
    return content


def in_table(table: str, **changes: object) -> Edit:
    """Change the second record of a list: image 1, the category of wheels, or the wheel of image 0."""
    return lambda content, photos: content[table][1].update(changes)


def in_all(**changes: object) -> Edit:
    def edit(content: Content, photos: Path) -> None:
        for record in content["annotations"]:
            record.update(changes)

    return edit


def without(table: str, key: str) -> Edit:
    return lambda content, photos: content[table][1].pop(key)


def draw_car(segmentation: object, **changes: object) -> Edit:
    """Change the outline of the car in image 0."""
    return lambda content, photos: content["annotations"][0].update(segmentation=segmentation, **changes)


def convert_ids(convert: Callable[[int], object]) -> Edit:
    def edit(content: Content, photos: Path) -> None:
        for record in content["annotations"]:
            record.update({key: convert(record[key]) for key in ("id", "image_id", "category_id")})

    return edit


def use_brush(content: Content, photos: Path) -> None:
    for record in content["annotations"]:
        record.update(segmentation=code(record["segmentation"][0]), iscrowd=1)


def mark_group(content: Content, photos: Path) -> None:
    """The car of image 0 is a group of cars whose parts are polygons."""
    content["annotations"][0].update(segmentation=code(content["annotations"][0]["segmentation"][0]), iscrowd=1)


def mark_all_groups(content: Content, photos: Path) -> None:
    for record in content["annotations"]:
        record["iscrowd"] = int(record["category_id"] == 0)


def scale(factor: float) -> Edit:
    def edit(content: Content, photos: Path) -> None:
        for record in content["annotations"]:
            record["segmentation"] = [[factor * value for value in record["segmentation"][0]]]

    return edit


def as_fractions(content: Content, photos: Path) -> None:
    for record in content["annotations"]:
        ring = record["segmentation"][0]
        record["segmentation"] = [[value / (WIDTH, HEIGHT)[place % 2] for place, value in enumerate(ring)]]


def turn(make: Callable[[list[float]], object], width: int = 30, height: int = 50) -> Edit:
    """Image 0 is stored on its side with a quarter turn; its car is drawn in the upright frame, 40 wide, 60 high."""

    def edit(content: Content, photos: Path) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        Image.new("RGB", (WIDTH, HEIGHT), (7, 7, 7)).save(photos / "0.jpg", exif=exif)
        content["images"][0]["file_name"] = "0.jpg"
        rings = [rectangle(2, 2, width, height), *(rectangle(5, 5 + 4 * n, 4, 5) for n in range(len(PARTS)))]
        for record, ring in zip(content["annotations"], rings, strict=False):
            record["segmentation"] = make(ring)

    return edit


def outline_without_parts(content: Content, photos: Path) -> None:
    """The cars' bodies end above their parts."""
    for record in content["annotations"]:
        if record["category_id"] == 0:
            record["segmentation"] = [rectangle(2, 20, 50, 10)]


def second_outline(content: Content, photos: Path) -> None:
    outline_without_parts(content, photos)
    content["annotations"].append(content["annotations"][0] | {"id": 99, "segmentation": [rectangle(2, 32, 50, 6)]})


def roboflow(is_annotated: bool, root: str = "car", above: str = "none") -> Edit:
    def edit(content: Content, photos: Path) -> None:
        content["categories"] = [{"id": 0, "name": root, "supercategory": above}]
        content["categories"] += [{"id": n, "name": part, "supercategory": "car"} for n, part in enumerate(PARTS, 1)]
        if not is_annotated:
            content["annotations"] = [one for one in content["annotations"] if one["category_id"]]

    return edit


def rename_file(old: str, new: str) -> Edit:
    def edit(content: Content, photos: Path) -> None:
        (photos / new).parent.mkdir(exist_ok=True)
        (photos / "1.png").rename(photos / new)
        content["images"][1]["file_name"] = old

    return edit


def cut_photograph(content: Content, photos: Path) -> None:
    path = photos / "1.png"
    Image.effect_noise((WIDTH, HEIGHT), 60).save(path)
    path.write_bytes(path.read_bytes()[:1500])


def keep(category_ids: set[int], *, is_listed: bool = True) -> Edit:
    def edit(content: Content, photos: Path) -> None:
        content["annotations"] = [one for one in content["annotations"] if one["category_id"] in category_ids]
        if not is_listed:
            content["categories"] = [one for one in content["categories"] if one["id"] in category_ids]

    return edit


def add_unused_category(name: str) -> Edit:
    return lambda content, photos: content["categories"].append({"id": 99, "name": name})


DECOMPOSED = unicodedata.normalize("NFD", "é.png")
ZERO = [[0, 0, 0, 0]]
STRAY = [rectangle(5, 6, 4, 5), [9, 9, 12, 12]]
READ: list[tuple[str, Edit, tuple[DeviationKind, int] | None]] = [
    ("nothing", lambda content, photos: None, None),
    ("sizes as floats", in_table("images", width=60.0, height=40.0), (DeviationKind.WHOLE_NUMBER, 1)),
    ("sizes as text", in_table("images", width="60"), (DeviationKind.WHOLE_NUMBER, 1)),
    ("one size alone", without("images", "height"), None),
    ("no sizes", in_table("images", width=None, height=None), None),
    ("ids as floats", convert_ids(float), (DeviationKind.WHOLE_NUMBER, 21)),
    ("ids as text", convert_ids(str), (DeviationKind.WHOLE_NUMBER, 21)),
    ("image id as text", in_table("images", id="1"), (DeviationKind.WHOLE_NUMBER, 1)),
    ("category id as float", in_table("categories", id=1.0), (DeviationKind.WHOLE_NUMBER, 1)),
    ("link as text", in_table("annotations", obj_ann_id="0"), (DeviationKind.WHOLE_NUMBER, 1)),
    ("no iscrowd", without("annotations", "iscrowd"), None),
    ("iscrowd null", in_all(iscrowd=None), (DeviationKind.CROWD_VALUE, 21)),
    ("iscrowd empty", in_all(iscrowd=""), (DeviationKind.CROWD_VALUE, 21)),
    ("iscrowd 0 as text", in_table("annotations", iscrowd="0"), (DeviationKind.CROWD_VALUE, 1)),
    ("iscrowd false as text", in_table("annotations", iscrowd="False"), (DeviationKind.CROWD_VALUE, 1)),
    ("iscrowd false", in_all(iscrowd=False), None),
    ("iscrowd 0.0", in_all(iscrowd=0.0), None),
    ("brush masks", use_brush, (DeviationKind.CROWD_PART, 21)),
    ("brush part", in_table("annotations", iscrowd=True), (DeviationKind.CROWD_PART, 1)),
    ("group of objects", mark_group, None),
    ("box of NaN", in_all(bbox=[float("nan")] * 4), (DeviationKind.BOX, 21)),
    ("box of three", in_table("annotations", bbox=[1, 2, 3]), (DeviationKind.BOX, 1)),
    ("box as text", in_table("annotations", bbox="1 2 3 4"), (DeviationKind.BOX, 1)),
    ("box of nulls", in_table("annotations", bbox=[None] * 4), (DeviationKind.BOX, 1)),
    ("box null", in_all(bbox=None), None),
    ("area null", in_all(area=None), (DeviationKind.AREA, 21)),
    ("area NaN", in_table("annotations", area=float("nan")), (DeviationKind.AREA, 1)),
    ("area as text", in_table("annotations", area="20"), (DeviationKind.AREA, 1)),
    ("stray ring", in_table("annotations", segmentation=STRAY), (DeviationKind.SHORT_RING, 1)),
    ("ring of one point", in_table("annotations", segmentation=[[3, 4], *STRAY[:1]]), (DeviationKind.SHORT_RING, 1)),
    ("empty ring", in_table("annotations", segmentation=[*STRAY[:1], []]), (DeviationKind.SHORT_RING, 1)),
    (
        "run lengths as floats",
        in_table("annotations", segmentation={"size": [40.0, 60.0], "counts": [206.0, 4.0, 2190.0]}),
        (DeviationKind.WHOLE_NUMBER, 1),
    ),
    ("turned photograph", turn(lambda ring: [ring]), (DeviationKind.TURNED, 1)),
    ("turned brush masks", turn(lambda ring: code(ring, WIDTH, HEIGHT)), (DeviationKind.TURNED, 1)),
    ("perhaps turned", turn(lambda ring: [ring], height=30), (DeviationKind.UNDECIDED_TURN, 1)),
    ("a fifth more", scale(1.2), (DeviationKind.LEAVES_IMAGE, 3)),
    ("an outline twice the size", draw_car([rectangle(4, 4, 100, 60)]), (DeviationKind.LEAVES_IMAGE, 1)),
    ("a stroke beyond", draw_car([rectangle(2, 2, 50, 39)]), None),
    ("outlines without parts", outline_without_parts, (DeviationKind.ONLY_OBJECT, 18)),
    ("two outlines without parts", second_outline, (DeviationKind.ONLY_OBJECT, 12)),
    ("root category", roboflow(is_annotated=True), (DeviationKind.ROOT, 6)),
    ("root category, not annotated", roboflow(is_annotated=False), (DeviationKind.ROOT, 6)),
    ("root category in capitals", roboflow(is_annotated=True, root="Car"), (DeviationKind.ROOT, 6)),
    ("root of itself", roboflow(is_annotated=True, above="car"), (DeviationKind.ROOT, 6)),
    ("object with [[]]", draw_car([[]]), None),
    ("object with neither outline nor box", draw_car(None), None),
    ("object without pixels", draw_car(code([0] * 8)), (DeviationKind.EMPTY_OBJECT, 1)),
    ("a pixel in the corner", in_table("annotations", obj_ann_id=0, segmentation=[[0, 0, 1, 0, 1, 1, 0, 1]]), None),
    ("unused category without a name", add_unused_category("car:__"), None),
    ("parts alone", keep(set(range(1, 7))), None),
]
REFUSED: list[tuple[str, Edit, str, str]] = [
    ("size of no number", in_table("images", width="wide"), "image 1", "'width' must be an integer"),
    ("size of a half", in_table("images", width=60.5), "image 1", "'width' must be an integer"),
    ("size of nothing", in_table("images", width=-60), "image 1", "size is invalid"),
    ("other size", in_table("images", width=61), "image 1", "its annotation 40 x 61"),
    ("id of no number", in_table("annotations", id="a7"), "annotation 'a7'", "'id' must be an integer"),
    ("id with a zero", in_table("annotations", image_id="00"), "annotation 1", "'image_id' must be an integer"),
    ("id twice in two notations", in_table("annotations", id="0"), "annotation '0'", "occurs twice"),
    ("image twice in two notations", in_table("images", id="0"), "image '0'", "occurs twice"),
    ("iscrowd 2", in_table("annotations", iscrowd=2), "annotation 1", "'iscrowd' must be"),
    ("iscrowd yes", in_table("annotations", iscrowd="yes"), "annotation 1", "'iscrowd' must be"),
    ("short rings alone", in_table("annotations", segmentation=[[1, 2, 3, 4], [5, 6]]), "annotation 1", "3 points"),
    ("no mask", in_table("annotations", segmentation=None), "annotation 1", "has no mask"),
    ("no polygon", in_table("annotations", segmentation=[]), "annotation 1", "polygon is empty"),
    ("no pixel", in_table("annotations", segmentation=ZERO * 2), "annotation 1", "3 points"),
    ("fractions", as_fractions, "annotation 0", "multiply x by its width"),
    ("far outside", scale(4), "annotation 0", "far outside the image"),
    ("unknown image", in_table("annotations", image_id=7), "annotation 1", "not among the images"),
    ("unknown category", in_table("annotations", category_id=77), "annotation 1", "not among the categories"),
    ("link to nothing", in_table("annotations", obj_ann_id=5), "annotation 1", "is no object annotation"),
    ("no record", lambda content, photos: content["annotations"].append(7), "annotation at position 21", "wrong type"),
    ("box needed", draw_car([], bbox="x"), "annotation 0", "'bbox' must be"),
    ("twice the size", scale(1.9), "annotation 5", "lies outside the image: x from"),
    ("cut photograph", cut_photograph, "image 1", "damaged"),
    ("no photograph", lambda content, photos: (photos / "1.png").unlink(), "image 1", "image file not found"),
    ("text as photograph", lambda content, photos: (photos / "1.png").write_text("x"), "image 1", "not a readable"),
    ("half a surrogate in a category", in_table("categories", name="car:\ud800"), "category 1", "not valid Unicode"),
    ("half a surrogate in a file name", in_table("images", file_name="\ud800.png"), "image 1", "not valid Unicode"),
    ("file name of no text", in_table("images", file_name=7), "image 1", "'file_name' must be"),
    ("folder above", in_table("images", file_name="../1.png"), "image 1", "leaves the image folder"),
    ("category without a part", in_table("categories", name="car:"), "category 1", "does not name a part"),
    ("category twice", in_table("categories", id=0), "category 0", "occurs twice"),
    ("capitals", rename_file("1.PNG", "1.png"), "image 1", "did you mean '1.png'?"),
    ("backslash", rename_file("sub\\1.png", "sub/1.png"), "image 1", "did you mean 'sub/1.png'?"),
    ("percent code", rename_file("a%20b.png", "a b.png"), "image 1", "did you mean 'a b.png'?"),
    ("other Unicode form", rename_file(DECOMPOSED, "é.png"), "image 1", "did you mean 'é.png'?"),
    ("sub-folder", rename_file("1.png", "train/1.png"), "image 1", "did you mean 'train/1.png'?"),
    ("folder too many", rename_file("photos/1.png", "1.png"), "image 1", "did you mean '1.png'?"),
    ("other extension", rename_file("1.jpg", "1.png"), "image 1", "did you mean '1.png'?"),
]
NOTHING: list[tuple[str, Edit, str]] = [
    ("objects alone", keep({0}), "no annotated part in 3 images"),
    ("no category of a part", keep({0}, is_listed=False), "no category is a part"),
    ("groups alone", mark_all_groups, "part of an iscrowd object"),
    ("plain names", lambda c, p: [one.update(name=f"x{one['id']}") for one in c["categories"]], "--object_name"),
]


def write(photos: Path, edit: Edit) -> Path:
    content = copy.deepcopy(sound())
    edit(content, photos)
    path = photos.parent / "instances.json"
    path.write_text(json.dumps(content))
    return path


def build(path: Path, photos: Path, *flags: str) -> int:
    places = ["--annotations", str(path), "--images", str(photos), "--output", str(path.parent / "set")]
    types = ["--question_types", "identification_with_label", "--embedding_model", "char-ngram-tfidf"]
    return main(["build", "--source", "coco", *places, *types, *flags])


@pytest.mark.parametrize(("edit", "noted"), [case[1:] for case in READ], ids=[case[0] for case in READ])
def test_what_is_read_is_counted_by_both(
    photos: Path, edit: Edit, noted: tuple[DeviationKind, int] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(photos, edit)
    report = check_files(path, photos, CheckConfig())
    assert report.exit_status(is_strict=False) == 0, report.findings
    assert build(path, photos) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    lines = [line for line in printed if line.startswith(("note: ", "warning: "))]
    if noted is None:
        assert lines == []
        return
    kind, count = noted
    (line,) = lines
    assert line.startswith(f"{'warning' if kind.is_warning else 'note'}: {count} record")
    assert str(kind) in line
    assert len(report.of_problem(DEVIATIONS[kind])) == count


@pytest.mark.parametrize(
    ("edit", "record", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_is_refused_is_refused_by_both_with_a_cure(
    photos: Path, edit: Edit, record: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(photos, edit)
    report = check_files(path, photos, CheckConfig())
    assert report.exit_status(is_strict=False) == 2
    errors = [finding for finding in report.findings if finding.problem.severity == "error"]
    assert any(one.record == record and reason in one.detail for one in errors), report.findings
    assert build(path, photos) == 1
    message = capsys.readouterr().err
    assert f"{path}, {record}: " in message
    assert reason in message
    assert message.count("\n") == 1
    if record.startswith("category"):
        return
    assert "--invalid collect" in message
    if len(errors) > 1:
        assert f"the first of {len(errors)} faults" in message


@pytest.mark.parametrize(("edit", "reason"), [case[1:] for case in NOTHING], ids=[case[0] for case in NOTHING])
def test_a_file_without_anything_to_ask_about(
    photos: Path, edit: Edit, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(photos, edit)
    assert check_files(path, photos, CheckConfig()).exit_status(is_strict=False) == 2
    assert build(path, photos) == 1
    captured = capsys.readouterr()
    assert reason in captured.out + captured.err


def test_a_refusal_counts_all_bad_records_by_kind(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(content: Content, photos: Path) -> None:
        (photos / "2.png").unlink()
        for number in (1, 2):
            content["annotations"][number]["segmentation"] = [[1, 2, 3, 4]]
        content["annotations"][3]["obj_ann_id"] = 55

    path = write(photos, edit)
    assert build(path, photos) == 1
    message = capsys.readouterr().err
    assert "image 2: " in message
    counts = "the first of 4 faults: 1 x missing image, 2 x unreadable mask, 1 x part of no object"
    assert f"{counts}; `python -m partonomy check` lists them; correct them, or pass --invalid collect" in message
    assert build(path, photos, "--invalid", "collect") == 0
    printed = capsys.readouterr().out
    assert "left out: 2 annotations (id 1, 2): segmentation: a polygon needs at least 3 points" in printed
    assert "left out: 1 annotation (id 3): obj_ann_id 55 is no object annotation" in printed
    assert "left out: 7 annotations (id 14, 15, 16, 17, 18" in printed


def test_the_reasons_are_printed_when_nothing_is_left(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(photos, in_all(segmentation=[[1, 2, 3, 4]]))
    assert build(path, photos, "--invalid", "collect") == 1
    captured = capsys.readouterr()
    assert "left out: 21 annotations" in captured.out
    assert "no annotated part in 3 images, nothing can be asked; most annotations were left out" in captured.err
    assert "at least 3 points" in captured.err


def test_a_build_without_questions_fails_each_time(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(photos, keep({0, 1, 2}))  # two parts are too few for five choices
    for _ in range(2):
        assert build(path, photos) == 1
        message = capsys.readouterr().err
        assert "0 questions: fewer than 5 distinct answer choices were found (3 images)" in message
    assert len(load_dataset(photos.parent / "set").images) == 3


def test_what_leaves_the_image_names_the_factor(photos: Path) -> None:
    path = write(photos, draw_car([rectangle(4, 4, 100, 60)]))  # to x = 104 of 60, and y = 64 of 40
    (note,) = read_coco(CocoConfig(path, photos)).notes
    assert "coordinates divided by 1.73 or more would fit (by 2, if the image was shrunk to 1/2" in note


def test_masks_of_a_turned_photograph_lie_in_the_upright_frame(photos: Path) -> None:
    path = write(photos, turn(lambda ring: [ring]))
    image = read_coco(CocoConfig(path, photos)).dataset.images[0]
    assert (image.height, image.width) == (WIDTH, HEIGHT)
    (car,) = image.objects
    assert car.mask is not None
    assert [rle_area(car.mask), *(rle_area(part.mask) for part in car.parts)] == [30 * 50, *[4 * 5] * 6]


def test_a_polygon_that_fits_neither_frame_is_a_warning(photos: Path) -> None:
    def edit(content: Content, photos: Path) -> None:
        turn(lambda ring: [ring])(content, photos)
        content["annotations"][1]["segmentation"] = [rectangle(50, 2, 8, 8)]  # x = 58 of 40 in the upright frame

    path = write(photos, edit)
    image = read_coco(CocoConfig(path, photos)).dataset.images[0]
    assert (image.height, image.width) == (HEIGHT, WIDTH)
    assert len(check_files(path, photos, CheckConfig()).of_problem(DEVIATIONS[DeviationKind.LEAVES_IMAGE])) == 1


@pytest.mark.parametrize("object_name", [None, "automobile"])
@pytest.mark.parametrize("is_annotated", [True, False])
def test_the_root_category_is_the_object(photos: Path, is_annotated: bool, object_name: str | None) -> None:
    path = write(photos, roboflow(is_annotated))
    images = read_coco(CocoConfig(path, photos, object_name=object_name)).dataset.images
    for image in images:
        (car,) = image.objects
        assert car.label == (object_name or "car")
        assert (car.mask is not None) == is_annotated
        assert [part.label for part in car.parts] == sorted(PARTS)


def test_a_taxonomy_of_objects_is_no_root(photos: Path) -> None:
    def edit(content: Content, photos: Path) -> None:
        content["categories"].append({"id": 9, "name": "vehicle", "supercategory": "none"})
        content["categories"][0]["supercategory"] = "vehicle"

    (car,) = read_coco(CocoConfig(write(photos, edit), photos)).dataset.images[0].objects
    assert (car.label, len(car.parts)) == ("car", 6)


def test_a_lost_object_is_not_taken_for_absent(photos: Path) -> None:
    """Of two cars one has a broken mask: the parts may be its own, so the other does not own them."""

    def edit(content: Content, photos: Path) -> None:
        outline_without_parts(content, photos)
        content["annotations"].append(content["annotations"][0] | {"id": 99, "segmentation": [[1, 2, 3, 4]]})

    reading = read_coco(CocoConfig(write(photos, edit), photos, invalid="collect"))
    assert [len(image.objects[0].parts) for image in reading.dataset.images] == [0, 6, 6]


@pytest.mark.parametrize("damage", [{"file_name": "\ud800.png"}, {"height": "40"}, {"has_other_objects": 1}])
def test_a_data_set_folder_is_read_without_lenience_by_both(
    photos: Path, damage: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(photos, lambda content, photos: None)
    assert build(path, photos) == 0
    folder = photos.parent / "set"
    assert main(["check", str(folder)]) == 0
    content = json.loads((folder / "annotations.json").read_text())
    content["images"][1] |= damage
    (folder / "annotations.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["check", str(folder)]) == 2
    assert "image 1: " in capsys.readouterr().out
    again = ["--images", str(folder), "--output", str(photos.parent / "again")]
    assert main(["build", "--source", "dataset", *again, "--question_types", "identification"]) == 1
    shutil.rmtree(folder)
