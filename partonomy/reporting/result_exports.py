"""Exports a run's masks as COCO results, and its items as a FiftyOne data set."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partonomy.benchmarks.cases import Case, CasePicture
from partonomy.benchmarks.task import Item, Picture, Record, pictures_of, relative_path
from partonomy.files import json_bytes, open_atomically
from partonomy.images import image_size
from partonomy.masks import decode_mask, intersection_area, rle_area, rle_bbox, rle_to_json
from partonomy.progress import counted, progress
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.report_browser import verdict_of
from partonomy.structures import RLE

TRUE, PREDICTED, OWN = "true", "predicted", "own answer"
"""Beginnings of the titles of a case's pictures (`Case.pictures`)."""
UNNAMED = "mask"
"""Category of a mask whose phrase has no name among the item's labels."""
NO_CONFIDENCE = 1.0
"""Score of every mask in COCO results: the benchmark asks for one mask per phrase, so there is nothing to rank."""

SAMPLES_FILE = "samples.json"
"""File in every folder that FiftyOne has exported."""


@dataclass(frozen=True)
class NamedMask:
    """A mask and the name of its part or target."""

    name: str
    mask: RLE


@dataclass(frozen=True)
class ItemMasks:
    """One item of a run: its record, the image, and its masks.

    Attributes:
        number: Place of the item in the run, from 1.
        record: The outcome.
        item: The item.
        subject: What it is about, such as the object's name.
        true: The correct masks.
        predicted: The masks for the given phrases; those of the model's own answer if none were asked for.
    """

    number: int
    record: Record
    item: Item
    subject: str
    true: tuple[NamedMask, ...]
    predicted: tuple[NamedMask, ...]


@dataclass(frozen=True)
class ExportCounts:
    """What was exported.

    Attributes:
        num_items: items.
        num_masks: predicted masks, empty ones included.
        num_left_out: items of the run that could not be read when it was made, so that they have no image.
        num_empty: predicted masks without a pixel, which FiftyOne has no detection for.
    """

    num_items: int
    num_masks: int
    num_left_out: int
    num_empty: int = 0


def write_coco_results(run: AnyRun, output: Path) -> ExportCounts:
    """Write COCO results (a JSON list), and the truth that they refer to as `<name>.annotations.json` beside them.

    Every item is a COCO image of its own, as several questions about a photograph have different masks: `image_id` is
    the item's place in the run from 1, and the truth gives its `item_id`, `file_name`, question and group. Categories
    are the names of parts. pycocotools' COCO reads both files.

    Args:
        run: A finished run with masks; its data must still be at their original location.
        output: JSON file of the results.

    Raises:
        ValueError: The items have changed since the run, or it has no masks.
        OSError: The items can no longer be read.
    """
    items = _read_items(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    categories: dict[str, int] = {}
    num_items = num_masks = 0
    with open_atomically(output) as file:
        file.write(b"[")
        for one in _iterate(run, items):
            num_items += 1
            for named in one.true:
                categories.setdefault(named.name, len(categories) + 1)
            for named in one.predicted:
                entry = {
                    "image_id": one.number,
                    "category_id": categories.setdefault(named.name, len(categories) + 1),
                    "segmentation": rle_to_json(named.mask),
                    "bbox": list(rle_bbox(named.mask)),
                    "score": NO_CONFIDENCE,
                }
                file.write((b",\n" if num_masks else b"\n") + json_bytes(entry))
                num_masks += 1
        if not num_masks:
            raise ValueError(f"{run.path} has no predicted masks to export")
        file.write(b"\n]\n")
    _write_truth(run, items, categories, annotations_path(output))
    return ExportCounts(num_items, num_masks, len(run.records) - num_items)


def annotations_path(output: Path) -> Path:
    """Return the file of the truth beside COCO results."""
    return output.with_name(f"{output.stem}.annotations.json")


def write_fiftyone(run: AnyRun, output: Path) -> ExportCounts:
    """Write a FiftyOne data set: a sample for every item, with its true and predicted masks as detections.

    A sample has the fields item_id, group_name, prompt, status, reason, subject, quality, verdict, `true`, `predicted`
    and `empty`. A detection's label is the phrase. A predicted one has the attribute `iou`, its intersection over union
    with the true mask of the same phrase, if every phrase was given. `empty` lists the phrases whose predicted mask has
    no pixel: a detection needs a box. The images stay where they are.
    `fiftyone.Dataset.from_dir(output, fiftyone.types.FiftyOneDataset)` reads the folder.

    Args:
        run: A finished run; its data must still be at their original location.
        output: Folder to write.

    Raises:
        ModuleNotFoundError: FiftyOne is not installed.
        ValueError: The items have changed since the run, or FiftyOne's data base cannot be started.
        OSError: The items can no longer be read.
    """
    items = _read_items(run)
    fiftyone, dataset = _start_fiftyone()
    num_items = num_masks = num_empty = 0
    try:
        with progress(len(run.records), output.name, run.task.WORDS.item) as shown:
            for one in counted(_iterate(run, items), shown):
                sample = _sample(fiftyone, one)
                num_items += 1
                num_masks += len(one.predicted)
                num_empty += len(sample.empty)
                dataset.add_sample(sample)
        dataset.export(
            export_dir=str(output),
            dataset_type=fiftyone.types.FiftyOneDataset,
            export_media=False,
            overwrite=True,  # the command has asked
            progress=False,
        )
    finally:
        dataset.delete()  # from FiftyOne's own data base
    return ExportCounts(num_items, num_masks, len(run.records) - num_items, num_empty)


def _start_fiftyone() -> tuple[Any, Any]:
    """Return the package and a new data set of it, which starts or finds its data base.

    Raises:
        ModuleNotFoundError: FiftyOne is not installed.
        ValueError: the data base cannot be started.
    """
    import fiftyone  # noqa: PLC0415  (large, and needed for nothing else)

    try:
        return fiftyone, fiftyone.Dataset()
    except Exception as error:  # its errors have no common class
        raise ValueError(
            f"FiftyOne cannot start its data base ({type(error).__name__}: {error}); start MongoDB 6.0 or newer, and "
            "set FIFTYONE_DATABASE_URI, such as mongodb://127.0.0.1:27017"
        ) from error


def _sample(fiftyone: Any, one: ItemMasks) -> Any:
    record = one.record
    (place, *_) = pictures_of(one.item)
    is_paired = [named.name for named in one.predicted] == [named.name for named in one.true]
    return fiftyone.Sample(
        filepath=str(place.path.resolve()),
        tags=[record.group] if record.group else [],
        item_id=record.item_id,
        group_name=record.group,
        prompt=record.prompt,
        status=record.status.value,
        reason=record.reason,
        subject=one.subject,
        quality=record.quality,
        verdict=verdict_of(record),
        true=_detections(fiftyone, one.true),
        predicted=_detections(fiftyone, one.predicted, one.true if is_paired else ()),
        empty=[named.name for named in one.predicted if not rle_area(named.mask)],
    )


def _detections(fiftyone: Any, masks: tuple[NamedMask, ...], true: tuple[NamedMask, ...] = ()) -> Any:
    """Return masks as FiftyOne detections: a box relative to the image, and the mask inside it.

    Args:
        fiftyone: the package.
        masks: the masks; one without a pixel has no detection.
        true: the correct masks of the same phrases, if the detections get their intersection over union.
    """
    found = []
    for number, named in enumerate(masks):
        x, y, width, height = rle_bbox(named.mask)
        if width and height:
            decoded = decode_mask(named.mask)
            box = [x / decoded.shape[1], y / decoded.shape[0], width / decoded.shape[1], height / decoded.shape[0]]
            inside = decoded[y : y + height, x : x + width]
            extra = {"iou": _iou(named.mask, true[number].mask)} if true else {}
            found.append(fiftyone.Detection(label=named.name, bounding_box=box, mask=inside, **extra))
    return fiftyone.Detections(detections=found)


def _iou(predicted: RLE, true: RLE) -> float:
    shared = intersection_area(predicted, true)
    return shared / (rle_area(predicted) + rle_area(true) - shared)


def _read_items(run: AnyRun) -> dict[str, Item]:
    return {item.item_id: item for item in run.load_task().items}


def _iterate(run: AnyRun, items: dict[str, Item]) -> Iterator[ItemMasks]:
    """Generate the items that could be read, in the order of the records."""
    for number, record in enumerate(run.records, start=1):
        item = items.get(record.item_id)
        if item is None:
            continue
        case: Case = run.task.show(record, item)
        names = {label.colour: label.name for label in case.labels if label.name}
        pictures = {kind: one for kind in (OWN, PREDICTED, TRUE) for one in case.pictures if one.title.startswith(kind)}
        predicted = pictures.get(PREDICTED, pictures.get(OWN))
        yield ItemMasks(number, record, item, case.title, _named(pictures.get(TRUE), names), _named(predicted, names))


def _named(picture: CasePicture | None, names: dict[tuple[int, int, int], str]) -> tuple[NamedMask, ...]:
    if picture is None:
        return ()
    pairs = zip(picture.masks, picture.colours, strict=True)
    return tuple(NamedMask(names.get(colour, UNNAMED), mask) for mask, colour in pairs)


def _write_truth(run: AnyRun, items: dict[str, Item], categories: dict[str, int], path: Path) -> None:
    with open_atomically(path) as file:
        file.write(b'{"images": [')
        for place, one in enumerate(_iterate(run, items)):
            (picture, *_) = pictures_of(one.item)
            masks = (*one.true, *one.predicted)
            size = (masks[0].mask.height, masks[0].mask.width) if masks else _image_size(picture)
            image = {
                "id": one.number,
                "file_name": relative_path(one.record.image_path, path.parent.resolve()),
                "height": size[0],
                "width": size[1],
                "item_id": one.record.item_id,
                "group": one.record.group,
                "prompt": one.record.prompt,
            }
            file.write((b",\n" if place else b"\n") + json_bytes(image))
        file.write(b'\n],\n"annotations": [')
        number = 0
        for one in _iterate(run, items):
            for named in one.true:
                number += 1
                annotation = {
                    "id": number,
                    "image_id": one.number,
                    "category_id": categories[named.name],
                    "segmentation": rle_to_json(named.mask),
                    "area": rle_area(named.mask),
                    "bbox": list(rle_bbox(named.mask)),
                    "iscrowd": 0,
                }
                file.write((b",\n" if number > 1 else b"\n") + json_bytes(annotation))
        listed = [{"id": place, "name": name} for name, place in categories.items()]
        file.write(b'\n],\n"categories": ' + json_bytes(listed) + b"}\n")


def _image_size(picture: Picture) -> tuple[int, int]:
    """Return the height and width of an image without masks, pixels."""
    if picture.height is None or picture.width is None:
        return image_size(picture.path)
    return picture.height, picture.width
