"""Small inputs of every source of `build`, and the flags that name them."""

from pathlib import Path

from tests.partonomy.datasets.published_files import (
    box_polygon,
    paco_file,
    part_imagenet_file,
    save_image,
    save_mat,
    write_json,
)


def write_inputs(folder: Path) -> None:
    """One small input of every kind that is read from files."""
    save_image(folder / "coco_images" / "train2017" / "000000391895.jpg")
    content = paco_file()
    # Six parts of two more images, so that there are enough for wrong answers.
    for number, name in enumerate(["hood", "roof", "door", "trunk", "bumper", "grille"]):
        content["categories"].append({"id": 3000 + number, "name": f"car_(automobile):{name}", "supercategory": "PART"})
        extra = {"id": 20 + number, "category_id": 3000 + number, "segmentation": box_polygon((14 + number, 2, 2, 2))}
        content["annotations"].append(content["annotations"][4] | extra)
    write_json(folder / "paco_lvis_v1_train.json", content)
    write_json(folder / "part_imagenet.json", part_imagenet_file())
    for name in ("n02100735_1234.JPEG", "n02814533_77.JPEG"):
        save_image(folder / "imagenet" / "train" / name[:9] / name)
    write_json(folder / "classes.json", {"n02100735": "English setter", "n02814533": "beach wagon"})
    codes = ["head", "leye", "reye", "beak", "torso", "neck", "lwing"]
    bird = ("bird", (0, 0, 30, 20), [(code, (number * 3, 1, 2, 9)) for number, code in enumerate(codes)])
    save_mat(folder / "Annotations_Part" / "2008_000008.mat", [bird])
    save_image(folder / "JPEGImages" / "2008_000008.jpg")


def source_flags(source: str, inputs: Path) -> list[str]:
    files = {
        "coco": ("paco_lvis_v1_train.json", "coco_images"),
        "paco": ("paco_lvis_v1_train.json", "coco_images"),
        "part_imagenet": ("part_imagenet.json", "imagenet"),
        "pascal_part": ("Annotations_Part", "JPEGImages"),
    }
    if source not in files:
        return ["--source", source, "--images", {"synthetic": "4", "dataset": str(inputs / "built")}[source]]
    annotations, images = files[source]
    return ["--source", source, "--annotations", str(inputs / annotations), "--images", str(inputs / images)]
