"""The native files of annotation tools: every shape gives the pixels that were drawn, every label its role."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partonomy.datasets.sources.annotation_tools.label_studio import decode_brush
from partonomy.datasets.sources.annotation_tools.roles import split_label
from partonomy.datasets.sources.annotation_tools.shapes import ToolConfig
from partonomy.datasets.sources.annotation_tools.tools import read_tool_source
from partonomy.datasets.sources.group_parts_by_object import SourceReading
from partonomy.masks import decode_mask
from tests.partonomy.datasets import annotation_tool_files as files
from tests.partonomy.datasets.annotation_tool_files import CAR, DOOR, HEIGHT, TOOLS, WHEEL, WIDTH, box_mask, corners

BASIC = (("car", CAR), ("car:wheel", WHEEL), ("car:door", DOOR))
SECOND_CAR = (46, 6, 12, 30)


def read(tool: str, annotations: Path, **settings: Any) -> SourceReading:
    folder = next(one for one in annotations.parents if (one / "images").is_dir())
    return read_tool_source(tool, ToolConfig(annotations, folder / "images", **settings))


def masks(reading: SourceReading, image: int = 0) -> dict[str, np.ndarray]:
    """Masks of an image's objects and parts, by "object" and "object:part"; every object has a name of its own."""
    found: dict[str, np.ndarray] = {}
    for instance in reading.dataset.images[image].objects:
        if instance.mask is not None:
            found[instance.label] = decode_mask(instance.mask)
        found |= {f"{instance.label}:{part.label}": decode_mask(part.mask) for part in instance.parts}
    return found


def left_out(reading: SourceReading) -> dict[str, int]:
    return {row.reason: len(row.annotation_ids) for row in reading.skipped}


def assert_masks(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert np.array_equal(found[name], mask), f"{name}: {(found[name] != mask).sum()} pixels differ"


# ---------------------------------------------------------------- what all tools share


@pytest.mark.parametrize("tool", TOOLS)
def test_polygons(tmp_path: Path, tool: str) -> None:
    path = files.write_tool(tool, tmp_path, BASIC)
    more = tool in files.INCLUSIVE
    expected = {name: box_mask(box, more) for name, box in BASIC}
    reading = read(tool, path)
    assert_masks(masks(reading), expected)
    assert reading.skipped == ()
    assert reading.dataset.images[0].file_name == "a.png"
    assert reading.dataset.name == tool


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (("car", "car/wheel", "car/door"), {"label_separator": "/"}),
        (("car", "wheel part-of car", "door part-of car"), {"label_separator": " part-of "}),
        (("car", "wheel", "door"), {"object_name": "car"}),
        (("Sports car", "sports_car__wheel", "SPORTS CAR__door"), {"label_separator": "__"}),
    ],
)
def test_ways_to_name_object_and_part(tmp_path: Path, tool: str, labels: Sequence[str], settings: Any) -> None:
    shapes = list(zip(labels, (CAR, WHEEL, DOOR), strict=True))
    path = files.write_tool(tool, tmp_path, shapes)
    found = masks(read(tool, path, **settings))
    name = "sports car" if "__" in labels[1] else "car"
    assert set(found) == {name, f"{name}:wheel", f"{name}:door"}


@pytest.mark.parametrize("tool", TOOLS)
def test_parts_without_drawn_object(tmp_path: Path, tool: str) -> None:
    path = files.write_tool(tool, tmp_path, BASIC[1:])
    assert set(masks(read(tool, path))) == {"car:wheel", "car:door"}
    path = files.write_tool(tool, tmp_path / "bare", [("wheel", WHEEL), ("door", DOOR)])
    assert set(masks(read(tool, path, object_name="car"))) == {"car:wheel", "car:door"}
    with pytest.raises(ValueError, match=r"none of the labels \('door', 'wheel'\) names a part.*--object_name"):
        read(tool, path)


@pytest.mark.parametrize("tool", TOOLS)
def test_another_separator_is_proposed(tmp_path: Path, tool: str) -> None:
    path = files.write_tool(tool, tmp_path, [("car", CAR), ("car/wheel", WHEEL)])
    with pytest.raises(ValueError, match=r"pass --label_separator '/'"):
        read(tool, path)


@pytest.mark.parametrize("tool", TOOLS)
def test_broken_shapes_are_named_or_left_out_and_counted(tmp_path: Path, tool: str) -> None:
    far = (4000, 6, 40, 30)
    path = files.write_tool(tool, tmp_path, [*BASIC, ("car:lamp", far)])
    with pytest.raises(ValueError, match=r"far outside the image.*--invalid collect") as caught:
        read(tool, path)
    file = next(iter(sorted(path.rglob("*.json")))) if tool == "labelme" else path
    assert str(file) in str(caught.value)
    reading = read(tool, path, invalid="collect")
    assert set(masks(reading)) == {"car", "car:wheel", "car:door"}
    assert list(left_out(reading).values()) == [1]
    (car,) = reading.dataset.images[0].objects
    assert car.left_out_parts == ("lamp",), "no question may deny a lamp that was drawn"


def test_a_shape_with_two_faults_is_counted_once(tmp_path: Path) -> None:
    path = files.write_tool("cvat", tmp_path, [*BASIC, (":", (4000, 6, 4, 3))])
    assert list(left_out(read("cvat", path, invalid="collect")).values()) == [1]


@pytest.mark.parametrize("tool", TOOLS)
def test_missing_images(tmp_path: Path, tool: str) -> None:
    path = files.write_tool(tool, tmp_path, BASIC, ["first photo.png", "second.png"])
    (tmp_path / "images" / "first photo.png").rename(tmp_path / "images" / "First photo.png")
    with pytest.raises(FileNotFoundError, match=r"the nearest name is 'First photo\.png'"):
        read(tool, path)
    reading = read(tool, path, invalid="collect")
    assert [image.file_name for image in reading.dataset.images] == ["second.png"]
    assert list(left_out(reading).values()) == [3]


@pytest.mark.parametrize("tool", TOOLS)
def test_one_image_annotated_twice_is_refused(tmp_path: Path, tool: str) -> None:
    path = files.write_tool(tool, tmp_path, BASIC, ["x/a.png", "y/a.png"])
    (tmp_path / "images" / "x" / "a.png").rename(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "y" / "a.png").unlink()
    if tool == "labelme":  # both files of the same stem
        files.write_json(path / "b.json", json.loads((path / "a.json").read_text()))
    with pytest.raises(ValueError, match=r"'a\.png' is annotated in .* too; keep one"):
        read(tool, path)


@pytest.mark.parametrize("tool", ["cvat", "labelme", "supervisely"])
def test_image_of_another_size(tmp_path: Path, tool: str) -> None:
    path = files.write_tool(tool, tmp_path, BASIC)
    files.save_photo(tmp_path / "images" / "a.png", HEIGHT * 2, WIDTH * 2)
    with pytest.raises(ValueError, match="the image is 80 x 120"):
        read(tool, path)


@pytest.mark.parametrize("tool", TOOLS)
def test_background_is_left_out(tmp_path: Path, tool: str) -> None:
    path = files.write_tool(tool, tmp_path, [*BASIC, ("_background_", (0, 0, 5, 5))])
    reading = read(tool, path)
    assert left_out(reading) == {"background": 1}
    assert len(masks(reading)) == 3


@pytest.mark.parametrize("tool", TOOLS)
def test_empty_names(tmp_path: Path, tool: str) -> None:
    path = files.write_tool(tool, tmp_path, [*BASIC, ("car: ", DOOR)])
    with pytest.raises(ValueError, match="'car: ?' does not name an object and a part"):
        read(tool, path)


def test_linked_folders_of_images(tmp_path: Path) -> None:
    path = files.write_tool("labelme", tmp_path, BASIC)
    (tmp_path / "images").rename(tmp_path / "disk")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cars").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "circle").symlink_to(tmp_path / "images")
    assert read("labelme", path).dataset.images[0].file_name == "cars/a.png"


def test_archives_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "export.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="an archive; unpack it"):
        read("cvat", tmp_path / "export.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \*\.json in this folder"):
        read("labelme", tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"nowhere: not found"):
        read("via", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("label", "separator", "expected"),
    [
        ("car:wheel", ":", ("car", "wheel")),
        ("car : front wheel", ":", ("car", "front wheel")),
        ("vehicles--car--part:wheel", ":", ("vehicles--car", "wheel")),
        ("car:door:handle", ":", ("car", "door:handle")),
        ("wheel", ":", (None, "wheel")),
        ("car/door/handle", "/", ("car", "door/handle")),
        ("wheel_of_car", "_of_", ("car", "wheel")),
        ("wheel Part-Of car", "Part-Of", ("car", "wheel")),
        ("roof", "of", ("ro", "")),
    ],
)
def test_split_label(label: str, separator: str, expected: tuple[str | None, str]) -> None:
    if expected[1]:
        assert split_label(label, separator) == expected
    else:  # part first: "ro" + "of" + "": no object
        with pytest.raises(ValueError, match="does not name"):
            split_label(label, separator)


# ---------------------------------------------------------------- groups, links


def labelme_groups(folder: Path, shapes: Sequence[tuple[str, Sequence[Sequence[float]], Any]]) -> Path:
    files.save_photo(folder / "images" / "a.png")
    content = files.labelme_file("a.png", [files.labelme_shape(label, ps, group_id=g) for label, ps, g in shapes])
    return files.write_json(folder / "labelme" / "a.json", content)


def test_a_group_joins_the_shapes_of_one_object(tmp_path: Path) -> None:
    """A car that a post cuts in two, with its wheel; the second car is another instance."""
    left, right = (4, 6, 14, 30), (24, 6, 14, 30)
    path = labelme_groups(
        tmp_path,
        [("car", corners(left), 1), ("car", corners(right), 1), ("car:wheel", corners(WHEEL), 1),
         ("car", corners(SECOND_CAR), 2), ("car:wheel", corners((48, 28, 6, 6)), 2)],
    )  # fmt: skip
    first, second = read("labelme", path).dataset.images[0].objects
    assert first.mask is not None
    assert np.array_equal(decode_mask(first.mask), box_mask(left, 1) | box_mask(right, 1))
    assert [part.label for part in (*first.parts, *second.parts)] == ["wheel", "wheel"]
    assert np.array_equal(decode_mask(second.parts[0].mask), box_mask((48, 28, 6, 6), 1))


def test_a_group_tells_which_of_two_overlapping_objects_a_part_belongs_to(tmp_path: Path) -> None:
    path = labelme_groups(
        tmp_path, [("car", corners(CAR), 1), ("car", corners(DOOR), 2), ("car:wheel", corners(WHEEL), 2)]
    )
    large, small = read("labelme", path).dataset.images[0].objects
    assert (large.parts, [part.label for part in small.parts]) == ((), ["wheel"])


def test_bare_labels_in_groups(tmp_path: Path) -> None:
    """The label whose shape contains the others is the object; its parts' labels are parts everywhere."""
    path = labelme_groups(
        tmp_path,
        [("wheel", corners(WHEEL), 7), ("car", corners(CAR), 7), ("door", corners(DOOR), 7),
         ("car", corners(SECOND_CAR), None), ("wheel", corners((48, 28, 6, 6)), None)],
    )  # fmt: skip
    reading = read("labelme", path)
    first, second = reading.dataset.images[0].objects
    assert [part.label for part in first.parts] == ["door", "wheel"]
    assert [part.label for part in second.parts] == ["wheel"]
    assert reading.skipped == ()


def test_groups_without_a_drawn_object_are_instances(tmp_path: Path) -> None:
    second = (50, 26, 8, 8)
    path = labelme_groups(
        tmp_path,
        [("car:wheel", corners(WHEEL), 1), ("car:door", corners(DOOR), 1), ("car:wheel", corners(second), 2)],
    )
    one, other = read("labelme", path).dataset.images[0].objects
    assert [part.label for part in one.parts] == ["door", "wheel"]
    assert [part.label for part in other.parts] == ["wheel"]
    assert other.box == (50, 26, 9, 9)


def test_a_group_without_its_object_beside_one_with_it(tmp_path: Path) -> None:
    """The second wheel lies in the first car's outline, but its group says that it is another car's."""
    second = (30, 26, 8, 8)
    path = labelme_groups(
        tmp_path,
        [("car", corners(CAR), 1), ("car:wheel", corners(WHEEL), 1), ("car:wheel", corners(second), 2),
         ("car:door", corners(DOOR), None)],
    )  # fmt: skip
    one, other = read("labelme", path).dataset.images[0].objects
    assert [part.label for part in one.parts] == ["door", "wheel"]
    assert [part.label for part in other.parts] == ["wheel"]
    assert np.array_equal(decode_mask(other.parts[0].mask), box_mask(second, 1))


def test_undecided_groups_are_refused(tmp_path: Path) -> None:
    path = labelme_groups(tmp_path, [("wheel", corners(WHEEL), 1), ("door", corners(DOOR), 1)])
    with pytest.raises(ValueError, match=r"shape 0: nothing says which of the labels 'door', 'wheel' .* is the object"):
        read("labelme", path)
    path = labelme_groups(
        tmp_path / "both",
        [("car", corners(CAR), 1), ("door", corners(DOOR), 1), ("door", corners(DOOR), 2),
         ("handle", corners((22, 12, 2, 2)), 2)],
    )  # fmt: skip
    with pytest.raises(ValueError, match="the label 'door' is the object of its group here and a part"):
        read("labelme", path)


def test_a_group_of_another_image_does_not_matter(tmp_path: Path) -> None:
    path = files.write_tool("labelme", tmp_path, BASIC, ["a.png", "b.png"])
    for name in ("a", "b"):
        content = json.loads((path / f"{name}.json").read_text())
        for shape in content["shapes"]:
            shape["group_id"] = 1
        files.write_json(path / f"{name}.json", content)
    reading = read("labelme", path)
    assert [len(image.objects) for image in reading.dataset.images] == [1, 1]
    assert [len(image.objects[0].parts) for image in reading.dataset.images] == [2, 2]


# ---------------------------------------------------------------- CVAT


def write_cvat(folder: Path, shapes: Sequence[str], name: str = "a.png") -> Path:
    files.save_photo(folder / "images" / "a.png")
    path = folder / "cvat" / "annotations.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(files.cvat_xml([files.cvat_image(name, shapes)]), encoding="utf-8")
    return path


def disc(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((columns - x) / radius_x) ** 2 + ((rows - y) / radius_y) ** 2 <= 1


@pytest.mark.parametrize("starts_painted", [False, True])
def test_cvat_brush(tmp_path: Path, starts_painted: bool) -> None:
    mask = disc(14, 28, 6, 5)
    mask[28, 10:14] = False  # a hole
    if starts_painted:
        mask |= box_mask((8, 23, 5, 2))
    path = write_cvat(tmp_path, [files.cvat_polygon("car", CAR), files.cvat_mask("car:wheel", mask)])
    assert_masks(masks(read("cvat", path)), {"car": box_mask(CAR), "car:wheel": mask})


def test_cvat_boxes_lines_and_points(tmp_path: Path) -> None:
    shapes = [
        files.cvat_box("car", CAR),
        files.cvat_polygon("car:wheel", WHEEL),
        files.cvat_box("car:wheel", WHEEL),  # around the drawn wheel: nothing is lost
        files.cvat_box("car:door", DOOR),
        '<polyline label="car:antenna" source="manual" occluded="0" points="30.0,6.0;36.0,1.0" z_order="0"></polyline>',
        '<points label="car:wheel" source="manual" occluded="0" points="12.0,30.0" z_order="0"></points>',
        '<skeleton label="pose"><points label="1" occluded="0" points="1.0,2.0"></points></skeleton>',
        '<tag label="outdoor" source="manual"></tag>',
    ]
    reading = read("cvat", write_cvat(tmp_path, shapes))
    (car,) = reading.dataset.images[0].objects
    assert (car.label, car.mask) == ("car", None)
    assert [part.label for part in car.parts] == ["wheel"], "a box is no mask"
    assert car.left_out_parts == ("antenna", "door")
    assert left_out(reading) == {
        "a box around a part, which says nothing about the part's pixels": 2,
        "a polyline": 1,
        "points": 1,
        "a skeleton of points": 1,
    }


def test_cvat_ellipse_and_turned_box(tmp_path: Path) -> None:
    turned = '<ellipse label="car:wheel" source="manual" occluded="0" cx="14" cy="28" rx="6" ry="3" rotation="90"/>'
    box = '<box label="car" source="manual" occluded="0" xtl="14" ytl="1" xbr="34" ybr="39" rotation="90"/>'
    reading = read("cvat", write_cvat(tmp_path, [turned, box]))
    assert_masks(masks(reading), {"car:wheel": disc(14, 28, 3, 6)})
    records_box = read_tool_source("cvat", ToolConfig(tmp_path / "cvat" / "annotations.xml", tmp_path / "images"))
    assert len(records_box.dataset.images[0].objects) == 1


def test_an_ellipse_turns_clockwise(tmp_path: Path) -> None:
    """By 45 degrees: its long axis runs from the upper left to the lower right."""
    turned = '<ellipse label="car:wheel" source="manual" occluded="0" cx="20" cy="20" rx="12" ry="3" rotation="45"/>'
    mask = masks(read("cvat", write_cvat(tmp_path, [turned])))["car:wheel"]
    assert mask[[14, 27], [14, 27]].all()
    assert not mask[[14, 27], [27, 14]].any()


def test_cvat_groups_and_attributes(tmp_path: Path) -> None:
    second_wheel = (48, 28, 6, 6)
    shapes = [
        files.cvat_polygon("car", CAR, 'group_id="3"'),
        files.cvat_polygon("wheel", WHEEL, 'group_id="3"', '\n      <attribute name="object">car</attribute>\n'),
        files.cvat_polygon("car", SECOND_CAR, 'group_id="4"'),
        files.cvat_polygon("wheel", second_wheel, 'group_id="4"', '<attribute name="object">car</attribute>'),
        files.cvat_polygon("bike", (0, 0, 3, 3), 'group_id="0"'),  # 0 is no group
        files.cvat_polygon("tree", (0, 36, 3, 3), 'group_id="0"', '<attribute name="object">__undefined__</attribute>'),
    ]
    first, second, *others = read("cvat", write_cvat(tmp_path, shapes)).dataset.images[0].objects
    assert [one.label for one in others] == ["bike", "tree"]
    assert np.array_equal(decode_mask(first.parts[0].mask), box_mask(WHEEL))
    assert np.array_equal(decode_mask(second.parts[0].mask), box_mask(second_wheel))


def test_cvat_image_in_a_folder_and_escaped(tmp_path: Path) -> None:
    shapes = [files.cvat_polygon("car &amp; more:w&#228;el", WHEEL)]
    reading = read("cvat", write_cvat(tmp_path, shapes, "job_7/images/a.png"))
    assert set(masks(reading)) == {"car & more:wäel"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('rle="', 'rle="1, ', r"line \d+, mask: the runs of 'rle' sum to"),
        ('left="8"', 'left="58"', r"line \d+, mask: the box of the mask .* leaves the image of 40 x 60"),
        ('width="8" height="8"', 'width="x" height="8"', "width must be an integer, got 'x'"),
        ("4.00,6.00;", "4.00,6.00,7;", "'points' must be x,y;x,y"),
        ("4.00,6.00;", "4.00,nan;", "'points' must be a finite number"),
        ('label="car"', 'lable="car"', r"line \d+, polygon: the key 'label' is missing"),
        ("</image>", "</imgae>", "annotations.xml: not valid XML"),
        ('<?xml version="1.0" encoding="utf-8"?>', '<!DOCTYPE a [<!ENTITY b "c">]>', "line 1: a DTD is not allowed"),
        ("<annotations>", "<annotation>", "not valid XML|top element is <annotation>"),
    ],
)
def test_cvat_errors(tmp_path: Path, old: str, new: str, reason: str) -> None:
    path = write_cvat(tmp_path, [files.cvat_polygon("car", CAR), files.cvat_mask("car:wheel", box_mask(WHEEL))])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=reason) as caught:
        read("cvat", path)
    assert "\n" not in str(caught.value)


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    path = write_cvat(tmp_path, [files.cvat_polygon("&leak;", CAR)])
    head = f'<!DOCTYPE annotations [<!ENTITY leak SYSTEM "{secret.as_uri()}">]>\n<annotations>'
    path.write_text(path.read_text().replace("<annotations>", head, 1))
    with pytest.raises(ValueError, match="a DTD is not allowed"):
        read("cvat", path, invalid="collect")


def test_cvat_video(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = tmp_path / "annotations.xml"
    path.write_text('<annotations><version>1.1</version><track id="0" label="car"></track></annotations>')
    with pytest.raises(ValueError, match="holds the tracks of a video .*CVAT for images 1.1"):
        read("cvat", path)
    shapes = [files.cvat_polygon(*one) for one in BASIC]
    path = write_cvat(tmp_path, shapes)
    path.write_text(path.read_text().replace("</annotations>", '<track id="0" label="car"></track></annotations>'))
    assert left_out(read("cvat", path)) == {"a track of a video": 1}


# ---------------------------------------------------------------- Label Studio


def write_studio(folder: Path, results: Sequence[Any], image: str = "/data/upload/1/0a1b2c3d-a.png") -> Path:
    files.save_photo(folder / "images" / "a.png")
    return files.write_json(folder / "label_studio" / "export.json", [files.studio_task(image, results)])


@pytest.mark.parametrize("sizes", [(3, 4, 8, 16), (1, 2, 3, 4)])
@pytest.mark.parametrize("word_size", [8, 5])
def test_brush_codes(sizes: Sequence[int], word_size: int) -> None:
    mask = np.random.default_rng(0).random((9, 14)) < 0.4
    mask[4:7, 2:11] = True
    code = files.brush_code(mask, word_size, sizes)
    assert np.array_equal(decode_brush(code, 9, 14), mask)
    with pytest.raises(ValueError, match=r"'rle' has 504 values, an image of 9 x 15"):
        decode_brush(code, 9, 15)
    with pytest.raises(ValueError, match="'rle' is damaged: it ends too early"):
        decode_brush(code[: len(code) // 2], 9, 14)


def test_a_literal_stretch_of_a_brush_code() -> None:
    """Hand-made: eight single values 255, 0, 0, 0 | 0, 0, 0, 7; only the second pixel's alpha is painted."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{size:04b}" for size in (2, 3, 7, 15)) + "0" + "00" + "111"
    bits += "".join(f"{value:08b}" for value in (255, 0, 0, 0, 0, 0, 0, 7))
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert decode_brush(code, 1, 2).tolist() == [[False, True]]


def test_brush_and_ellipse(tmp_path: Path) -> None:
    mask = disc(14, 28, 6, 5)
    brush = {"format": "rle", "rle": files.brush_code(mask)}
    ellipse = {"x": 100 * 26 / WIDTH, "y": 100 * 16 / HEIGHT, "rotation": 0}
    ellipse |= {"radiusX": 100 * 5 / WIDTH, "radiusY": 100 * 3 / HEIGHT}
    results = [
        files.studio_polygon("car", CAR, "a"),
        files.studio_result("brushlabels", "car:wheel", brush, "b"),
        files.studio_result("ellipselabels", "car:door", ellipse, "c"),
    ]
    expected = {"car": box_mask(CAR), "car:wheel": mask, "car:door": disc(26, 16, 5, 3)}
    assert_masks(masks(read("label_studio", write_studio(tmp_path, results))), expected)


def test_what_label_studio_results_are_not_masks(tmp_path: Path) -> None:
    box = {"x": 100 * 4 / WIDTH, "y": 15.0, "width": 100 * 40 / WIDTH, "height": 75.0, "rotation": 0}
    results = [
        files.studio_result("rectanglelabels", "car", box, "a"),
        files.studio_polygon("car:wheel", WHEEL, "b"),
        files.studio_result("rectanglelabels", "car:door", box, "c"),
        files.studio_result("keypointlabels", "car:mirror", {"x": 50.0, "y": 50.0, "width": 0.5}, "d"),
        files.studio_result("polygonlabels", "car:roof", {"points": [[1, 1], [20, 1]], "closed": True}, "e"),
        {"type": "choices", "value": {"choices": ["outdoor"]}, "from_name": "scene", "to_name": "image", "id": "f"},
        {"type": "textarea", "value": {"text": ["car"]}, "from_name": "caption", "to_name": "image", "id": "g"},
    ]
    reading = read("label_studio", write_studio(tmp_path, results))
    (car,) = reading.dataset.images[0].objects
    assert (car.mask, [part.label for part in car.parts]) == (None, ["wheel"])
    assert car.left_out_parts == ("door", "mirror", "roof")
    assert left_out(reading) == {
        "a box around a part, which says nothing about the part's pixels": 1,
        "a key point": 1,
        "a polygon of fewer than 3 points": 1,
    }


def test_the_tree_of_regions_and_relations(tmp_path: Path) -> None:
    """Bare labels: the wheel is a child of the car, the handle of the door; a relation joins the second car's."""
    second_wheel = (48, 28, 6, 6)
    results = [
        files.studio_polygon("handle", (22, 12, 2, 2), "h", parentID="d"),
        files.studio_polygon("car", CAR, "c"),
        files.studio_polygon("wheel", WHEEL, "w", parentID="c"),
        files.studio_polygon("door", DOOR, "d", parentID="c"),
        files.studio_polygon("car", SECOND_CAR, "c2"),
        files.studio_polygon("wheel", second_wheel, "w2"),
        {"type": "relation", "from_id": "w2", "to_id": "c2", "direction": "right"},
    ]
    reading = read("label_studio", write_studio(tmp_path, results))
    first, second = reading.dataset.images[0].objects
    assert [part.label for part in first.parts] == ["door", "handle", "wheel"]
    assert [part.label for part in second.parts] == ["wheel"]
    assert np.array_equal(decode_mask(second.parts[0].mask), box_mask(second_wheel))


def test_a_parent_of_another_class_is_no_owner(tmp_path: Path) -> None:
    results = [
        files.studio_polygon("car", CAR, "c"),
        files.studio_polygon("bike", SECOND_CAR, "b"),
        files.studio_polygon("bike:wheel", (48, 28, 6, 6), "w", parentID="c"),
    ]
    car, bike = read("label_studio", write_studio(tmp_path, results)).dataset.images[0].objects
    assert (car.parts, [part.label for part in bike.parts]) == ((), ["wheel"])


def test_labels_and_attributes_in_results_of_their_own(tmp_path: Path) -> None:
    """With <Labels> and <Polygon>, and with a choice per region, several results have the id of one region."""
    polygon = files.studio_polygon("x", WHEEL, "w")
    polygon["type"], polygon["value"] = "polygon", {"points": polygon["value"]["points"], "closed": True}
    labels = polygon | {"type": "labels", "value": polygon["value"] | {"labels": ["wheel"]}}
    choice = {"type": "choices", "from_name": "object", "to_name": "image", "id": "w", "value": {"choices": ["car"]}}
    for results in ([polygon, labels, choice], [labels, polygon, choice]):
        reading = read("label_studio", write_studio(tmp_path, results))
        assert_masks(masks(reading), {"car:wheel": box_mask(WHEEL)})


@pytest.mark.parametrize(
    "image",
    [
        "a.png",
        "/data/upload/1/0a1b2c3d-a.png",
        "/data/upload/a.png",
        "/data/local-files/?d=photos/cars/a.png",
        "https://host.example/label/data/local-files/?d=photos%2Fa.png",
        "s3://bucket/some/folder/a.png",
        "https://bucket.example/a.png?X-Signature=12ab&Expires=60",
        "C:\\photos\\a.png",
    ],
)
def test_names_of_uploads(tmp_path: Path, image: str) -> None:
    results = [files.studio_polygon(*one, str(number)) for number, one in enumerate(BASIC)]
    assert len(masks(read("label_studio", write_studio(tmp_path, results, image)))) == 3


def test_names_with_percent_codes_accents_and_other_keys(tmp_path: Path) -> None:
    """macOS writes "é" as two characters; the task's key of the image is the user's."""
    files.save_photo(tmp_path / "images" / "cafe\u0301 1.png")
    results = [files.studio_polygon(*one, str(number)) for number, one in enumerate(BASIC)]
    task = files.studio_task("/data/upload/1/0a1b2c3d-caf%C3%A9%201.png", results)
    task["data"] = {"photo": task["data"]["image"], "caption": "a car"}
    path = files.write_json(tmp_path / "label_studio" / "export.json", [task])
    assert len(masks(read("label_studio", path))) == 3


def test_percents_are_of_the_upright_photograph(tmp_path: Path) -> None:
    """EXIF 6: the file is stored on its side. Some versions write the raw size beside upright percents."""
    results = [files.studio_polygon(*one, str(number)) for number, one in enumerate(BASIC)]
    path = write_studio(tmp_path, results)
    (tmp_path / "images" / "a.png").unlink()
    files.save_photo(tmp_path / "images" / "a.jpg", WIDTH, HEIGHT, orientation=6)
    for size in ((HEIGHT, WIDTH), (WIDTH, HEIGHT)):
        for result in results:
            result["original_height"], result["original_width"] = size
        files.write_json(path, [files.studio_task("a.jpg", results)])
        reading = read("label_studio", path)
        assert_masks(masks(reading), {name: box_mask(box) for name, box in BASIC})
        assert (reading.dataset.images[0].height, reading.dataset.images[0].width) == (HEIGHT, WIDTH)
    results[0]["original_height"] = 80
    files.write_json(path, [files.studio_task("a.jpg", results)])
    with pytest.raises(ValueError, match="its annotation 80 x 40"):
        read("label_studio", path)


def test_one_annotation_of_a_task_counts(tmp_path: Path) -> None:
    results = [files.studio_polygon(*one, str(number)) for number, one in enumerate(BASIC)]
    path = write_studio(tmp_path, results)
    (task,) = json.loads(path.read_text())
    (annotation,) = task["annotations"]
    cancelled = annotation | {"was_cancelled": True, "result": results[:1]}
    other = annotation | {"result": results[:2]}
    task["annotations"] = [cancelled, annotation, other]
    files.write_json(path, [task])
    reading = read("label_studio", path)
    assert len(masks(reading)) == 3
    assert left_out(reading) == {"a region of a cancelled annotation": 1, "a region of another annotator": 2}
    task["predictions"] = [{"model_version": "1", "result": results}]
    files.write_json(path, [task])
    assert left_out(read("label_studio", path))["a region that a model predicted"] == 3
    other["ground_truth"] = True
    files.write_json(path, [task])
    assert len(masks(read("label_studio", path))) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_rotation": 90}, "task 1, region 'w': the image was turned by 90 degrees"),
        ({"value": {"points": [[1, 2], [3]], "polygonlabels": ["car:wheel"]}}, r"'points' must be a list of \[x, y\]"),
        ({"value": {"points": [], "polygonlabels": [7]}}, "the label must be a non-empty string, got 7"),
        ({"to_name": "other"}, "task 1: the task labels several images"),
    ],
)
def test_label_studio_errors(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    results = [files.studio_polygon("car", CAR, "c"), files.studio_polygon("car:wheel", WHEEL, "w") | change]
    path = write_studio(tmp_path, results)
    with pytest.raises(ValueError, match=reason):
        read("label_studio", path)


def test_other_exports_are_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = files.write_json(tmp_path / "min.json", [{"image": "a.png", "id": 1, "label": [{"points": []}]}])
    with pytest.raises(ValueError, match="task 1: a task needs 'data'; export as 'JSON', not as 'JSON-MIN'"):
        read("label_studio", path)


# ---------------------------------------------------------------- labelme


def write_labelme(folder: Path, shapes: Sequence[Any], image: str = "a.png") -> Path:
    files.save_photo(folder / "images" / "a.png")
    return files.write_json(folder / "labelme" / "a.json", files.labelme_file(image, shapes))


def test_labelme_shapes(tmp_path: Path) -> None:
    mask = disc(30, 16, 6, 5)
    shapes = [
        files.labelme_shape("car", [[4, 6], [44, 36]], "rectangle"),
        files.labelme_shape("car:wheel", [[12, 30], [12, 34]], "circle"),
        files.labelme_shape("car:door", [[32, 24], [20, 10]], "rectangle"),  # drawn from the lower right corner
        files.labelme_mask_shape("car:lamp", mask),
        files.labelme_shape("car:roof", corners((20, 6, 10, 3)), "oriented_rectangle"),
        files.labelme_shape("car:hood", corners((36, 20, 4, 6)), None),
    ]  # fmt: skip
    reading = read("labelme", write_labelme(tmp_path, shapes))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distances = np.hypot(columns - 12, rows - 30)
    found = masks(reading)
    wheel = found.pop("car:wheel")
    assert wheel[distances <= 4].all(), "Pillow fills the pixels on the rim too"
    assert not wheel[distances >= 5].any()
    expected = {"car:door": box_mask(DOOR, 1), "car:lamp": mask, "car:roof": box_mask((20, 6, 10, 3), 1)}
    assert_masks(found, expected | {"car:hood": box_mask((36, 20, 4, 6), 1)})
    assert reading.dataset.images[0].objects[0].mask is None, "a rectangle around an object is its box"


def test_labelme_lines_and_points(tmp_path: Path) -> None:
    shapes = [files.labelme_shape(label, corners(box)) for label, box in BASIC]
    shapes += [
        files.labelme_shape("car:antenna", [[1, 1], [5, 5]], "line"),
        files.labelme_shape("car:antenna", [[1, 1], [5, 5], [6, 6]], "linestrip"),
        files.labelme_shape("car:wheel", [[12, 30]], "point"),
        files.labelme_shape("car:wheel", [[12, 30], [13, 31]], "points"),
        files.labelme_shape("car:wheel", [[12, 30], [13, 31]]),
        files.labelme_shape("car:wheel", [[12, 30]], "spline"),
    ]
    reading = read("labelme", write_labelme(tmp_path, shapes))
    assert len(masks(reading)) == 3
    assert reading.dataset.images[0].objects[0].left_out_parts == ("antenna",), "the points lie on the drawn wheel"
    assert left_out(reading) == {
        "a line": 1,
        "a line strip": 1,
        "a point": 1,
        "points": 1,
        "a polygon of fewer than 3 points": 1,
        "a shape of the unknown type 'spline'": 1,
    }


@pytest.mark.parametrize("image", ["..\\images\\a.png", "../images/a.png", "C:\\Users\\me\\a.png", "a.png"])
def test_labelme_paths(tmp_path: Path, image: str) -> None:
    shapes = [files.labelme_shape(label, corners(box)) for label, box in BASIC]
    assert len(masks(read("labelme", write_labelme(tmp_path, shapes, image)))) == 3


def test_labelme_path_beside_the_file_comes_first(tmp_path: Path) -> None:
    """Two folders with a photograph of the same name, each with its annotations beside it."""
    for name in ("x", "y"):
        files.save_photo(tmp_path / "images" / name / "a.png")
        shapes = [files.labelme_shape(label, corners(box)) for label, box in BASIC]
        files.write_json(tmp_path / "images" / name / "a.json", files.labelme_file("a.png", shapes))
    reading = read_tool_source("labelme", ToolConfig(tmp_path / "images", tmp_path / "images"))
    assert [image.file_name for image in reading.dataset.images] == ["x/a.png", "y/a.png"]


def test_labelme_path_in_several_folders_is_refused(tmp_path: Path) -> None:
    path = write_labelme(tmp_path, [files.labelme_shape(label, corners(box)) for label, box in BASIC], "z/a.png")
    (tmp_path / "images" / "a.png").unlink()
    for name in ("x", "y"):
        files.save_photo(tmp_path / "images" / name / "a.png")
    with pytest.raises(ValueError, match="is in x/a.png, y/a.png; keep one"):
        read("labelme", path)


def test_images_inside_the_files(tmp_path: Path) -> None:
    content = files.save_photo(tmp_path / "photo.png").read_bytes()
    shapes = [files.labelme_shape(label, corners(box)) for label, box in BASIC]
    files.write_json(tmp_path / "labelme" / "sub" / "a.json", files.labelme_file("..\\a.png", shapes, content))
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match="leave out --images to use the images inside the files"):
        read("labelme", tmp_path / "labelme")
    reading = read("labelme", tmp_path / "labelme", is_embedded=True)
    assert [image.file_name for image in reading.dataset.images] == ["sub/a.png"]
    assert (tmp_path / "images" / "sub" / "a.png").read_bytes() == content
    assert len(masks(reading)) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape_type": "circle"}, "shape 1: a shape of the type 'circle' has 2 points, got 4"),
        ({"shape_type": "mask", "points": [[1, 2], [3, 4]]}, "'mask' must be base64 text, got None"),
        ({"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "AAAA"}, "'mask' cannot be read"),
        ({"label": ""}, "'label' must be a non-empty string"),
        ({"group_id": 1.5}, "'group_id' must be an integer, got 1.5"),
        ({"points": [[1, 2], [3, float("nan")], [3, 3]]}, "'points' must be a finite number, got nan"),
    ],
)
def test_labelme_errors(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    shapes = [files.labelme_shape(label, corners(box)) for label, box in BASIC]
    shapes[1] |= change
    path = write_labelme(tmp_path, shapes)
    with pytest.raises(ValueError, match=reason) as caught:
        read("labelme", path)
    assert str(caught.value).startswith(str(path))


def test_a_labelme_mask_of_another_size(tmp_path: Path) -> None:
    shape = files.labelme_mask_shape("car:wheel", box_mask(WHEEL))
    shape["points"][1][0] += 1
    with pytest.raises(ValueError, match=r"the mask is 8 x 8 \(height x width\), its box .* is 8 x 9"):
        read("labelme", write_labelme(tmp_path, [shape]))


def test_other_json_in_the_folder_is_named(tmp_path: Path) -> None:
    path = files.write_tool("labelme", tmp_path, BASIC)
    files.write_json(path / "coco.json", {"images": []})
    with pytest.raises(ValueError, match=r"coco\.json: not a file of labelme.*move it"):
        read("labelme", path)
    assert len(masks(read("labelme", path, invalid="collect"))) == 3


# ---------------------------------------------------------------- VIA


def via_regions(shape: dict[str, Any], label: str = "car:wheel") -> list[Any]:
    return [files.via_polygon("car", CAR), {"shape_attributes": shape, "region_attributes": {"label": label}}]


def write_via(folder: Path, regions: Any, is_project: bool = True) -> Path:
    files.save_photo(folder / "images" / "a.png")
    images = files.via_image("a.png", [])
    images["a.png1234"]["regions"] = regions
    return files.write_json(folder / "via" / "via.json", files.via_project(images) if is_project else images)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"name": "rect", "x": 8, "y": 26, "width": 8, "height": 8}, box_mask(WHEEL)),
        ({"name": "circle", "cx": 12, "cy": 30, "r": 4.2}, disc(12, 30, 4.2, 4.2)),
        ({"name": "ellipse", "cx": 14, "cy": 28, "rx": 6, "ry": 3}, disc(14, 28, 6, 3)),
        ({"name": "ellipse", "cx": 14, "cy": 28, "rx": 6, "ry": 3, "theta": np.pi / 2}, disc(14, 28, 3, 6)),
    ],
)
@pytest.mark.parametrize("is_project", [False, True])
def test_via_shapes(tmp_path: Path, shape: dict[str, Any], expected: np.ndarray, is_project: bool) -> None:
    reading = read("via", write_via(tmp_path, via_regions(shape), is_project))
    assert_masks(masks(reading), {"car": box_mask(CAR), "car:wheel": expected})


def test_via_1_numbers_its_regions(tmp_path: Path) -> None:
    regions = {str(number): files.via_polygon(*one) for number, one in enumerate(BASIC)}
    assert len(masks(read("via", write_via(tmp_path, regions, is_project=False)))) == 3


def test_via_lines_and_points(tmp_path: Path) -> None:
    line = {"name": "polyline", "all_points_x": [1, 5], "all_points_y": [1, 5]}
    regions = [files.via_polygon(*one) for one in BASIC]
    regions += via_regions(line, "car:antenna")[1:] + via_regions({"name": "point", "cx": 12, "cy": 30})[1:]
    reading = read("via", write_via(tmp_path, regions))
    assert left_out(reading) == {"a point": 1, "a polyline": 1}
    assert reading.dataset.images[0].objects[0].left_out_parts == ("antenna",)


@pytest.mark.parametrize(
    ("attributes", "settings"),
    [
        ({"class": "car:wheel"}, {}),
        ({"whatever": "car:wheel"}, {}),
        ({"object": "car", "part": "wheel"}, {}),
        ({"name": "wheel", "object": "car"}, {}),
        ({"class": {"car:wheel": True, "car:door": False}, "quality": ""}, {}),
        ({"quality": "good", "what": "car:wheel"}, {"label_attribute": "what"}),
    ],
)
def test_via_attributes(tmp_path: Path, attributes: dict[str, Any], settings: Any) -> None:
    region = files.via_polygon("x", WHEEL) | {"region_attributes": attributes}
    assert set(masks(read("via", write_via(tmp_path, [region]), **settings))) == {"car:wheel"}


def test_via_instances(tmp_path: Path) -> None:
    second = (48, 28, 6, 6)
    regions = [
        files.via_polygon("car:wheel", WHEEL, instance="1"),
        files.via_polygon("car:wheel", second, instance="2"),
    ]
    one, other = read("via", write_via(tmp_path, regions)).dataset.images[0].objects
    assert np.array_equal(decode_mask(other.parts[0].mask), box_mask(second))
    assert len(one.parts) == 1


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "image 'a.png1234', region 0: no attribute is known to be the region's label because it has no"),
        ({"quality": "good", "what": "car:wheel"}, "among 'quality', 'what'; set it in VIA, or .*--label_attribute"),
        ({"class": {"a": True, "b": True}}, r"the attribute 'class' has several values \(a, b\); tick one"),
    ],
)
def test_via_labels_that_are_missing(tmp_path: Path, attributes: dict[str, Any], reason: str) -> None:
    region = files.via_polygon("x", WHEEL) | {"region_attributes": attributes}
    with pytest.raises(ValueError, match=reason):
        read("via", write_via(tmp_path, [region]))


def test_via_3(tmp_path: Path) -> None:
    files.save_photo(tmp_path / "images" / "a.png")
    flat = [7.0, *(value for point in corners(CAR) for value in point)]
    regions = [
        (flat, {"1": "0"}),
        ([2.0, *WHEEL], {"1": "1"}),
        ([4.0, 26, 16, 5, 3], {"1": "2"}),
        ([9.0, 16, 16, 10, 22, 4, 16], {"1": "car:lamp"}),
        ([8.0, 36, 20, 40, 18, 42, 28], {"1": "car:tag"}),
        ([6.0, 1, 1, 5, 5, 6, 6], {"1": "car:antenna"}),
        ([1.0, 12, 30], {"1": "1"}),
    ]
    content = files.via_3_project("a.png", [([int(xy[0]), *xy[1:]], av) for xy, av in regions])
    content["metadata"]["1_file"] = {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {}}
    content["metadata"]["1_video"] = {"vid": "1", "flg": 0, "z": [1.0, 2.0], "xy": [2, 1, 1, 5, 5], "av": {"1": "1"}}
    reading = read("via", files.write_json(tmp_path / "via" / "via3.json", content))
    found = masks(reading)
    expected = {"car": box_mask(CAR), "car:wheel": box_mask(WHEEL), "car:door": disc(26, 16, 5, 3)}
    assert_masks(found, expected | {"car:lamp": disc(10, 16, 6, 6), "car:tag": box_mask((36, 18, 6, 10))})
    assert left_out(reading) == {
        "a point": 1,
        "a polyline": 1,
        "a shape of a moment of a video": 1,
    }


def test_via_3_views_of_nothing(tmp_path: Path) -> None:
    files.save_photo(tmp_path / "images" / "a.png")
    content = files.via_3_project("a.png", [([2, *WHEEL], {"1": "1"})])
    content["metadata"]["2_x"] = {"vid": "2", "flg": 0, "z": [], "xy": [2, *DOOR], "av": {"1": "1"}}
    path = files.write_json(tmp_path / "via" / "via3.json", content)
    with pytest.raises(ValueError, match="region '2_x': its view '2' is not in the file"):
        read("via", path)
    assert list(left_out(read("via", path, invalid="collect")).values()) == [1]


# ---------------------------------------------------------------- Supervisely


def write_supervisely(folder: Path, objects: Sequence[Any]) -> Path:
    files.save_photo(folder / "images" / "a.png")
    files.write_json(folder / "project" / "ds0" / "ann" / "a.png.json", files.supervisely_file(objects))
    return folder / "project"


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_supervisely_shapes(tmp_path: Path, mode: str) -> None:
    mask, hole = disc(14, 28, 6, 5), (24, 14, 4, 4)
    objects = [
        files.supervisely_polygon("car", CAR),
        files.supervisely_bitmap("car:wheel", mask, mode),
        files.supervisely_polygon("car:door", DOOR, [hole]),
        files.supervisely_object("car:lamp", "rectangle", {"points": {"exterior": [[40, 12], [36, 8]]}}),
    ]  # fmt: skip
    expected = {"car": box_mask(CAR, 1), "car:wheel": mask, "car:door": box_mask(DOOR, 1) & ~box_mask(hole, 1)}
    reading = read("supervisely", write_supervisely(tmp_path, objects))
    assert_masks(masks(reading), expected | {"car:lamp": box_mask((36, 8, 5, 5))})


def test_supervisely_lines_points_and_tags(tmp_path: Path) -> None:
    second = (48, 28, 6, 6)
    points = {"points": {"exterior": [[1, 1], [5, 5]], "interior": []}}
    tag = {"id": 1, "name": "object", "value": "car"}
    objects = [
        files.supervisely_polygon("car", CAR, instance="one"),
        files.supervisely_polygon("wheel", WHEEL, instance="one", tags=[tag, {"name": "dirty", "value": None}]),
        files.supervisely_polygon("car", SECOND_CAR, instance="two"),
        files.supervisely_polygon("wheel", second, instance="two", tags=[tag]),
        files.supervisely_object("car", "line", points),
        files.supervisely_object("car", "point", points),
        files.supervisely_object("car", "graph", {"nodes": {}}),
    ]
    reading = read("supervisely", write_supervisely(tmp_path, objects))
    first, other = reading.dataset.images[0].objects
    assert np.array_equal(decode_mask(first.parts[0].mask), box_mask(WHEEL, 1))
    assert np.array_equal(decode_mask(other.parts[0].mask), box_mask(second, 1))
    assert left_out(reading) == {"a line": 1, "a point": 1, "key points": 1}


def test_supervisely_data_sets_with_equal_names(tmp_path: Path) -> None:
    for number, name in enumerate(("day", "night")):
        files.save_photo(tmp_path / "images" / name / "img" / "a.png")
        objects = [files.supervisely_polygon(*one) for one in BASIC[: 3 - number]]
        files.write_json(tmp_path / "images" / name / "ann" / "a.png.json", files.supervisely_file(objects))
    files.write_json(tmp_path / "images" / "meta.json", {"classes": []})
    config = ToolConfig(tmp_path / "images", tmp_path / "images")
    reading = read_tool_source("supervisely", config)
    assert [image.file_name for image in reading.dataset.images] == ["day/img/a.png", "night/img/a.png"]
    assert [len(masks(reading, number)) for number in (0, 1)] == [3, 2]
    alone = replace(config, annotations=tmp_path / "images" / "night" / "ann" / "a.png.json")
    with pytest.raises(ValueError, match=r"'a.png' is in day/img/a.png, night/img/a.png"):
        read_tool_source("supervisely", alone)


def test_supervisely_file_names_without_the_suffix_of_the_image(tmp_path: Path) -> None:
    path = write_supervisely(tmp_path, [files.supervisely_polygon(*one) for one in BASIC])
    (path / "ds0" / "ann" / "a.png.json").rename(path / "ds0" / "ann" / "a.json")
    assert read("supervisely", path).dataset.images[0].file_name == "a.png"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"origin": [50, 26]}, r"the mask covers the columns 50 to 6\d .* the image is 40 x 60"),
        ({"origin": [-1, 26]}, "the mask covers the columns -1"),
        ({"origin": [1.5, 26]}, r"'origin' must be \[x, y\] in whole pixels"),
        ({"data": "!!"}, "is no base64 text"),
        ({"data": "AAAA"}, "the data of the bitmap is damaged"),
    ],
)
def test_supervisely_bitmaps_that_are_broken(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    bitmap = files.supervisely_bitmap("car:wheel", disc(14, 28, 6, 5))
    bitmap["bitmap"] |= change
    path = write_supervisely(tmp_path, [bitmap])
    with pytest.raises(ValueError, match=reason) as caught:
        read("supervisely", path)
    assert "a.png.json, object 503061: " in str(caught.value)


def test_a_packed_bitmap_cannot_fill_the_memory(tmp_path: Path) -> None:
    import base64
    import zlib

    bitmap = files.supervisely_bitmap("car:wheel", disc(14, 28, 6, 5))
    bitmap["bitmap"]["data"] = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode()
    path = write_supervisely(tmp_path, [bitmap])
    with pytest.raises(ValueError, match="is cut off, or larger than its image"):
        read("supervisely", path)
