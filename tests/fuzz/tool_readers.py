"""Readers of the native files of annotation tools."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from partonomy.datasets.sources.annotation_tools.shapes import ToolConfig
from partonomy.datasets.sources.annotation_tools.tools import read_tool, read_tool_source
from partonomy.datasets.sources.group_parts_by_object import SourceReading
from partonomy.datasets.store import DatasetOrigin, load_dataset, save_dataset
from partonomy.masks import decode_mask
from tests.fuzz import mutations
from tests.fuzz.outcomes import ACCEPTED, PARTLY, Refusal, attempt
from tests.fuzz.trial import Reader
from tests.partonomy.datasets import annotation_tool_files as files
from tests.partonomy.datasets.annotation_tool_files import CAR, DOOR, WHEEL, box_mask

IMAGE_NAME = "Träger 漢.png"
VALUES = (
    "", "0", "-1", "7", "1e999", "nan", "1e400", "x", ";", ",", "&amp;", "'", "é", "0, 0, 0", "9" * 5000, "1.5",
    "car", "car:", ":wheel", "background", "../../secret.png", "b.jpg", "1,1;2,2", "1,1;9,1;9,9",
)  # fmt: skip
MARKUP = (
    "&leak;", "<", '"', "<polygon>", "<image>", "<!DOCTYPE a>", '<!ENTITY b "c">', "</annotations>", "\x00", "]]>",
    "<![CDATA[", "<!--", "</image>", "<track/>", "<mask/>", "<spline label='car'/>",
)  # fmt: skip
VALUE = re.compile(r'(?<==")[^"]*(?=")')


def make_tool_readers() -> tuple[Reader, ...]:
    """One reader for each tool; VIA has one for each of its two forms."""
    return (
        _reader("CVAT", "cvat", "annotations.xml", damaged_xml(_cvat_text())),
        _json_reader("Label Studio", "label_studio", "export.json", _studio_tasks()),
        _json_reader("labelme", "labelme", "a.json", _labelme_content()),
        _json_reader("VIA 2", "via", "via.json", _via_project()),
        _json_reader("VIA 3", "via", "via.json", _via_3_project()),
        _json_reader("Supervisely", "supervisely", f"{IMAGE_NAME}.json", _supervisely_content()),
    )


def _json_reader(name: str, tool: str, file_name: str, content: Any) -> Reader:
    return _reader(name, tool, file_name, mutations.damaged_json(content))


def _reader(name: str, tool: str, file_name: str, cases: st.SearchStrategy[bytes]) -> Reader:
    return Reader(name, cases, _write_images, partial(check_tool, tool, file_name))


def _write_images(folder: Path) -> None:
    files.save_photo(folder / "images" / IMAGE_NAME)
    files.save_photo(folder / "images" / "b.jpg", files.WIDTH, files.HEIGHT, orientation=6)


def check_tool(tool: str, file_name: str, case: bytes, folder: Path) -> str:
    """Both modes agree, and every shape of the file is in the data set or in the list of those left out."""
    path = folder / "labels" / file_name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(case)
    config = ToolConfig(path, folder / "images")
    strict = attempt(lambda: read_tool_source(tool, config), path)
    collecting = ToolConfig(path, folder / "images", invalid="collect")
    lenient = attempt(lambda: read_tool_source(tool, collecting), path)
    if isinstance(lenient, Refusal):
        assert isinstance(strict, Refusal)
        return f"refused: {lenient.reason_class}"
    reasons = [row.reason.encode("utf-8").decode() for row in lenient.skipped]
    _count_shapes(lenient, lambda: read_tool(tool, collecting).places)
    _use_dataset(lenient, folder)
    if isinstance(strict, Refusal):
        assert reasons, "nothing is said to be left out"
        return f"{PARTLY}: {strict.reason_class}"
    assert strict == lenient
    return ACCEPTED


def _count_shapes(reading: SourceReading, find_places: Callable[[], Any]) -> None:
    """Every number from 1 on is used or left out, once; only shapes of an object with several stand under the first."""
    instances = [instance for image in reading.dataset.images for instance in image.objects]
    used = [number for instance in instances for part in instance.parts for number in part.annotation_ids]
    left_out = [number for row in reading.skipped for number in row.annotation_ids]
    assert len(set(used + left_out)) == len(used + left_out), "a shape is counted twice"
    known = {*used, *left_out, *(instance.instance_id for instance in instances)}
    lost = set(range(1, max(known, default=0) + 1)) - known
    assert len(lost) <= sum(instance.mask is not None or instance.box is not None for instance in instances)
    assert set(find_places()) <= known | lost


def _use_dataset(reading: SourceReading, folder: Path) -> None:
    saved = save_dataset(reading.dataset, folder / "out", DatasetOrigin("fuzz"))
    assert load_dataset(folder / "out") == saved
    for image in saved.images:
        for instance in image.objects:
            for part in instance.parts:
                assert decode_mask(part.mask).shape == (image.height, image.width)


@st.composite
def damaged_xml(draw: st.DrawFn, text: str) -> bytes:
    """XML with one to three attribute values changed, or with broken markup or bytes."""
    for _ in range(draw(st.integers(1, 3))):
        values = [one.span() for one in VALUE.finditer(text)]
        is_value = draw(st.integers(0, 9)) > 0
        if values and is_value:
            change = draw(st.sampled_from(VALUES))
            start, end = draw(st.sampled_from(values))
            if not draw(st.integers(0, 3)):  # inside the value
                place = draw(st.integers(start, end))
                start, end = place, place
        else:
            change = draw(st.sampled_from(MARKUP))
            start = end = draw(st.integers(0, len(text)))
        text = text[:start] + change + text[end:]
    content = text.encode()
    return draw(mutations.damaged_bytes(content)) if draw(st.integers(0, 9)) == 0 else content


def _cvat_text() -> str:
    wheel = box_mask(WHEEL)
    wheel[28:30, 10:13] = False
    first = [
        files.cvat_polygon("car", CAR, 'group_id="1"'),
        files.cvat_mask("car:wheel", wheel),
        files.cvat_polygon("door", DOOR, 'group_id="1"', '<attribute name="object">car</attribute>'),
        files.cvat_box("car:lamp", (36, 8, 3, 3)),
        '<ellipse label="car:hood" cx="30" cy="20" rx="4" ry="3" rotation="30"/>',
        '<polyline label="car:antenna" points="1,1;5,5"/>',
    ]
    second = [files.cvat_box("bird", (2, 2, 20, 20)), files.cvat_polygon("bird:wing", (4, 4, 8, 8))]
    return files.cvat_xml([files.cvat_image(IMAGE_NAME, first), files.cvat_image("b.jpg", second, 1)])


def _studio_tasks() -> list[Any]:
    brush = {"format": "rle", "rle": files.brush_code(box_mask(WHEEL))}
    ellipse = {"x": 50.0, "y": 50.0, "radiusX": 4.0, "radiusY": 6.0, "rotation": 20}
    first = [
        files.studio_polygon("car", CAR, "c"),
        files.studio_result("brushlabels", "car:wheel", brush, "w"),
        files.studio_polygon("door", DOOR, "d", parentID="c"),
        files.studio_result("ellipselabels", "car:hood", ellipse, "e"),
        files.studio_result("keypointlabels", "car:lamp", {"x": 50.0, "y": 50.0, "width": 0.5}, "k"),
    ]
    box = {"x": 5.0, "y": 5.0, "width": 50.0, "height": 60.0, "rotation": 0}
    second = [
        files.studio_result("rectanglelabels", "bird", box, "b"),
        files.studio_polygon("wing", (4, 4, 8, 8), "w"),
        {"type": "relation", "from_id": "w", "to_id": "b", "direction": "right"},
    ]
    return [
        files.studio_task(f"/data/upload/1/0a1b2c3d-{IMAGE_NAME}", first),
        files.studio_task("/data/local-files/?d=photos/b.jpg", second, 2),
    ]


def _labelme_content() -> dict[str, Any]:
    shapes = [
        files.labelme_shape("car", files.corners(CAR), group_id=1),
        files.labelme_shape("car:door", [[20, 10], [32, 24]], "rectangle", group_id=1),
        files.labelme_shape("car:hood", [[30.5, 20.25], [33, 20]], "circle"),
        files.labelme_mask_shape("car:wheel", box_mask(WHEEL)),
        files.labelme_shape("car:antenna", [[1, 1], [5, 5], [7, 5]], "linestrip"),
    ]
    return files.labelme_file(f"..\\{IMAGE_NAME}", shapes)


def _via_project() -> dict[str, Any]:
    shapes = [
        {"name": "rect", "x": 20, "y": 10, "width": 12, "height": 14},
        {"name": "circle", "cx": 12, "cy": 30, "r": 4.2},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 4, "ry": 3, "theta": 0.5},
        {"name": "polyline", "all_points_x": [1, 5], "all_points_y": [1, 5]},
    ]
    names = (
        {"label": "car:door"},
        {"label": "wheel", "object": "car"},
        {"label": {"car:hood": True}},
        {"label": "car:x"},
    )
    regions = [files.via_polygon("car", CAR, instance="1")]
    regions += [{"shape_attributes": s, "region_attributes": n} for s, n in zip(shapes, names, strict=True)]
    images = files.via_image(IMAGE_NAME, regions) | files.via_image("b.jpg", [files.via_polygon("bird:wing", DOOR)])
    return files.via_project(images)


def _via_3_project() -> dict[str, Any]:
    flat = [7, *(value for point in files.corners(CAR) for value in point)]
    return files.via_3_project(
        IMAGE_NAME,
        [
            (flat, {"1": "0"}),
            ([2, *WHEEL], {"1": "1"}),
            ([4, 26, 16, 5, 3], {"1": "2"}),
            ([9, 16, 16, 10, 22, 4, 16], {"1": "car:lamp"}),
            ([6, 1, 1, 5, 5, 6, 6], {"1": "car:antenna"}),
        ],
    )


def _supervisely_content() -> dict[str, Any]:
    wheel = np.logical_xor(box_mask(WHEEL), box_mask((10, 28, 2, 2)))
    tag = {"id": 1, "name": "object", "value": "car"}
    return files.supervisely_file(
        [
            files.supervisely_polygon("car", CAR, instance="1"),
            files.supervisely_bitmap("car:wheel", wheel),
            files.supervisely_polygon("door", DOOR, [(24, 14, 4, 4)], tags=[tag], instance="1"),
            files.supervisely_object("car:lamp", "rectangle", {"points": {"exterior": [[36, 8], [40, 12]]}}),
            files.supervisely_object("car:antenna", "line", {"points": {"exterior": [[1, 1], [5, 5]]}}),
        ]
    )
