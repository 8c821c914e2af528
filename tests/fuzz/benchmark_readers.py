"""Readers of the benchmarks beyond Partonomy: RefCOCO, gRefCOCO, ReasonSeg, InstructPart, TextVQA, GQA, POPE."""

import json
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from partonomy.benchmarks.gqa import read_gqa
from partonomy.benchmarks.grefcoco import NO_TARGET, TARGET, read_grefcoco
from partonomy.benchmarks.instruct_part import Instruction, annotation_file, read_instruct_part
from partonomy.benchmarks.pope import CATEGORIES, read_pope
from partonomy.benchmarks.reason_seg import read_explanations, read_reason_seg, split_folder
from partonomy.benchmarks.refcoco import COCO_FOLDER, read_referring, reference_file
from partonomy.benchmarks.segmentation import SegmentationItem
from partonomy.benchmarks.textvqa import read_textvqa
from partonomy.benchmarks.vqa import VqaItem, VqaProtocol
from partonomy.masks import decode_mask
from tests.fuzz import mutations, worlds
from tests.fuzz.outcomes import ACCEPTED, Refusal, attempt
from tests.fuzz.trial import Reader
from tests.partonomy.benchmarks import vqa_world

REFERRING_FILES = ("refs(unc).p", "instances.json")
GREFCOCO_FILES = ("grefs(unc).json", "instances.json")
TEXTVQA_FILES = ("TextVQA_0.5.1_val.json", "TextVQA_Rosetta_OCR_v0.2_val.json")
GQA_FILE = "questions/testdev_balanced_questions.json"

Items = Sequence[SegmentationItem] | Sequence[VqaItem]


def make_benchmark_readers(folder: Path) -> tuple[Reader, ...]:
    """`folder` gets the valid files that the strategies damage."""
    vqa_world.write_textvqa(folder / "textvqa")
    vqa_world.write_gqa(folder / "gqa")
    vqa_world.write_pope(folder / "pope")
    pope = [f"coco/coco_pope_{category}.json" for category in CATEGORIES]
    return (
        Reader("refCOCO", _referring_files(), write_referring, check_referring),
        Reader("gRefCOCO", _grefcoco_files(), write_grefcoco, check_grefcoco),
        Reader("ReasonSeg", _reason_seg_files(), write_reason_seg, check_reason_seg),
        Reader("InstructPart", mutations.damaged_json(INSTRUCT_PART), write_instruct_part, check_instruct_part),
        Reader(
            "TextVQA",
            _files(folder / "textvqa", TEXTVQA_FILES, mutations.damaged_json),
            vqa_world.write_textvqa,
            partial(check_vqa, partial(read_textvqa, split="val", with_ocr=True)),
        ),
        Reader(
            "GQA",
            _files(folder / "gqa", (GQA_FILE,), mutations.damaged_json),
            vqa_world.write_gqa,
            partial(check_vqa, partial(read_gqa, split="testdev", protocol=VqaProtocol.PARTONOMY_COMPAT)),
        ),
        Reader(
            "POPE",
            _files(folder / "pope", pope, None),
            vqa_world.write_pope,
            partial(check_vqa, partial(read_pope, split="all")),
        ),
    )


def check_vqa(read: Callable[[Path], Sequence[VqaItem]], case: tuple[str, bytes], folder: Path) -> str:
    """Every question that is read has an id of its own, and texts that can be shown and stored."""
    with Damage(folder, case):
        items = attempt(lambda: read(folder), folder)
    if isinstance(items, Refusal):
        return f"{case[0]}: refused: {items.reason_class}"
    assert len({item.item_id for item in items}) == len(items) > 0
    for item in items:
        texts = (item.item_id, item.image_id, item.question, *item.answers, *(item.ocr_tokens or ()), item.group)
        assert all(isinstance(text, str) for text in texts)
        "".join(texts).encode("utf-8")
        assert item.image_path.is_relative_to(folder)
        assert item.answers
    return f"{case[0]}: {ACCEPTED}"


def check_referring(case: tuple[str, bytes], folder: Path) -> str:
    """Every item has words and a mask of its image's size."""
    with Damage(folder / "refer_seg" / "refcoco", case):
        items = attempt(lambda: read_referring(folder, "refcoco", "val"), folder)
    if isinstance(items, Refusal):
        return f"{case[0]}: refused: {items.reason_class}"
    _use_items(items)
    return f"{case[0]}: {ACCEPTED}"


def check_grefcoco(case: tuple[str, bytes], folder: Path) -> str:
    """Every item has words and a mask of its image's size, and no pixel is meant where there is no target."""
    with Damage(folder / "refer_seg" / "grefcoco", case):
        items = attempt(lambda: read_grefcoco(folder, "val"), folder)
    if isinstance(items, Refusal):
        return f"{case[0]}: refused: {items.reason_class}"
    _use_items(items)
    for item in items:
        assert item.group == TARGET or (item.group == NO_TARGET and not decode_mask(item.mask).any())
    return f"{case[0]}: {ACCEPTED}"


def check_instruct_part(case: bytes, folder: Path) -> str:
    """Every part has an id of its own, words, and a mask of its image's size."""
    path = annotation_file(folder, "test")
    with Damage(path.parent, (path.name, case)):
        items = attempt(lambda: read_instruct_part(folder, "test", Instruction.AFFORDANCE_NAME), path)
    if isinstance(items, Refusal):
        return f"refused: {items.reason_class}"
    assert len({item.item_id for item in items}) == len(items) > 0
    _use_items(items)
    assert all(decode_mask(item.mask).any() for item in items)
    return ACCEPTED


def check_reason_seg(case: tuple[str, bytes], folder: Path) -> str:
    """The same, and the explanations beside the training images."""
    path = split_folder(folder, "train").parent / case[0]
    with Damage(path.parent, (path.name, case[1])):
        read = (lambda: read_explanations(folder)) if "explanatory" in case[0] else _read_reason_seg(folder)
        found = attempt(read, path)
    if isinstance(found, Refusal):
        return f"{case[0]}: refused: {found.reason_class}"
    if isinstance(found, dict):
        "".join([*found, *found.values()]).encode("utf-8")
    else:
        _use_items(found)
    return f"{case[0]}: {ACCEPTED}"


def _read_reason_seg(folder: Path) -> Callable[[], Any]:
    return lambda: read_reason_seg(folder, "train", texts="all")


def _use_items(items: Sequence[SegmentationItem]) -> None:
    for item in items:
        f"{item.item_id}{item.image_id}{item.text}".encode()
        assert item.text
        for mask in (item.mask, item.ignore_mask):
            assert mask is None or decode_mask(mask).shape == (item.height, item.width)


class Damage:
    """Puts a damaged file in its place, and the valid one back afterwards."""

    def __init__(self, folder: Path, case: tuple[str, bytes]) -> None:
        self._path, self._content = folder / case[0], case[1]
        self._valid = self._path.read_bytes()

    def __enter__(self) -> None:
        self._path.write_bytes(self._content)

    def __exit__(self, *error: object) -> None:
        self._path.write_bytes(self._valid)


def referring_documents() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Two references of a photograph, one of a class that is not asked for, and the masks."""
    sentences = [{"sent_id": number, "sent": text, "tokens": text.split()} for number, text in enumerate(("cup", " "))]
    references = [
        {"ref_id": number, "ann_id": 100 + number, "category_id": 1, "image_id": 7, "split": split}
        | {"sentences": sentences, "file_name": "COCO_train2014_000000000009_0.jpg"}
        for number, split in enumerate(("val", "train", "val"))
    ]
    forms = worlds.valid_segmentations()
    images = [{"id": 7, "file_name": worlds.IMAGE_NAME, "height": worlds.HEIGHT, "width": worlds.WIDTH}]
    annotations = [
        {"id": 100 + number, "image_id": 7, "category_id": 1, "segmentation": forms[place], "iscrowd": 0}
        for number, place in enumerate((6, 0, 1))
    ]
    return references, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}


def write_referring(folder: Path) -> None:
    references, instances = referring_documents()
    path = reference_file(folder, "refcoco")
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(references, protocol=2))
    (path.parent / "instances.json").write_text(json.dumps(instances))
    worlds.write_images(folder / COCO_FOLDER)


def grefcoco_documents() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The references of `referring_documents`: of one annotation, of several, and of none."""
    references, instances = referring_documents()
    for record, annotations in zip(references, ([100], [100, 102], [-1]), strict=True):
        record |= {"ann_id": annotations, "split": "val", "no_target": annotations == [-1]}
    return references, instances


def write_grefcoco(folder: Path) -> None:
    path = folder / "refer_seg" / "grefcoco"
    path.mkdir(parents=True)
    for name, content in zip(GREFCOCO_FILES, grefcoco_documents(), strict=True):
        (path / name).write_text(json.dumps(content))
    worlds.write_images(folder / COCO_FOLDER)


INSTRUCT_PART = [
    {
        "image_path": "Träger.jpg",
        "part_list": [
            {"object": "coffee pot", "part": part, "affordance": "hold", "action": "pour"}
            | {"instruction": ["Pour it.", "Serve it.", "Show it.", "Show what is held.", "handle", "held handle"]}
            for part in ("handle", "spout tip")
        ],
    }
]


def write_instruct_part(folder: Path) -> None:
    path = annotation_file(folder, "test")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(INSTRUCT_PART))
    for kind in ("images", "masks"):
        (path.parent / kind).mkdir()
    for part in ("handle", "spout_tip"):
        name = f"Träger-coffee_pot-{part}"
        Image.new("RGB", (worlds.WIDTH, worlds.HEIGHT)).save(path.parent / "images" / f"{name}.jpg")
        mask = Image.fromarray(worlds.box_mask(4, 3, 6, 5).astype("uint8") * 255)
        mask.save(path.parent / "masks" / f"{name}.png")


def reason_seg_document() -> dict[str, Any]:
    corners = [[2.0, 2.0], [9.5, 2.0], [9.5, 8.0], [2.0, 8.0]]
    shapes = [{"label": label, "points": corners, "shape_type": "polygon"} for label in ("target", "ignore", "flag")]
    return {"text": ["What is hot?", "Which one burns?"], "is_sentence": True, "shapes": shapes}


EXPLANATIONS = [{"image": "a.jpg", "query": "What is hot?", "outputs": "It is on\nfire."}]


def write_reason_seg(folder: Path) -> None:
    train = split_folder(folder, "train")
    train.mkdir(parents=True)
    Image.new("RGB", (worlds.WIDTH, worlds.HEIGHT)).save(train / "a.jpg")
    (train / "a.json").write_text(json.dumps(reason_seg_document()))
    (train.parent / "explanatory").mkdir()
    (train.parent / "explanatory" / "train.json").write_text(json.dumps(EXPLANATIONS))


@st.composite
def _referring_files(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(REFERRING_FILES))
    references, instances = referring_documents()
    if name == "instances.json":
        return name, draw(mutations.damaged_json(instances))
    if draw(st.booleans()):
        protocol = draw(st.sampled_from((0, 2, 2, 4)))
        return name, draw(mutations.damaged_bytes(pickle.dumps(references, protocol=protocol)))
    content = draw(mutations.damaged_json(references))
    try:
        return name, pickle.dumps(json.loads(content), protocol=2)
    except (ValueError, RecursionError):
        return name, content


@st.composite
def _grefcoco_files(draw: st.DrawFn) -> tuple[str, bytes]:
    place = draw(st.integers(0, 1))
    return GREFCOCO_FILES[place], draw(mutations.damaged_json(grefcoco_documents()[place]))


@st.composite
def _reason_seg_files(draw: st.DrawFn) -> tuple[str, bytes]:
    if draw(st.integers(0, 4)) == 0:
        return "explanatory/train.json", draw(mutations.damaged_json(EXPLANATIONS))
    return "train/a.json", draw(mutations.damaged_json(reason_seg_document()))


@st.composite
def _files(
    draw: st.DrawFn,
    folder: Path,
    names: Sequence[str],
    damaged: Callable[[Any], st.SearchStrategy[bytes]] | None,
) -> tuple[str, bytes]:
    """One of several JSON files, or of JSON-lines files where `damaged` is None."""
    name = draw(st.sampled_from(names))
    content = (folder / name).read_bytes()
    return name, draw(mutations.damaged_lines(content) if damaged is None else damaged(json.loads(content)))
