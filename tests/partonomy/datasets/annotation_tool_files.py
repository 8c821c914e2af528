"""Small files in the native form of annotation tools: a car with a wheel and a door on an image of 40 x 60 pixels."""

import base64
import io
import itertools
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
CAR, WHEEL, DOOR = (4, 6, 40, 30), (8, 26, 8, 8), (20, 10, 12, 14)
"""Boxes x, y, width, height in pixels."""
TOOLS = ("cvat", "label_studio", "labelme", "via", "supervisely")
INCLUSIVE = ("labelme", "supervisely")
"""Tools that fill the pixels below the right and the lower edge of a polygon too."""

Box = tuple[int, int, int, int]


def save_photo(path: Path, height: int = HEIGHT, width: int = WIDTH, orientation: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    seed = sum(path.name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def box_mask(box: Box, more: int = 0) -> np.ndarray:
    """The pixels of a box; `more` further ones on the right and below."""
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + height + more, x : x + width + more] = True
    return mask


def corners(box: Box) -> list[list[float]]:
    x, y, width, height = box
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def png_bytes(mask: np.ndarray, mode: str = "L") -> bytes:
    """A mask as a PNG: grey, or transparent outside ("RGBA"), or with a palette ("P")."""
    if mode == "RGBA":
        pixels = np.zeros((*mask.shape, 4), dtype=np.uint8)
        pixels[..., :3] = 200  # the colour of transparent pixels must not matter
        pixels[..., 3] = mask * 255
        picture = Image.fromarray(pixels)
    else:
        picture = Image.fromarray((mask * (1 if mode == "P" else 255)).astype(np.uint8))
    if mode == "P":
        picture.putpalette([90, 90, 90, 0, 0, 0])  # index 0 is not black
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


# ---------------------------------------------------------------- CVAT


def cvat_xml(images: Sequence[str]) -> str:
    labels = "<labels><label><name>car</name><attributes></attributes></label></labels>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta><task><id>1</id><name>cars</name><size>{len(images)}</size>{labels}</task></meta>\n"
        + "\n".join(images)
        + "\n</annotations>\n"
    )


def cvat_image(name: str, shapes: Sequence[str], number: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> str:
    body = "\n".join(f"    {shape}" for shape in shapes)
    return f'  <image id="{number}" name="{name}" width="{size[1]}" height="{size[0]}">\n{body}\n  </image>'


def cvat_polygon(label: str, box: Box, attributes: str = "", inner: str = "") -> str:
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(box))
    return (
        f'<polygon label="{label}" source="manual" occluded="0" points="{points}" z_order="0" {attributes}>{inner}'
        "</polygon>"
    )


def cvat_mask(label: str, mask: np.ndarray) -> str:
    """A brush mask: runs row by row in the tight box, background first, as CVAT writes them."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = columns[0], rows[0]
    crop = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    runs = [len(list(same)) for _, same in itertools.groupby(crop.ravel().tolist())]
    runs = runs if not crop.ravel()[0] else [0, *runs]
    return (
        f'<mask label="{label}" source="manual" occluded="0" rle="{", ".join(map(str, runs))}" left="{left}" '
        f'top="{top}" width="{crop.shape[1]}" height="{crop.shape[0]}" z_order="0">\n    </mask>'
    )


def cvat_box(label: str, box: Box) -> str:
    x, y, width, height = box
    return (
        f'<box label="{label}" source="manual" occluded="0" xtl="{x}.00" ytl="{y}.00" xbr="{x + width}.00" '
        f'ybr="{y + height}.00" z_order="0"></box>'
    )


# ---------------------------------------------------------------- Label Studio


def brush_code(mask: np.ndarray, word_size: int = 8, sizes: Sequence[int] = (3, 4, 8, 16)) -> list[int]:
    """Label Studio's run-length code, written from its description, bit by bit.

    Single values and runs alternate as its own encoder writes them: one value alone as a list of one.
    """
    values = np.zeros((*mask.shape, 4), dtype=np.int64)
    values[mask] = (1 << word_size) - 1
    bits = f"{values.size:032b}{word_size - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    parts = [bits]
    for value, same in itertools.groupby(values.ravel().tolist()):
        left = len(list(same))
        while left:
            number = next(i for i, size in enumerate(sizes) if left <= 1 << size or i == len(sizes) - 1)
            length = min(left, 1 << sizes[number])
            parts.append(f"{int(length > 1)}{number:02b}{length - 1:0{sizes[number]}b}{value:0{word_size}b}")
            left -= length
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return [int(text[start : start + 8], 2) for start in range(0, len(text), 8)]


def percents(points: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[100.0 * x / WIDTH, 100.0 * y / HEIGHT] for x, y in points]


def studio_result(kind: str, label: str, value: dict[str, Any], key: str, **more: Any) -> dict[str, Any]:
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**value, kind: [label]},
        "id": key,
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
        **more,
    }


def studio_polygon(label: str, box: Box, key: str, **more: Any) -> dict[str, Any]:
    return studio_result("polygonlabels", label, {"points": percents(corners(box)), "closed": True}, key, **more)


def studio_task(image: str, results: Sequence[Any], number: int = 1) -> dict[str, Any]:
    annotation = {"id": 10 * number, "completed_by": 1, "result": list(results), "was_cancelled": False}
    annotation |= {"ground_truth": False, "created_at": "2024-05-01T10:00:00Z", "lead_time": 12.5}
    return {
        "id": number,
        "annotations": [annotation],
        "file_upload": image.rsplit("/", 1)[-1],
        "drafts": [],
        "predictions": [],
        "data": {"image": image},
        "meta": {},
    }


# ---------------------------------------------------------------- labelme


def labelme_shape(
    label: str, points: Sequence[Sequence[float]], kind: str | None = "polygon", **more: Any
) -> dict[str, Any]:
    shape = {"label": label, "points": [list(point) for point in points], "group_id": None, "description": ""}
    return shape | {"shape_type": kind, "flags": {}, "mask": None} | more


def labelme_mask_shape(label: str, mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1], rows[-1]
    crop = mask[top : bottom + 1, left : right + 1]
    code = base64.b64encode(png_bytes(crop)).decode()
    points = [[float(left), float(top)], [float(right), float(bottom)]]
    return labelme_shape(label, points, "mask", mask=code)


def labelme_file(image: str, shapes: Sequence[Any], data: bytes | None = None) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": image,
        "imageData": None if data is None else base64.b64encode(data).decode(),
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


# ---------------------------------------------------------------- VIA


def via_polygon(label: str, box: Box, **attributes: str) -> dict[str, Any]:
    xs, ys = zip(*corners(box), strict=True)
    shape = {"name": "polygon", "all_points_x": list(xs), "all_points_y": list(ys)}
    return {"shape_attributes": shape, "region_attributes": {"label": label, **attributes}}


def via_image(name: str, regions: Sequence[Any], size: int = 1234) -> dict[str, Any]:
    return {f"{name}{size}": {"filename": name, "size": size, "regions": list(regions), "file_attributes": {}}}


def via_project(images: dict[str, Any]) -> dict[str, Any]:
    return {
        "_via_settings": {"ui": {}, "core": {}, "project": {"name": "cars"}},
        "_via_img_metadata": images,
        "_via_attributes": {"region": {"label": {"type": "text"}}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(images),
    }


def via_3_project(name: str, regions: Sequence[tuple[list[float], dict[str, str]]]) -> dict[str, Any]:
    options = {"0": "car", "1": "car:wheel", "2": "car:door"}
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "pname": "cars", "vid_list": ["1"]},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}},
        "attribute": {"1": {"aname": "label", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": options}},
        "file": {"1": {"fid": "1", "fname": name, "type": 2, "loc": 1, "src": ""}},
        "metadata": {
            f"1_{number}": {"vid": "1", "flg": 0, "z": [], "xy": xy, "av": av}
            for number, (xy, av) in enumerate(regions)
        },
        "view": {"1": {"fid_list": ["1"]}},
    }


# ---------------------------------------------------------------- Supervisely


def supervisely_object(title: str, geometry: str, more: dict[str, Any], **extra: Any) -> dict[str, Any]:
    return {
        "id": 503052 + len(title),
        "classId": 1,
        "classTitle": title,
        "description": "",
        "geometryType": geometry,
        "labelerLogin": "someone",
        "createdAt": "2020-08-22T09:32:48.010Z",
        "tags": [],
        **more,
        **extra,
    }


def supervisely_polygon(title: str, box: Box, interior: Sequence[Box] = (), **extra: Any) -> dict[str, Any]:
    points = {"exterior": corners(box), "interior": [corners(hole) for hole in interior]}
    return supervisely_object(title, "polygon", {"points": points}, **extra)


def supervisely_bitmap(title: str, mask: np.ndarray, mode: str = "RGBA") -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    data = base64.b64encode(zlib.compress(png_bytes(crop, mode))).decode()
    return supervisely_object(title, "bitmap", {"bitmap": {"data": data, "origin": [int(columns[0]), int(rows[0])]}})


def supervisely_file(objects: Sequence[Any]) -> dict[str, Any]:
    return {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": list(objects)}


# ---------------------------------------------------------------- all


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_tool(tool: str, folder: Path, shapes: Sequence[tuple[str, Box]], names: Sequence[str] = ("a.png",)) -> Path:
    """The same polygons (label, box) on every image, in the tool's form; returns what `--annotations` names.

    The images are in `folder/images`.
    """
    for name in names:
        save_photo(folder / "images" / name)
    place = folder / tool
    place.mkdir(parents=True, exist_ok=True)
    if tool == "cvat":
        images = [cvat_image(name, [cvat_polygon(*one) for one in shapes], i) for i, name in enumerate(names)]
        (place / "annotations.xml").write_text(cvat_xml(images), encoding="utf-8")
        return place / "annotations.xml"
    if tool == "label_studio":
        results = [studio_polygon(*one, f"region{number}") for number, one in enumerate(shapes)]
        tasks = [studio_task(f"/data/upload/1/0a1b2c3d-{name}", results, i) for i, name in enumerate(names, 1)]
        return write_json(place / "project-1-at-2024-05-01.json", tasks)
    if tool == "labelme":
        for name in names:
            content = labelme_file(name, [labelme_shape(label, corners(box)) for label, box in shapes])
            write_json(place / f"{Path(name).stem}.json", content)
    elif tool == "via":
        regions = [via_polygon(*one) for one in shapes]
        pictures = {key: one for name in names for key, one in via_image(name, regions).items()}
        return write_json(place / "via_project.json", via_project(pictures))
    else:
        write_json(place / "meta.json", {"classes": [], "tags": []})
        content = supervisely_file([supervisely_polygon(*one) for one in shapes])
        for name in names:
            write_json(place / "ds0" / "ann" / f"{name}.json", content)
    return place
