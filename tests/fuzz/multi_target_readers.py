"""Readers of MMR, RefCOCOm and multi-referring RefCOCO."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from partonomy.benchmarks.multi_referring import read_multi_referring
from partonomy.benchmarks.refcoco import COCO_FOLDER, reference_file
from partonomy.benchmarks.refcocom import read_refcocom
from partonomy.datasets.sources.mmr import MmrImage, ground_answer, mmr_file, read_mmr, write_mmr
from partonomy.masks import decode_mask
from tests.fuzz import mutations, worlds
from tests.fuzz.benchmark_readers import Damage, referring_documents
from tests.fuzz.outcomes import ACCEPTED, Refusal, attempt
from tests.fuzz.trial import Reader

REFCOCOM_FILE = "refer_seg/RefCOCOm/annotations/val.json"
INSTANCES = "refer_seg/refcoco/instances.json"
NAMES = ("cup", "dog's leg", "table_1", "car:wheel", "tree (oak)")


def make_multi_target_readers() -> tuple[Reader, ...]:
    return (
        Reader("MMR", mutations.damaged_json(mmr_document()), write_mmr_root, check_mmr),
        Reader("RefCOCOm", mutations.damaged_json(refcocom_document()), write_refcocom_root, check_refcocom),
        Reader(
            "multi-referring refCOCO", mutations.damaged_json(instances_document()), write_referring_root, check_multi
        ),
    )


def check_mmr(case: bytes, folder: Path) -> str:
    """What is read can be shown, grounded, decoded, and written and read again."""
    path = mmr_file(folder, "val")
    with Damage(path.parent, (path.name, case)):
        images = attempt(lambda: read_mmr(path), path)
    if isinstance(images, Refusal):
        return f"refused: {images.reason_class}"
    ids = [question.question_id for image in images for question in image.questions]
    assert len(set(ids)) == len(ids)
    for image in images:
        for question in image.questions:
            answer = ground_answer(question)
            f"{question.question_id}{question.question}{answer.text}{image.file_name}".encode()
            assert len(answer.spans) == len(answer.marked_words) == len(question.targets)
            for span in (*answer.spans, *answer.marked_words):
                assert span is None or 0 <= span.start < span.end <= len(answer.text)
            for target in question.targets:
                assert decode_mask(target.mask).shape == (image.height, image.width)
    write_mmr(images, folder / "again.json")
    assert read_mmr(folder / "again.json") == tuple(_with_one_code(image) for image in images)
    return ACCEPTED


def _with_one_code(image: MmrImage) -> MmrImage:
    """An image as it is written: every target has one mask, whatever number of codes it was read from."""
    questions = (
        replace(question, targets=tuple(replace(target, num_codes=1) for target in question.targets))
        for question in image.questions
    )
    return replace(image, questions=tuple(questions))


def check_refcocom(case: bytes, folder: Path) -> str:
    """Every item has words and a mask of its size."""
    with Damage(folder, (REFCOCOM_FILE, case)):
        items = attempt(lambda: read_refcocom(folder, "val"), folder)
    if isinstance(items, Refusal):
        return f"refused: {items.reason_class}"
    assert len({item.item_id for item in items}) == len(items) > 0
    for item in items:
        f"{item.item_id}{item.image_id}{item.text}".encode()
        assert item.text
        assert decode_mask(item.mask).shape == (item.height, item.width)
    return ACCEPTED


def check_multi(case: bytes, folder: Path) -> str:
    """Every question names its targets."""
    with Damage(folder, (INSTANCES, case)):
        items = attempt(lambda: read_multi_referring(folder, "multirefcoco", "val"), folder)
    if isinstance(items, Refusal):
        return f"refused: {items.reason_class}"
    assert len(items) > 0
    for item in items:
        f"{item.item_id}{item.text}{item.answer.text}".encode()
        for target in item.targets:
            assert target.category_name in item.text
            assert decode_mask(target.mask).any()
    return ACCEPTED


def mmr_document() -> list[dict[str, Any]]:
    """Two questions about one image: masks in several forms, all kinds of names."""
    forms = worlds.valid_segmentations()
    targets = [
        {"category_name": name, "segmentation": forms[0], "bbox": [4.0, 3.0, 6.0, 5.0], "category_id": 1}
        for name in NAMES
    ]
    targets[1]["segmentation"] = [forms[0], forms[1]]
    targets[2]["granularity"] = "part"
    record = {
        "file_name": f"train2017/{worlds.IMAGE_NAME}",
        "height": worlds.HEIGHT,
        "width": worlds.WIDTH,
        "image_id": 9,
        "questions": ["Which ones?", "What else?"],
        "annotations": [],
        "answers": [targets[:2], targets[2:]],
        "text_answers": ["The cup {seg} and a dog's leg {seg}.", "The table {seg}, {seg} and tree {seg} ."],
    }
    return [record]


def write_mmr_root(folder: Path) -> None:
    path = mmr_file(folder, "val")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(mmr_document()))


def refcocom_document() -> list[dict[str, Any]]:
    sentences = [{"sent": text, "sent_id": number} for number, text in enumerate(("left cup", " ", "Ärmel"))]
    return [{"img_name": worlds.IMAGE_NAME, "segment_id": 3, "cat": 1, "sentences": sentences}]


def write_refcocom_root(folder: Path) -> None:
    path = folder / REFCOCOM_FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(refcocom_document()))
    masks = path.parents[1] / "masks"
    masks.mkdir()
    Image.fromarray(worlds.box_mask(4, 3, 6, 5).astype("uint8") * 255).save(masks / "3.png")
    worlds.write_images(folder / COCO_FOLDER)


def instances_document() -> dict[str, Any]:
    """The image of `referring_documents` with an instance of five classes, masks in several forms."""
    _, instances = referring_documents()
    forms = worlds.valid_segmentations()
    annotations = [
        {"id": 100 + place, "image_id": 7, "category_id": place, "segmentation": forms[place % 3]} for place in range(5)
    ]
    categories = [{"id": place, "name": name} for place, name in enumerate(NAMES)]
    return {"images": instances["images"], "annotations": annotations, "categories": categories}


def write_referring_root(folder: Path) -> None:
    references, _ = referring_documents()
    path = reference_file(folder, "refcoco")
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(references, protocol=2))
    (folder / INSTANCES).write_text(json.dumps(instances_document()))
    worlds.write_images(folder / COCO_FOLDER)
