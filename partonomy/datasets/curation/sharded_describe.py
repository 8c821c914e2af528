"""Sharded description: each shard measures its images, then the charts are drawn once."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from partonomy.datasets.curation.describe import Description, Measurements, describe_measurements, measure
from partonomy.datasets.shard_results import SHARDS_FOLDER, ShardResults, hash_input
from partonomy.datasets.store import ANNOTATIONS_FILE, load_dataset
from partonomy.locks import lock_folder
from partonomy.sharding import Shard

WORK = "describe"
CONTENT_KEY = "measured"
_ADAPTER = TypeAdapter(Measurements)


def _results(folder: Path, output: Path) -> ShardResults:
    settings = {"annotations_sha256": hash_input(folder / ANNOTATIONS_FILE)}
    return ShardResults(output / SHARDS_FOLDER, WORK, settings)


def measure_shard(folder: Path, output: Path, shard: Shard) -> bool:
    """Measure a shard's images; return False if the shard was finished before.

    Args:
        folder: the data set folder.
        output: folder of the description; the shards store their results below it.
        shard: the shard whose images are measured.
    """
    results = _results(folder, output)
    with lock_folder(results.folder, f"{WORK}-{shard.file_stem}.lock"):
        if results.is_done(shard):
            return False
        measured = measure(load_dataset(folder, shard))
        results.write(shard, {CONTENT_KEY: _ADAPTER.dump_python(measured, mode="json")})
    return True


def join_measured(folder: Path, output: Path) -> Description:
    """Describe the data set by the measurements of all shards.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard is broken or belongs to another data set, or there is no part mask.
    """
    results = _results(folder, output)
    parts = []
    for shard, content in results.read_all(dict[str, Any]):
        try:
            parts.append(_ADAPTER.validate_json(json.dumps(content.get(CONTENT_KEY)), strict=True))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(key) for key in (CONTENT_KEY, *first["loc"]))
            raise ValueError(
                f"{results.path(shard)}: not the result of a description ({place}: {first['msg']}); delete it and run "
                f"--shard {shard} again"
            ) from error
    return describe_measurements(parts)
