"""`annotations.json` of the project's own form: objects and parts as COCO-style annotations (see `store`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partonomy.masks import rle_area, rle_bbox, rle_from_coco, rle_to_json
from partonomy.structures import RLE, AnnotatedImage, ObjectInstance, Part, PartDataset

OBJECT = "OBJECT"
PART = "PART"


def annotations_to_json(dataset: PartDataset) -> dict[str, Any]:
    """Return the content of `annotations.json`; every part must have exactly one annotation id."""
    instances = [instance for image in dataset.images for instance in image.objects]
    categories: dict[str, dict[str, Any]] = {}
    for instance in sorted(instances, key=lambda instance: instance.label):
        categories[instance.label] = {"supercategory": OBJECT, "category": instance.category}
    for label, part_label in sorted(
        {(instance.label, part.label) for instance in instances for part in instance.parts}
    ):
        categories[f"{label}:{part_label}"] = {"supercategory": PART, "part": part_label}
    category_id = {name: number for number, name in enumerate(categories, start=1)}
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        for instance in image.objects:
            extra: dict[str, Any] = {} if instance.box is None else {"marked_box": list(instance.box)}
            record = {"id": instance.instance_id, "image_id": image.image_id, "obj_ann_id": instance.instance_id}
            record |= {"category_id": category_id[instance.label]} | _mask_to_json(instance.mask) | extra
            annotations.append(record)
            for part in instance.parts:
                record = {"id": part.annotation_ids[0], "image_id": image.image_id, "obj_ann_id": instance.instance_id}
                name = f"{instance.label}:{part.label}"
                annotations.append(record | {"category_id": category_id[name]} | _mask_to_json(part.mask))
    return {
        "images": [
            {"id": image.image_id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in dataset.images
        ],
        "categories": [{"id": category_id[name], "name": name} | content for name, content in categories.items()],
        "annotations": annotations,
    }


def _mask_to_json(mask: RLE | None) -> dict[str, Any]:
    if mask is None:
        return {"segmentation": None, "iscrowd": 0}
    box, area = list(rle_bbox(mask)), rle_area(mask)
    return {"segmentation": rle_to_json(mask), "bbox": box, "area": area, "iscrowd": 0}


def annotations_from_json(content: Mapping[str, Any], path: Path) -> tuple[AnnotatedImage, ...]:
    """Read the content of `annotations.json`; errors name the file and the annotation."""
    try:
        categories = {category["id"]: category for category in content["categories"]}
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        masks = {record["id"]: _read_mask(record, sizes, path) for record in content["annotations"]}
        parts: dict[int, list[Part]] = {}
        for record in content["annotations"]:
            category = categories[record["category_id"]]
            if category["supercategory"] == PART:
                mask = masks[record["id"]]
                if mask is None:
                    raise ValueError(f"{path}, annotation {record['id']}: a part needs a mask")
                parts.setdefault(record["obj_ann_id"], []).append(Part(category["part"], mask, (record["id"],)))
        objects: dict[int, list[ObjectInstance]] = {image_id: [] for image_id in sizes}
        for record in content["annotations"]:
            category = categories[record["category_id"]]
            if category["supercategory"] == OBJECT:
                number, box = record["id"], record.get("marked_box")
                own_parts = tuple(parts.pop(number, ()))
                objects[record["image_id"]].append(
                    ObjectInstance(number, category["name"], category["category"], own_parts, masks[number], _box(box))
                )
        images = tuple(
            AnnotatedImage(image["id"], image["file_name"], *sizes[image["id"]], tuple(objects[image["id"]]))
            for image in content["images"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: a key or id is missing or of the wrong type: {error!r}") from error
    if parts:
        raise ValueError(f"{path}: parts refer to objects that are not annotated, obj_ann_id {sorted(parts)[:5]}")
    return images


def _box(values: list[int] | None) -> tuple[int, int, int, int] | None:
    return None if values is None else (values[0], values[1], values[2], values[3])


def _read_mask(record: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]], path: Path) -> RLE | None:
    if record["segmentation"] is None:
        return None
    height, width = sizes[record["image_id"]]
    return rle_from_coco(record["segmentation"], height, width, f"{path}, annotation {record['id']}")
