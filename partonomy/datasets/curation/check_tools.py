"""The files of annotation tools as the input of a check, through the reader of `build`."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from partonomy.datasets.curation.check import (
    BAD_RECORD,
    NO_ANNOTATION,
    UNREAD_SHAPE,
    CheckedFile,
    Finding,
    Findings,
    Stage,
    Visit,
)
from partonomy.datasets.sources.annotation_tools.shapes import ToolConfig
from partonomy.datasets.sources.annotation_tools.tools import ToolReading, hash_tool_files, read_tool
from partonomy.datasets.sources.coco import CategoryRole, ImageRecords
from partonomy.datasets.sources.records import RawAnnotation, UnusableAnnotation
from partonomy.sharding import Shard


@dataclass(frozen=True)
class ToolInput:
    """The files of a tool.

    Args:
        tool: the tool's name.
        config: its files.
    """

    tool: str
    config: ToolConfig

    @property
    def settings(self) -> dict[str, object]:
        """What the findings depend on."""
        config = self.config
        return {
            "source": self.tool,
            "annotations_sha256": hash_tool_files(self.tool, config.annotations),
            "images": None if config.is_embedded else config.images.resolve().as_posix(),
            "label_separator": config.label_separator,
            "label_attribute": config.label_attribute,
        }

    def read(self, shard: Shard | None, visit: Visit) -> CheckedFile:
        """Read the files; what `build` refuses becomes a finding.

        Args:
            shard: the shard whose images are checked; None for all.
            visit: called with the annotations of every image.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file, or the roles of the labels, cannot be read at all.
        """
        reading = read_tool(self.tool, replace(self.config, invalid="collect"))
        records = reading.records
        positions = {image.image_id: number for number, image in enumerate(records.images)}
        part = shard or Shard()
        owned = {number for number, position in positions.items() if position % part.count == part.index}
        annotations: dict[int, dict[int, RawAnnotation]] = defaultdict(dict)
        for number, one in enumerate(records.annotations):
            annotations[one.image_id][number] = one
        unusable: dict[int, list[UnusableAnnotation]] = defaultdict(list)
        for lost in records.unusable:
            unusable[lost.image_id].append(lost)
        for image in records.images:
            if image.image_id in owned:
                position, lost_here = positions[image.image_id], tuple(unusable[image.image_id])
                visit(ImageRecords(image, position, annotations[image.image_id], lost_here))
        roles = {(one.raw_object, one.raw_part) for one in records.annotations}
        categories = tuple(CategoryRole(*role) for role in sorted(roles, key=str))
        return CheckedFile(
            root=self.config.images,
            images=tuple(one for one in records.images if one.image_id in owned),
            positions=positions,
            categories=categories,
            used_categories=categories,
            num_images=len(records.images),
            num_annotations=len(records.annotations) + sum(len(row.annotation_ids) for row in records.skipped),
            findings=Findings(_list_findings(reading) if part.index == 0 else ()),
            places={
                f"annotation {number}": f"annotation {number}, {where}" for number, where in reading.places.items()
            },
        )


def _list_findings(reading: ToolReading) -> tuple[Finding, ...]:
    """Return what was left out: faults as errors, shapes that are never read as notes."""
    stage = Stage.ANNOTATION_RECORDS
    found = [Finding(BAD_RECORD, one.where, one.reason, stage) for one in reading.faults]
    places: Mapping[int, str] = reading.places
    faults = tuple(one.where for one in reading.faults)
    for row in reading.records.skipped:
        if any(where in row.reason for where in faults):
            continue
        for number in row.annotation_ids:
            found.append(Finding(UNREAD_SHAPE, places.get(number, f"annotation {number}"), row.reason, stage, number))
    annotated = {one.image_id for one in reading.records.annotations}
    for image in reading.records.images:
        if image.image_id not in annotated:
            found.append(Finding(NO_ANNOTATION, f"image {image.file_name}", "it has no usable shape", Stage.UNUSED))
    return tuple(found)
