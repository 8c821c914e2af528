"""Measures the MixedParts builder on drawn descriptors: seconds, samples per second and memory, at any size.

python scripts/bench/mixed_parts.py --num_images 44000 --num_samples 2400000 [--output FOLDER]

Three sources of equal size are drawn: 40 classes each with Zipf-like frequencies, 1 to 3 objects per image, part names
shared within groups of five classes, and short masks. Each size runs in a process of its own. `index_mb` is the memory
that the process holds after the images are indexed, `peak_mb` its peak after all samples are written; both exclude the
interpreter with the project's modules. Time is CPU time of the process; the lines go to a file and are deleted.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jsonargparse import CLI

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.masks import encode_mask
from partonomy.questions.mixed_parts.build import BlockWriter, MixedPartsConfig, write_samples
from partonomy.questions.mixed_parts.index import MaskFile, SourceIndex, Unit
from partonomy.questions.mixed_parts.taxonomy import ComparableRules, judge_pairs
from partonomy.structures import RLE, AnnotatedImage, ObjectInstance, Part

NUM_CLASSES, NUM_SOURCES, CLASSES_PER_GROUP, NUM_PARTS = 40, 3, 5, 12
SIDE, MASK_SIDE = 64, 24


def draw_images(count: int, seed: int) -> Iterator[AnnotatedImage]:
    """Yield images with objects and parts, without image files."""
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(1, NUM_CLASSES + 1)
    weights /= weights.sum()
    for number in range(count):
        labels = generator.choice(NUM_CLASSES, size=int(generator.integers(1, 4)), replace=False, p=weights)
        objects = tuple(_draw_object(int(label), number * 4 + place, generator) for place, label in enumerate(labels))
        yield AnnotatedImage(number, f"{number // 1000:03d}/{number:06d}.jpg", SIDE, SIDE, objects)


def _draw_object(label: int, instance_id: int, generator: np.random.Generator) -> ObjectInstance:
    group = label // CLASSES_PER_GROUP
    kept = generator.random(NUM_PARTS) < 0.4
    parts = tuple(
        Part(f"part {group} {part}", _draw_mask(generator)) for part in range(NUM_PARTS) if kept[part] or part == label
    )
    return ObjectInstance(instance_id, f"class {label:02d}", f"group {group}", parts, _draw_mask(generator))


def _draw_mask(generator: np.random.Generator) -> RLE:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    top, left = generator.integers(0, SIDE - MASK_SIDE, size=2)
    mask[top : top + MASK_SIDE, left : left + MASK_SIDE] = True
    return encode_mask(mask)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(num_images: int = 4000, num_samples: int = 200_000, output: str | None = None) -> None:
    """Index drawn images and write their samples.

    Args:
        num_images: Images over all sources.
        num_samples: Training samples over all sources.
        output: Folder for the file of samples; default a temporary one.
    """
    before, masks = _megabytes(), MaskFile()
    start = time.process_time()
    sources = []
    for number in range(NUM_SOURCES):
        index = SourceIndex(f"source {number}", Path("."))
        for image in draw_images(num_images // NUM_SOURCES, number):
            index.add(image, masks, Unit.LABEL, 1)
        sources.append(index)
    masks.finish()
    indexed, index_mb = time.process_time() - start, _megabytes() - before
    config = MixedPartsConfig(num_samples=(num_samples, 0, 0), shares=(1.0, 0.0, 0.0))
    start = time.process_time()
    rules = ComparableRules({}, {})
    judged = {one.name: judge_pairs(one.name, one.taxonomy, one.categories, rules) for one in sources}
    with tempfile.TemporaryDirectory(dir=output) as folder:
        blocks = Path(folder) / "blocks"
        blocks.mkdir()
        counts = write_samples(Path(folder), sources, BlockWriter(blocks, masks, judged, config))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.jsonl"))
    seconds = time.process_time() - start
    written = sum(block.num_samples for block in counts)
    rejected = sum(sum(block.rejected.values()) for block in counts)
    result = {
        "num_images": num_images,
        "num_samples": written,
        "rejected_draws": rejected,
        "index_seconds": round(indexed, 1),
        "index_mb": round(index_mb),
        "seconds": round(seconds, 1),
        "samples_per_second": round(written / seconds),
        "peak_mb": round(_megabytes() - before),
        "file_mb": round(size / 2**20),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    CLI(measure)
