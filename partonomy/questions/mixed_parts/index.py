"""The images of the sources as the sampler sees them: labels, part labels and numbers of masks.

Masks are merged once per image and label and stay in a temporary file, ready for the lines of the output; an image
takes a few hundred bytes of memory. Data sets are read one after another.
"""

import json
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from partonomy.masks import canonical_rle, rle_area, rle_to_json, union_masks
from partonomy.questions.mixed_parts.taxonomy import Taxonomy
from partonomy.stored_lines import OpenFile
from partonomy.structures import RLE, UNNAMED_PART, AnnotatedImage, ObjectInstance, PartDataset

NO_MASK = -1
OTHER_OBJECTS = "images with annotated objects that cannot be used"
NO_OBJECT = "images without a usable object"
SMALL_MASK = "masks below the smallest size"
HIDDEN_PARTS = "objects with an annotated part whose name or mask cannot be used"


class Unit(StrEnum):
    """What counts as one object of an image: all instances of a label together, or one instance of each label.

    The one instance has the most parts, on a tie the largest mask.
    """

    LABEL = "label"
    INSTANCE = "instance"


class MaskFile:
    """Masks as JSON texts in a temporary file, by number; 16 bytes of memory each."""

    def __init__(self) -> None:
        self._writer = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the masks are needed)
        self._file = OpenFile(self._writer)
        self._starts = array("q", [0])

    def add(self, mask: RLE) -> int:
        """Store a mask and return its number."""
        self._starts.append(self._starts[-1] + self._writer.write(json.dumps(rle_to_json(mask)).encode("ascii")))
        return len(self._starts) - 2

    def finish(self) -> None:
        """Make all masks readable; call it after the last `add`."""
        self._writer.flush()

    def text(self, number: int) -> str:
        """Return the JSON text of a mask."""
        start = self._starts[number]
        return self._file.read(start, self._starts[number + 1] - start).decode("ascii")


@dataclass(frozen=True, slots=True)
class IndexedObject:
    """An object of an image.

    Attributes:
        mask: Number of its mask.
        parts: Part label -> number of the part's mask, for parts of sufficient size.
        seen: Labels of all annotated parts, small ones included: a small part is not a target, but it is not absent.
        is_complete: Whether every annotated part is known; otherwise none can be said to be absent.
    """

    mask: int
    parts: Mapping[str, int]
    seen: frozenset[str]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image of a source: its path below the image root, and its objects by label."""

    file_name: str
    objects: Mapping[str, IndexedObject]


@dataclass
class SourceIndex:
    """The images of a source, in file order.

    Attributes:
        name: Name of the source.
        image_root: Folder of its images.
        images: Its images with at least one usable object.
        categories: Category of each object label.
        left_out: Number of images, objects and masks left out, by reason.
    """

    name: str
    image_root: Path
    images: list[IndexedImage] = field(default_factory=list)
    categories: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    _parts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def taxonomy(self) -> Taxonomy:
        """The part labels that are annotated for each object label, in any image."""
        return {label: frozenset(parts) for label, parts in sorted(self._parts.items())}

    def add(self, image: AnnotatedImage, masks: MaskFile, unit: Unit, min_pixels: int) -> None:
        """Add an image.

        Args:
            image: The image with its annotations.
            masks: Receives its masks.
            unit: See `Unit`.
            min_pixels: Smallest number of pixels of an object or a part that is asked for.
        """
        for instance in image.objects:
            self.categories.setdefault(instance.label, instance.category)
            self._parts[instance.label].update(part.label for part in instance.parts)
        if image.has_other_objects:
            self.left_out[OTHER_OBJECTS] += 1
            return
        by_label: dict[str, list[ObjectInstance]] = defaultdict(list)
        for instance in image.objects:
            by_label[instance.label].append(instance)
        found = {
            label: self._merge(same if unit is Unit.LABEL else [choose_instance(same)], masks, min_pixels)
            for label, same in sorted(by_label.items())
        }
        objects = {label: one for label, one in found.items() if one is not None}
        if objects:
            self.images.append(IndexedImage(image.file_name, objects))
        else:
            self.left_out[NO_OBJECT] += 1

    def _merge(self, same: Sequence[ObjectInstance], masks: MaskFile, min_pixels: int) -> IndexedObject | None:
        """Unite the instances of a label; None if their mask is too small."""
        of_part: dict[str, list[RLE]] = defaultdict(list)
        for instance in same:
            for part in instance.parts:
                of_part[part.label].append(canonical_rle(part.mask))
        # PartImageNet has no masks of objects: an object there is the union of its parts.
        outlines = [canonical_rle(instance.mask) for instance in same if instance.mask is not None]
        outlines += [canonical_rle(part.mask) for instance in same if instance.mask is None for part in instance.parts]
        if not outlines:
            return None
        outline = union_masks(outlines)
        if rle_area(outline) < min_pixels:
            self.left_out[SMALL_MASK] += 1
            return None
        parts = {}
        for label, of_label in sorted(of_part.items()):
            mask = union_masks(of_label)
            if rle_area(mask) < min_pixels:
                self.left_out[SMALL_MASK] += 1
            else:
                parts[label] = masks.add(mask)
        hidden = {name for instance in same for name in instance.left_out_parts}
        self.left_out[HIDDEN_PARTS] += bool(hidden)
        seen = frozenset((of_part.keys() | hidden) - {UNNAMED_PART})
        # A part with an unusable mask in one instance would make the united mask of the others incomplete.
        usable = {label: number for label, number in parts.items() if label not in hidden}
        return IndexedObject(masks.add(outline), usable, seen, UNNAMED_PART not in hidden)


def choose_instance(same: Sequence[ObjectInstance]) -> ObjectInstance:
    """Return the instance with the most parts; on a tie the one with the largest mask, then with the lowest id."""

    def rank(instance: ObjectInstance) -> tuple[int, int, int]:
        area = 0 if instance.mask is None else rle_area(instance.mask)
        return len(instance.parts), area, -instance.instance_id

    return max(same, key=rank)


def index_dataset(dataset: PartDataset, masks: MaskFile, unit: Unit, min_pixels: int) -> SourceIndex:
    """Index a data set; see `SourceIndex.add`."""
    index = SourceIndex(dataset.name, dataset.image_root)
    for image in dataset.images:
        index.add(image, masks, unit, min_pixels)
    return index


def select_images(index: SourceIndex, places: Iterable[int]) -> SourceIndex:
    """Return the index with some of its images; the taxonomy stays that of all."""
    return replace(index, images=[index.images[place] for place in places])
