"""One root that holds tiny RefCOCO and ReasonSeg data in LISA's layout, with drawn images."""

import json
import pickle
from pathlib import Path

from tests.partonomy.benchmarks.vqa_world import draw

SIZE = (32, 24)  # width, height


def write_segmentation_root(root: Path) -> None:
    """Two expressions about one RefCOCO image (val), one of each kind for ReasonSeg (val)."""
    width, height = SIZE
    images = root / "refer_seg" / "images" / "mscoco" / "images" / "train2014"
    draw(images / "COCO_train2014_1.jpg", 0, SIZE)
    sentences = [{"sent_id": 1, "sent": "Left Cup ", "tokens": []}, {"sent_id": 2, "sent": "cup", "tokens": []}]
    reference = {"ref_id": 5, "ann_id": 7, "category_id": 1, "image_id": 1, "split": "val", "sentences": sentences}
    instances = {
        "images": [{"id": 1, "file_name": "COCO_train2014_1.jpg", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 16, 0, 16, 24, 0, 24]]}],
    }
    for name, splitter in (("refcoco", "unc"), ("refcocog", "umd")):
        folder = root / "refer_seg" / name
        folder.mkdir(parents=True)
        (folder / f"refs({splitter}).p").write_bytes(pickle.dumps([reference], protocol=2))
        (folder / "instances.json").write_text(json.dumps(instances))
    target = {"label": "target", "points": [[2, 2], [20, 2], [20, 18], [2, 18]]}
    ignored = {"label": "ignore", "points": [[4, 4], [8, 4], [8, 8], [4, 8]]}
    for number, (text, is_sentence) in enumerate((("what holds tea", False), ("Where would you pour tea?", True))):
        path = root / "reason_seg" / "ReasonSeg" / "val" / f"{number}.jpg"
        draw(path, number, SIZE)
        record = {"text": [text], "is_sentence": is_sentence, "shapes": [target, ignored]}
        path.with_suffix(".json").write_text(json.dumps(record))
