"""Multiplies a small data set and a run on it: as many records as wanted, with ids and images of their own.

For measurements and tests of what memory and time the commands on finished runs take per record. Every copy of an image
has its own id, name and content (bytes after the end of the picture), so that no reader takes two copies for one image.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from partonomy.datasets.kept_values import BUILD_KEY
from partonomy.datasets.seal import SEAL_KEY
from partonomy.datasets.store import ANNOTATIONS_FILE, BUILD_FILE, DATASET_FILE, QUESTIONS_FILE
from partonomy.files import read_json, write_json
from partonomy.harness.run_folder import MODEL_FILE, RECORDS_FILE, read_config, write_config
from partonomy.line_checksums import CHECKSUM_KEY, add_checksum

IDS = ("id", "image_id", "instance_id", "obj_ann_id")
LISTS = ("images", "annotations")
Keep = Callable[[int, Mapping[str, Any]], bool]


def multiply_dataset(source: Path, folder: Path, num_copies: int) -> None:
    """Write a data set of so many copies of another one.

    Args:
        source: a built data set folder; what an import has kept of published records is left out.
        folder: the folder to write.
        num_copies: the number of copies; the first one keeps its ids.
    """
    content = read_json(source / ANNOTATIONS_FILE)
    step = 1 + max(record["id"] for name in LISTS for record in content[name])
    images = folder / "images"
    images.mkdir(parents=True)
    root = source / read_json(source / DATASET_FILE)["image_root"]
    for image in content["images"]:
        picture = (root / image["file_name"]).read_bytes()
        for copy in range(num_copies):
            (images / _copied_name(image["file_name"], copy)).write_bytes(picture + copy.to_bytes(8))
    with (folder / ANNOTATIONS_FILE).open("w", encoding="utf-8") as file:
        for place, name in enumerate(("images", "categories", "annotations")):
            records = iter(content[name]) if name == "categories" else _copies(content[name], num_copies, step)
            file.write(f'{"," if place else "{"}"{name}":[')
            for number, record in enumerate(records):
                file.write(("," if number else "") + json.dumps(record, separators=(",", ":")))
            file.write("]")
        file.write("}\n")
    lines = (source / QUESTIONS_FILE).read_text(encoding="utf-8").splitlines()
    _write_lines(
        folder / QUESTIONS_FILE, _copies(list(map(json.loads, lines)), num_copies, step), separators=(",", ":")
    )
    write_json(folder / DATASET_FILE, read_json(source / DATASET_FILE) | {"image_root": "images"}, indent=2)
    build = {key: value for key, value in read_json(source / BUILD_FILE).items() if key not in (BUILD_KEY, SEAL_KEY)}
    write_json(folder / BUILD_FILE, build, indent=2)


def multiply_run(
    source: Path, dataset: Path, folder: Path, num_copies: int, *, shard: str | None = None, keep: Keep | None = None
) -> None:
    """Write an unfinished run whose records are so many copies of those of a finished run, in item order.

    Args:
        source: the finished run.
        dataset: the data set of `multiply_dataset`.
        folder: the run's folder to write; `validate_partonomy.py --resume` finishes it.
        num_copies: the number of copies.
        shard: the shard that the run says it is.
        keep: whether to write a record, given its number and content; None writes all.
    """
    folder.mkdir(parents=True)
    config = read_config(source)
    step = 1 + max(record["id"] for name in LISTS for record in read_json(Path(config.root) / ANNOTATIONS_FILE)[name])
    task = config.load_task(dataset)
    changed = dataclasses.replace(
        config, root=str(dataset), output=str(folder), shard=shard, content_hash=task.content_hash()
    )
    write_config(folder, changed)
    (folder / MODEL_FILE).write_bytes((source / MODEL_FILE).read_bytes())
    records = list(map(json.loads, (source / RECORDS_FILE).read_text(encoding="utf-8").splitlines()))
    for record in records:
        record.pop(CHECKSUM_KEY, None)
        record["image_path"] = str(dataset / "images" / Path(record["image_path"]).name)
    copies = enumerate(_copies(records, num_copies, step))
    kept = (record for number, record in copies if keep is None or keep(number, record))
    _write_lines(folder / RECORDS_FILE, kept, sign=add_checksum)


def _copies(records: Sequence[dict[str, Any]], num_copies: int, step: int) -> Iterator[dict[str, Any]]:
    for copy, record in itertools.product(range(num_copies), records):
        moved = {key: record[key] + copy * step for key in IDS if key in record}
        if "mask_ids" in record:
            moved["mask_ids"] = [number + copy * step for number in record["mask_ids"]]
        for key in ("question_id", "item_id"):
            if key in record:
                moved[key] = f"{record[key]}:{copy}"
        for key in ("file_name", "image_path"):
            if key in record:
                moved[key] = _copied_name(record[key], copy)
        yield record | moved


def _copied_name(path: str, copy: int) -> str:
    stem, _, suffix = path.rpartition(".")
    return f"{stem}_{copy}.{suffix}"


def _write_lines(
    path: Path,
    rows: Iterator[dict[str, Any]],
    separators: tuple[str, str] | None = None,
    sign: Callable[[str], str] = str,
) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(sign(json.dumps(row, separators=separators, ensure_ascii=False)) + "\n")
