"""Write a miniature copy of every download of stage 0 and of the benchmarks (`scripts/make_miniature_data.py`).

As in the originals, COCO's photographs are shared by COCO-Stuff, PACO, LLaVA-Instruct and MMR, and, under their older
names, by refCOCO, refCOCO+, refCOCOg, RefCOCOm and gRefCOCO.
"""

from collections.abc import Sequence
from pathlib import Path

from partonomy.benchmarks.refcoco import REFERRING_SETS
from plum.data.miniature.label_layouts import (
    write_ade20k,
    write_cocostuff,
    write_mapillary,
    write_street_scenes,
)
from plum.data.miniature.multi_target_layouts import (
    write_grefcoco,
    write_instruct_part,
    write_mmr_files,
    write_refcocom,
)
from plum.data.miniature.part_layouts import paco_file, write_part_imagenet, write_pascal_part
from plum.data.miniature.pictures import Picture, draw_pictures, save_image, write_json
from plum.data.miniature.question_layouts import write_gqa, write_pope, write_textvqa
from plum.data.miniature.text_layouts import SPLITS, dialogue, write_reason_seg, write_referring

MIN_IMAGES = len(SPLITS)
"""With fewer images a split would be empty."""


def write_miniature(root: Path, num_images: int, size: int = 128, seed: int = 0) -> None:
    """Write every layout.

    Args:
        root: new folder, the root of the downloads.
        num_images: number of pictures in each data set.
        size: height of the pictures in pixels.
        seed: seed of the drawings.

    Raises:
        ValueError: `num_images` is less than `MIN_IMAGES`.
    """
    if num_images < MIN_IMAGES:
        raise ValueError(
            f"a miniature needs at least {MIN_IMAGES} images, so that every split has one; got {num_images}"
        )
    coco = draw_pictures(num_images, size, seed)
    others = draw_pictures(num_images, size, seed + 1)
    write_coco(root, coco)
    for name, layout in REFERRING_SETS.items():
        write_referring(root, name, layout.split_by, others if name == "refclef" else coco)
    write_mmr_files(root, coco)
    write_refcocom(root, coco)
    write_grefcoco(root, coco)
    write_ade20k(root, others)
    write_mapillary(root, others)
    write_pascal_part(root, others)
    write_part_imagenet(root, others)
    write_reason_seg(root, others)
    write_instruct_part(root, others)
    unseen = draw_pictures(num_images, size, seed + 2)
    write_textvqa(root, unseen)
    write_gqa(root, unseen)
    write_pope(root, unseen)
    write_street_scenes(root, unseen)


def write_coco(root: Path, pictures: Sequence[Picture]) -> None:
    """Write the photographs under both of their names, COCO-Stuff's maps, PACO, and LLaVA's dialogues."""
    for picture in pictures:
        save_image(root / "coco" / "train2017" / picture.coco_name, picture.image)
        old = f"COCO_train2014_{picture.coco_name}"
        save_image(root / "refer_seg/images/mscoco/images/train2014" / old, picture.image)
    write_cocostuff(root, pictures)
    write_json(root / "vlpart/paco/annotations/paco_lvis_v1_train.json", paco_file(pictures))
    write_json(root / "llava_dataset/llava_instruct_150k.json", [dialogue(picture) for picture in pictures])
