"""Texts about drawn pictures: referring expressions, ReasonSeg, dialogues of LLaVA-Instruct."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partonomy.masks import encode_mask, rle_to_json
from plum.data.miniature.coco_form import Category, CocoForm
from plum.data.miniature.pictures import Picture, polygons, rings, save_image, write_json

SPLITS = ("train", "train", "val", "train", "testA", "testB")


def write_referring(root: Path, name: str, split_by: str, pictures: Sequence[Picture]) -> None:
    """Write `refs(...).p` (pickle protocol 2) and `instances.json`; refCLEF has run-length codes and its own images."""
    is_refclef = name == "refclef"
    form, references = CocoForm(), []
    for picture in pictures:
        file_name = f"COCO_train2014_{picture.coco_name}"
        if is_refclef:
            file_name = f"{picture.number}.jpg"
            save_image(root / "refer_seg/images/saiapr_tc-12" / file_name, picture.image)
        mask = [rle_to_json(encode_mask(picture.mask))] if is_refclef else polygons(picture.mask)
        record = form.annotate(picture, Category(picture.label, "thing"), mask)
        if not is_refclef:  # other things in the picture, to which no sentence refers
            for part, part_mask in picture.parts.items():
                form.annotate(picture, Category(part, "thing"), polygons(part_mask))
        form.add_image(picture, file_name)
        split = SPLITS[picture.number % len(SPLITS)]
        sentences = (f"the {picture.colour} {picture.label}", f"{picture.label} in the middle", f"{picture.label}")
        first = len(sentences) * picture.number
        references.append(
            {
                "ref_id": picture.number,
                "ann_id": record["id"],
                "category_id": record["category_id"],
                "image_id": picture.number,
                "file_name": file_name,
                "split": "test" if split_by == "umd" and split.startswith("test") else split,
                "sent_ids": [first + i for i in range(len(sentences))],
                "sentences": [
                    {"tokens": text.split(), "raw": text, "sent_id": first + i, "sent": text}
                    for i, text in enumerate(sentences)
                ],
            }
        )
    folder = root / "refer_seg" / name
    write_json(folder / "instances.json", form.content())
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(references, protocol=2))


def write_reason_seg(root: Path, pictures: Sequence[Picture]) -> None:
    """Write an image and a JSON file per picture, with polygons of target and ignored region, and explanations."""
    folder = root / "reason_seg" / "ReasonSeg"
    explanations = []
    for picture in pictures:
        split = SPLITS[picture.number % len(SPLITS)].rstrip("AB")
        stem = f"{picture.number:06d}_drawn"
        save_image(folder / split / f"{stem}.jpg", picture.image)
        shapes = [{"label": "target", "points": ring, "shape_type": "polygon"} for ring in rings(picture.mask)]
        shapes.append({"label": "ignore", "points": [[0, 0], [7, 0], [7, 5], [0, 5]], "shape_type": "polygon"})
        is_sentence = picture.number % 3 != 2
        sentence = "Which thing in the picture was drawn last?"
        texts = [sentence, "What was put in front of everything else?"] if is_sentence else [f"the {picture.label}"]
        write_json(folder / split / f"{stem}.json", {"text": texts, "is_sentence": is_sentence, "shapes": shapes})
        if split == "train" and is_sentence:
            reason = f"The {picture.label} covers everything behind it, so it was drawn last."
            explanations.append({"image": f"{stem}.jpg", "query": sentence, "outputs": reason})
    write_json(folder / "explanatory" / "train.json", explanations)


def dialogue(picture: Picture) -> dict[str, Any]:
    """Return a record of LLaVA-Instruct: two exchanges, with the image token before or after the first question."""
    question = "What is drawn here?"
    turns = [
        f"{question}\n<image>" if picture.number % 2 else f"<image>\n{question}",
        f"It is a drawing of a {picture.label}.",
        "Which colour does it have?",
        f"The {picture.label} is {picture.colour}.",
    ]
    conversations = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]
    return {"id": Path(picture.coco_name).stem, "image": picture.coco_name, "conversations": conversations}
