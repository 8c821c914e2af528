"""Input made to crash a reader or fill the memory, read in a process with limits.

`python -m tests.fuzz.hostile NAME [NUM_PARTS]` with a name of CASES; 100000 parts take a minute or two.

Without the checks before it, pycocotools reads beyond the end of some of these codes or lists the pixels of an outline
around a continent. The limits on memory and time tell a bound from its absence; they measure nothing.
"""

import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from partonomy.datasets.record_exchange import import_records
from partonomy.datasets.sources.coco import read_coco
from partonomy.datasets.sources.records import CocoConfig
from partonomy.datasets.store import load_questions
from partonomy.masks import decode_mask, encode_mask, rle_from_coco, rle_to_json
from tests.fuzz import worlds

MEMORY_LIMIT = 3 << 30  # bytes of address space
TIME_LIMIT = 300  # seconds of processor time
NUM_PARTS = 20_000
SIDE = 1000  # pixels
HEIGHT, WIDTH = worlds.HEIGHT, worlds.WIDTH


def refused_masks() -> list[tuple[Any, int, int]]:
    """(segmentation, height, width) that must all be refused."""
    size = [HEIGHT, WIDTH]
    zigzag = [float(value) for _ in range(100_000) for value in (-WIDTH, 0, 2 * WIDTH, HEIGHT)]
    deep: Any = {"size": size, "counts": "0"}
    for _ in range(100_000):
        deep = {"segmentation": deep}
    texts = (
        "o",
        "P0o",
        "P" * 1_000_000,
        "P" * 20 + "0",
        "o" * 999 + "1",
        "\xff\xfe",
        "漢字",
        "\0",
        "`o0Ph3",
        "0" * 1_000_000,
    )
    runs: tuple[Any, ...] = (
        [],
        [-1, 769],
        [2**40],
        [2**64],
        [10**30],
        [767.0],
        [True, 767],
        ["768"],
        [[768]],
        [768, 0.5],
    )
    cases: list[tuple[Any, int, int]] = [
        ({"size": size, "counts": counts}, HEIGHT, WIDTH) for counts in (*texts, *runs)
    ]
    cases += [
        ({"size": [10**9, 10**9], "counts": [10**18]}, 10**9, 10**9),
        ({"size": [10**9, 10**9], "counts": "0"}, 10**9, 10**9),
        ({"size": [2**16, 2**16], "counts": [2**32]}, 2**16, 2**16),
        ({"size": [0, 0], "counts": "0"}, 0, 0),
        ([[0, 0, 1e9, 0, 1e9, 1e9, 0, 1e9]], HEIGHT, WIDTH),
        ([[0, 0, 10**400, 0, 5, 5]], HEIGHT, WIDTH),
        ([[-1e300, 0, 1e300, 0, 5, 5]], HEIGHT, WIDTH),
        ([zigzag], HEIGHT, WIDTH),
        (deep, HEIGHT, WIDTH),
    ]
    return cases


def read_masks(folder: Path, num_parts: int) -> None:
    """Every one is refused by name; twenty thousand outlines around the whole image are one mask."""
    for number, (segmentation, height, width) in enumerate(refused_masks()):
        try:
            rle_from_coco(segmentation, height, width, "here")
        except ValueError as error:
            if not str(error).startswith("here: ") or len(str(error)) > 1000:
                raise
        else:
            raise AssertionError(f"mask {number} was read")
    whole = [0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]
    assert decode_mask(rle_from_coco([whole] * 20_000, HEIGHT, WIDTH, "here")).all()


def read_claimed_images(folder: Path, num_parts: int) -> None:
    """Record and annotation files that claim an image of 10^18 pixels, one of which is there."""
    png = worlds.image_contents()["rgb.png"]
    (folder / "bomb.png").write_bytes(worlds.claim_size(png, 2**31 - 1, 2**31 - 1))
    (folder / "small.png").write_bytes(png)
    record = worlds.record_document()[0]
    for name in ("bomb.png", "small.png"):
        path = folder / "qa_pairs.json"
        huge = {label: [{"size": [10**9, 10**9], "counts": [10**18]}] for label in record["segmentations"]}
        path.write_text(json.dumps([record | {"image_path": name, "segmentations": huge}]))
        assert len(load_questions(path, invalid="collect").invalid) == 1
        document = worlds.coco_document()
        document["images"][0] |= {"file_name": name, "height": 10**9, "width": 10**9}
        (folder / "instances.json").write_text(json.dumps(document))
        reading = read_coco(CocoConfig(folder / "instances.json", folder, invalid="collect"))
        assert any(name in row.reason for row in reading.skipped)


def _part_mask(number: int) -> dict[str, object]:
    """Two pixels of their own for every part, as runs."""
    start = 2 * number
    return {"size": [SIDE, SIDE], "counts": [start, 2, SIDE * SIDE - start - 2]}


def read_many_parts_of_a_record(folder: Path, num_parts: int) -> None:
    """Two records of very many parts, imported and read again."""
    Image.new("RGB", (SIDE, SIDE)).save(folder / "a.png")
    names = [f"part {number}" for number in range(num_parts)]
    text = "It has the following visible parts: " + ", ".join(names) + "."
    record = worlds.record_document()[0] | {
        "image_path": "a.png",
        "answer_choices": [text, "It has the following visible parts: part 1."],
        "answer_types": ["correct", "incorrect"],
        "answer_parts": [names[::-1], ["part 1"]],
        "segmentations": {name: [_part_mask(number)] for number, name in enumerate(names)},
    }
    (folder / "qa_pairs.json").write_text(json.dumps([record, record]))
    assert import_records(folder / "qa_pairs.json", folder / "set").num_questions == 2
    question = load_questions(folder / "set").questions[1]
    assert question.correct_choice.parts == tuple(names)
    assert len(question.masks) == num_parts


def read_many_parts_of_an_image(folder: Path, num_parts: int) -> None:
    """Very many part annotations of one image: half of them linked to an object, half to be found in one of 20."""
    Image.new("RGB", (SIDE, SIDE)).save(folder / "a.png")
    columns = np.arange(SIDE) // (SIDE // 20)
    annotations: list[dict[str, Any]] = []
    for number in range(20):
        mask = np.broadcast_to(columns == number, (SIDE, SIDE))
        annotations.append({"category_id": 0, "segmentation": rle_to_json(encode_mask(mask))})
    for number in range(num_parts):
        link = {"obj_ann_id": 0} if number % 2 else {}
        annotations.append({"category_id": 1, "segmentation": _part_mask(number)} | link)
    document = {
        "images": [{"id": 0, "file_name": "a.png", "height": SIDE, "width": SIDE}],
        "categories": [{"id": 0, "name": "wall"}, {"id": 1, "name": "wall:brick"}],
        "annotations": [{"id": number, "image_id": 0} | one for number, one in enumerate(annotations)],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    (image,) = read_coco(CocoConfig(folder / "instances.json", folder)).dataset.images
    # Two pixels each, column by column: 500 parts a column, 25,000 an object, half of them without a link.
    found = [min(max(num_parts - 25_000 * number, 0), 25_000) // 2 for number in range(20)]
    found[0] += num_parts // 2
    numbers = {
        instance.instance_id: [len(part.annotation_ids) for part in instance.parts] for instance in image.objects
    }
    assert numbers == {number: [count] if count else [] for number, count in enumerate(found)}


CASES = {
    "masks": read_masks,
    "claims": read_claimed_images,
    "record": read_many_parts_of_a_record,
    "image": read_many_parts_of_an_image,
}


def main(name: str, num_parts: int = NUM_PARTS) -> None:
    """Read one kind of input under the limits."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT, TIME_LIMIT))
    with tempfile.TemporaryDirectory() as folder:
        CASES[name](Path(folder), num_parts)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
