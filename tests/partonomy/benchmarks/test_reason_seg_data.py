import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.benchmarks.reason_seg import (
    BACKGROUND,
    IGNORED,
    TARGET,
    Shape,
    TargetNames,
    labels_file,
    paint_shapes,
    read_explanations,
    read_reason_seg,
    split_folder,
)
from partonomy.masks import decode_mask

HEIGHT, WIDTH = 12, 16


def box(label: str, left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    """Corners; fill and outline cover both ends."""
    return {"label": label, "points": [[left, top], [right, top], [right, bottom], [left, bottom]]}


def shape(label: str, *corners: int) -> Shape:
    return Shape(label, np.array(box(label, *corners)["points"], dtype=np.float64))


def write_record(root: Path, name: str, content: object, split: str = "train", encoding: str = "utf-8") -> Path:
    folder = split_folder(root, split)
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{name}.jpg")
    (folder / f"{name}.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    return folder / f"{name}.json"


def record(**changes: object) -> dict[str, object]:
    shapes = [box("target", 2, 2, 5, 5), box("ignore", 8, 0, 9, 3)]
    return {"text": ["What is hot?", "Which one burns?"], "is_sentence": True, "shapes": shapes} | changes


def test_outline_and_filling_cover_both_ends() -> None:
    painted = paint_shapes([shape("target", 2, 3, 5, 4)], HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:5, 2:6] = TARGET
    assert (painted == expected).all()
    # Fractions are cut off: 5.9 is pixel 5.
    cut = Shape("target", np.array([[2.9, 3.2], [5.9, 3.2], [5.9, 4.9], [2.9, 4.9]]))
    assert (paint_shapes([cut], HEIGHT, WIDTH) == expected).all()


def test_small_shapes_stay_on_large_ones_whatever_their_order() -> None:
    large, small = (0, 0, 11, 9), (2, 2, 4, 4)  # 12 x 10 = 120 and 3 x 3 = 9 pixels
    for order in (0, 1):
        inside = [shape("target", *large), shape("Ignore region", *small)][:: -1 if order else 1]
        painted = paint_shapes(inside, HEIGHT, WIDTH)
        assert [int((painted == value).sum()) for value in (TARGET, IGNORED, BACKGROUND)] == [111, 9, 192 - 120]
        around = [shape("ignore", *large), shape("target", *small)][:: -1 if order else 1]
        painted = paint_shapes(around, HEIGHT, WIDTH)
        assert [int((painted == value).sum()) for value in (TARGET, IGNORED)] == [9, 111]


def test_flags_are_nothing_and_of_equal_shapes_the_first_is_on_top() -> None:
    assert not paint_shapes([shape("FLAG", 0, 0, 9, 9)], HEIGHT, WIDTH).any()
    same = [shape("target", 1, 1, 3, 3), shape("ignore", 1, 1, 3, 3)]
    assert set(np.unique(paint_shapes(same, HEIGHT, WIDTH))) == {BACKGROUND, TARGET}


def test_rectangles_and_circles_are_drawn_as_labelme_draws_them(tmp_path: Path) -> None:
    """Two points each; as polygons they would be lines."""
    shapes = [
        {"label": "target", "points": [[9, 4], [2, 1]], "shape_type": "rectangle"},
        {"label": "target", "points": [[12, 8], [12, 11]], "shape_type": "circle"},
        {"label": "ignore", "points": [[0, 8], [2, 10]], "shape_type": "rectangle"},
        {"label": "flag", "points": [[1, 1]], "shape_type": "point"},
    ]
    write_record(tmp_path, "a", record(shapes=shapes))
    (item,) = read_reason_seg(tmp_path, "train")
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = decode_mask(item.mask)
    assert mask[1:5, 2:10].all()
    distances = np.hypot(columns - 12, rows - 8)
    assert mask[distances <= 3].all()
    outside = (distances >= 4) & ~((rows >= 1) & (rows <= 4) & (columns >= 2) & (columns <= 9))
    assert not mask[outside].any()
    assert item.ignore_mask is not None
    ignored = np.argwhere(decode_mask(item.ignore_mask))
    assert (ignored.min(axis=0).tolist(), ignored.max(axis=0).tolist(), len(ignored)) == ([8, 0], [10, 2], 9)


def test_a_circle_counts_where_the_image_is_gone(tmp_path: Path) -> None:
    circle = {"label": "target", "points": [[12, 8], [12, 3]], "shape_type": "circle"}
    path = write_record(tmp_path, "a", record(shapes=[circle]))
    write_record(tmp_path, "b", record())
    whole = read_reason_seg(tmp_path, "train")[0].mask
    path.with_suffix(".jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.jpg: image file not found"):
        read_reason_seg(tmp_path, "train")  # unlike an evaluation, training needs the image
    item = read_reason_seg(tmp_path, "train", needs_images=False)[0]
    assert (item.height, item.width) == (14, 18)
    assert decode_mask(item.mask)[:HEIGHT, :WIDTH].sum() == decode_mask(whole).sum()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape_type": "linestrip"}, "shape 0 has the 'shape_type' 'linestrip'; draw it as a polygon"),
        ({"shape_type": "mask"}, "shape 0 has the 'shape_type' 'mask'"),
        ({"shape_type": ["circle"]}, "a value is of the wrong type"),
        ({"shape_type": "circle"}, "shape 0: a circle has 2 points, got 4"),
        ({"shape_type": "circle", "points": [[5, 5], [5, 900]]}, "the shape lies far outside the image"),
    ],
)
def test_other_shapes_are_refused_by_type(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write_record(tmp_path, "a", record(shapes=[box("target", 2, 2, 5, 5) | change]))
    with pytest.raises(ValueError, match=reason) as caught:
        read_reason_seg(tmp_path, "train")
    assert str(caught.value).startswith(f"{path}: ")


def test_items_of_an_image_share_masks(tmp_path: Path) -> None:
    write_record(tmp_path, "b", record())
    write_record(tmp_path, "a", record(text=["the kettle"], is_sentence=False, shapes=[box("target", 0, 0, 1, 1)]))
    items = read_reason_seg(tmp_path, "train", texts="all")
    assert [item.item_id for item in items] == [f"reason_seg/train/{name}" for name in ("a/0", "b/0", "b/1")]
    assert [(item.text, item.is_sentence) for item in items[:2]] == [("the kettle", False), ("What is hot?", True)]
    assert items[0].ignore_mask is None
    assert decode_mask(items[1].mask)[2:6, 2:6].all()
    assert decode_mask(items[1].mask).sum() == 16
    ignored = items[1].ignore_mask
    assert ignored is not None
    assert decode_mask(ignored)[0:4, 8:10].all()
    assert decode_mask(ignored).sum() == 8
    assert [item.text for item in read_reason_seg(tmp_path, "train")] == ["the kettle", "What is hot?"]


def test_files_of_the_windows_code_page_are_read(tmp_path: Path) -> None:
    write_record(tmp_path, "a", record(text=["the woman’s café"]), encoding="cp1252")
    write_record(tmp_path, "b", record(text=["the woman’s café"]))
    assert [item.text for item in read_reason_seg(tmp_path, "train")] == ["the woman’s café"] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": []}, "'text' must be a non-empty list of non-empty strings"),
        ({"text": "words"}, "'text' must be a non-empty list of non-empty strings"),
        ({"text": ["  "]}, "'text' must be a non-empty list of non-empty strings"),
        (
            {"shapes": [{"label": "target", "points": [[1, 2, 3]]}]},
            r"shape 0: 'points' must be a non-empty list of \[x, y\]",
        ),
        ({"shapes": [{"label": "target", "points": [[1, 1e12]]}]}, "shape 0: the coordinate 10+ is far outside"),
        ({"shapes": [{"points": [[1, 2]]}]}, "the key 'label' is missing"),
        ({"shapes": None}, "not iterable"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_record(tmp_path, "broken", record(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        read_reason_seg(tmp_path, "train")
    assert "broken.json" in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val contains no \*\.jpg"):
        read_reason_seg(tmp_path, "val")
    write_record(tmp_path, "a", record(), split="val").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.json: not found"):
        read_reason_seg(tmp_path, "val")


def test_targets_are_named_by_label_then_shape_then_words(tmp_path: Path) -> None:
    def names(**changes: object) -> list[str]:
        write_record(tmp_path, "a", record(**changes))
        return [item.target_name for item in read_reason_seg(tmp_path, "train", texts="all")]

    assert names() == ["What is hot", "Which one burns"], "the shapes are only called target and ignore"
    assert names(text=["The Kettle.", "?"], is_sentence=False) == ["the kettle", "?"]
    shapes = [
        box("kettle", 0, 0, 1, 1),
        box("Ignored lid", 0, 0, 1, 1),
        box(" cup ", 2, 2, 3, 3),
        box("kettle", 4, 4, 5, 5),
    ]
    assert names(shapes=shapes) == ["kettle and cup"] * 2
    path = labels_file(tmp_path, "train")
    path.write_text(json.dumps({"a": ["The hot kettle. ", "the  burning one"], "other": ["x"]}))
    assert names(shapes=shapes) == ["The hot kettle", "the burning one"]
    assert names(text=["What is hot?"]) == ["The hot kettle"]
    path.write_text(json.dumps({"a": ["a kettle"]}))
    assert names() == ["a kettle"] * 2, "one for all"
    plain = read_reason_seg(tmp_path, "train", names=TargetNames.THE_TARGET)
    assert [item.target_name for item in plain] == [""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object of lists of labels by image"),
        ({"a": "label"}, "image 'a': expected a list of labels, got 'label'"),
        ({"a": []}, "image 'a': expected a list of labels"),
        ({"a": [3]}, "image 'a': a label"),
        ({"a": ["  "]}, "image 'a': "),
    ],
)
def test_broken_labels_are_named(tmp_path: Path, content: object, message: str) -> None:
    write_record(tmp_path, "a", record())
    labels_file(tmp_path, "train").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        read_reason_seg(tmp_path, "train")
    assert "train_reformulated_responses.json" in str(caught.value)
    read_reason_seg(tmp_path, "train", names=TargetNames.THE_TARGET)


def test_fewer_labels_than_instructions_are_refused(tmp_path: Path) -> None:
    write_record(tmp_path, "a", record(text=["A?", "B?", "C?"]))
    labels_file(tmp_path, "train").write_text(json.dumps({"a": ["x", "y"]}))
    with pytest.raises(ValueError, match=r"a\.json: there are 2 labels; give one for each instruction, or one for all"):
        read_reason_seg(tmp_path, "train", texts="all")
    assert read_reason_seg(tmp_path, "train")[0].target_name == "x", "only the first instruction is scored"


def test_explanations_by_image(tmp_path: Path) -> None:
    assert read_explanations(tmp_path) == {}
    path = split_folder(tmp_path, "explanatory") / "train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"image": "b.jpg", "query": "unread", "outputs": "It is  on\nfire."}]))
    assert read_explanations(tmp_path) == {"b.jpg": "It is on fire."}
    path.write_text(json.dumps([{"image": "b.jpg"}]))
    with pytest.raises(ValueError, match=r"train\.json, record 0: the key 'outputs' is missing"):
        read_explanations(tmp_path)
