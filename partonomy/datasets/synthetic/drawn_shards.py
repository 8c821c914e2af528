"""Sharded drawing of the embedded data set: each shard draws its images and stores their annotations."""

from pathlib import Path
from typing import Any

from partonomy.datasets.annotation_file import annotations_from_json, write_annotations
from partonomy.datasets.shard_results import SHARDS_FOLDER, ShardResults
from partonomy.datasets.store import number_annotations
from partonomy.datasets.synthetic.dataset import SyntheticConfig, draw_shard, drawn_dataset
from partonomy.files import read_json
from partonomy.locks import lock_folder
from partonomy.sharding import Shard
from partonomy.structures import AnnotatedImage, PartDataset

WORK = "drawn"


def _results(config: SyntheticConfig, output_dir: Path) -> ShardResults:
    return ShardResults(output_dir / SHARDS_FOLDER, WORK, vars(config))


def has_drawn_shards(output_dir: Path) -> bool:
    """Return whether any shard was drawn below a data set folder."""
    return any((output_dir / SHARDS_FOLDER).glob(f"{WORK}-*.json"))


def draw_and_store(config: SyntheticConfig, output_dir: Path, num_workers: int, shard: Shard) -> bool:
    """Draw a shard's images and store their annotations; return False if the shard was finished before."""
    results = _results(config, output_dir)
    with lock_folder(results.folder, f"{WORK}-{shard.file_stem}.lock"):
        if results.is_done(shard):
            return False
        drawn = drawn_dataset(config, output_dir, draw_shard(config, output_dir, num_workers, shard))
        path = _annotations_path(results, shard)
        write_annotations(number_annotations(drawn).images, path)
        results.write(shard, {"num_images": len(drawn.images)})
    return True


def join_drawn(config: SyntheticConfig, output_dir: Path) -> PartDataset:
    """Join all shards into one data set. Ids count within each shard; saving renumbers them like a single process.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard was drawn with other settings.
    """
    results = _results(config, output_dir)
    images: list[AnnotatedImage] = []
    for shard, _ in results.read_all(dict[str, Any]):
        path = _annotations_path(results, shard)
        images += annotations_from_json(read_json(path), path)
    return drawn_dataset(config, output_dir, images)


def _annotations_path(results: ShardResults, shard: Shard) -> Path:
    return results.path(shard).with_suffix(".annotations.json")
