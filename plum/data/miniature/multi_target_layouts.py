"""Questions about several targets, parts or no target, in published formats: MMR, RefCOCOm, gRefCOCO, InstructPart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from partonomy.benchmarks import instruct_part
from partonomy.masks import encode_mask, rle_to_json
from plum.data.miniature.coco_form import Category, CocoForm
from plum.data.miniature.part_layouts import LVIS_NAMES
from plum.data.miniature.pictures import Picture, polygons, save_image, save_map, write_json
from plum.data.miniature.text_layouts import SPLITS

MMR_IMAGES = "refer_seg/images/mscoco/images/train2017"
MAX_PARTS = 3
"""Maximum number of parts that one question asks for."""

Question = tuple[str, str, list[dict[str, Any]]]
"""Question text, answer with `{seg}`, annotations of the targets."""


def write_mmr_files(root: Path, pictures: Sequence[Picture]) -> None:
    """Write the five files below `MMR/`: train, val, and the test sets about both, objects only and parts only."""
    by_split: dict[str, list[Picture]] = {"train": [], "val": [], "test": []}
    for picture in pictures:
        save_image(root / MMR_IMAGES / picture.coco_name, picture.image)
        by_split[SPLITS[picture.number % len(SPLITS)].rstrip("AB")].append(picture)
    files = {
        "train": (by_split["train"], ("object", "part", "mixed")),
        "val": (by_split["val"], ("object", "part", "mixed")),
        "test_mixed": (by_split["test"], ("object", "part", "mixed")),
        "test_obj_only": (by_split["test"], ("object",)),
        "test_part_only": (by_split["test"], ("part",)),
    }
    for name, (members, kinds) in files.items():
        records = [mmr_record(picture, kinds) for picture in members]
        write_json(root / "MMR" / f"MMR_{name}.json", records)


def mmr_record(picture: Picture, kinds: Sequence[str]) -> dict[str, Any]:
    """Return a record with the keys that Figure 11 of the paper lists; masks are compressed run-length codes."""
    raw = LVIS_NAMES.get(picture.label, picture.label.replace(" ", "_"))
    whole = _annotation(picture, raw, picture.mask)
    parts = {
        name: _annotation(picture, f"{raw}:{name.replace(' ', '_')}", mask)
        for name, mask in list(picture.parts.items())[:MAX_PARTS]
    }
    first = next(iter(parts))
    listed = [f"the {picture.label}'s {name} {{seg}}" for name in parts]
    questions: dict[str, list[Question]] = {
        "object": [("What was drawn here last?", f"It is the {picture.label} {{seg}}.", [whole])],
        "part": [
            ("Which pieces belong together?", f"They are {_list(listed)}.", list(parts.values())),
            ("What would you look at first?", f"One would look at {listed[0]}.", [parts[first]]),
        ],
        "mixed": [
            (
                "What stands out, and which piece of it would you name?",
                f"The {picture.label} {{seg}} stands out, with the {first} of the {picture.label} {{seg}}.",
                [whole, parts[first]],
            )
        ],
    }
    asked = [question for kind in kinds for question in questions[kind]]
    height, width = picture.mask.shape
    return {
        "file_name": f"train2017/{picture.coco_name}",
        "height": height,
        "width": width,
        "image_id": int(Path(picture.coco_name).stem),
        "not_exhaustive_category_ids": [],
        "neg_category_ids": [],
        "coco_url": f"http://images.cocodataset.org/train2017/{picture.coco_name}",
        "questions": [words for words, _, _ in asked],
        "annotations": [whole, *parts.values()],
        "answers": [annotations for _, _, annotations in asked],
        "text_answers": [answer for _, answer, _ in asked],
        "raw_answers": [answer.replace(" {seg}", "") for _, answer, _ in asked],
    }


def write_refcocom(root: Path, pictures: Sequence[Picture]) -> None:
    """Write `val.json`, `testA.json`, `testB.json` (objects and parts), their `_part` versions (parts), and masks."""
    folder = root / "refer_seg" / "RefCOCOm"
    records: dict[str, list[dict[str, Any]]] = {}
    number = 0
    for picture in pictures:
        split = SPLITS[picture.number % len(SPLITS)]
        if split == "train":
            continue
        expressions = {f"the {picture.colour} {picture.label}": picture.mask}
        parts = {f"{name} of the {picture.label}": mask for name, mask in picture.parts.items()}
        for text, mask in (expressions | parts).items():
            save_map(folder / "masks" / f"{number}.png", np.where(mask, 255, 0).astype(np.uint8))
            record = {
                "bbox": list(cv2.boundingRect(mask.astype(np.uint8))),
                "cat": 1,
                "segment_id": number,
                "img_name": f"COCO_train2014_{picture.coco_name}",
                "sentences": [{"idx": 0, "sent_id": number, "sent": text}],
                "sentences_num": 1,
            }
            records.setdefault(split, []).append(record)
            if text in parts:
                records.setdefault(f"{split}_part", []).append(record)
            number += 1
    for name, of_file in records.items():
        write_json(folder / "annotations" / f"{name}.json", of_file)


def write_grefcoco(root: Path, pictures: Sequence[Picture]) -> None:
    """Write `grefs(unc).json` and `instances.json`: expressions with one target, several and none for every picture."""
    form = CocoForm()
    references: list[dict[str, Any]] = []
    for picture in pictures:
        file_name = f"COCO_train2014_{picture.coco_name}"
        form.add_image(picture, file_name)
        whole = form.annotate(picture, Category(picture.label, "thing"), polygons(picture.mask))
        parts = {
            name: form.annotate(picture, Category(name, "thing"), polygons(mask))
            for name, mask in list(picture.parts.items())[:MAX_PARTS]
        }
        absent = next(one.label for one in (*pictures, *pictures) if one.label != picture.label)
        for text, targets in (
            (f"the {picture.colour} {picture.label}", [whole]),
            (_list([f"the {name}" for name in parts]), list(parts.values())),
            (f"the {absent}", []),
        ):
            number = len(references)
            references.append(
                {
                    "image_id": picture.number,
                    "split": SPLITS[picture.number % len(SPLITS)],
                    "sentences": [{"tokens": text.split(), "raw": text, "sent_id": number, "sent": text}],
                    "file_name": file_name,
                    "category_id": [target["category_id"] for target in targets] or [-1],
                    "ann_id": [target["id"] for target in targets] or [-1],
                    "sent_ids": [number],
                    "ref_id": number,
                    "no_target": not targets,
                }
            )
    folder = root / "refer_seg" / "grefcoco"
    write_json(folder / "instances.json", form.content())
    write_json(folder / "grefs(unc).json", references)


def write_instruct_part(root: Path, pictures: Sequence[Picture]) -> None:
    """Write the test set and a training set: for each part a copy of its picture, a mask and six wordings."""
    records: dict[str, list[dict[str, Any]]] = {"test": [], "train1800": []}
    for picture in pictures:
        split = "train1800" if SPLITS[picture.number % len(SPLITS)] == "train" else "test"
        folder = instruct_part.annotation_file(root, split).parent
        stem = f"drawn{picture.number}"
        parts = []
        for part, mask in list(picture.parts.items())[:MAX_PARTS]:
            name = "-".join([stem, picture.label.replace(" ", "_"), part.replace(" ", "_")])
            save_image(folder / "images" / f"{name}.jpg", picture.image)
            save_map(folder / "masks" / f"{name}.png", np.where(mask, 255, 0).astype(np.uint8))
            phrase = f"{part} of the {picture.label}"
            parts.append(
                {
                    "object": picture.label,
                    "part": part,
                    "affordance": "touch",
                    "action": "touch",
                    "instruction": [
                        f"Where would you touch this to feel what only the {part} feels like?",
                        f"Which piece must be touched to learn how the {part} feels?",
                        f"Show the {phrase}.",
                        f"Show the {phrase} that can be touched.",
                        phrase,
                        f"{phrase} that can be touched",
                    ],
                }
            )
        records[split].append({"image_path": f"{stem}.jpg", "part_list": parts})
    for split, of_split in records.items():
        write_json(instruct_part.annotation_file(root, split), of_split)


def _annotation(picture: Picture, name: str, mask: np.ndarray) -> dict[str, Any]:
    return {
        "bbox": [float(value) for value in cv2.boundingRect(mask.astype(np.uint8))],
        "segmentation": rle_to_json(encode_mask(mask)),
        "image_id": int(Path(picture.coco_name).stem),
        "category_name": name,
        "category_id": 1,
        "sorted_category_id": 1,
    }


def _list(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
