"""Sharded check: each shard checks its images, then the findings are joined."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from partonomy.datasets.curation.check import (
    CheckConfig,
    CheckInput,
    CheckReport,
    Findings,
    PartialCheck,
    check_part,
    join_checks,
)
from partonomy.datasets.shard_results import ShardResults, hash_input, remove_shards
from partonomy.locks import lock_folder
from partonomy.sharding import Shard

WORK = "check"
CONTENT_KEY = "found"
_ADAPTER = TypeAdapter(PartialCheck)


def _results(files: CheckInput, config: CheckConfig, output: Path) -> ShardResults:
    tables = {"categories": config.categories, "name_map": config.name_map}
    inputs: dict[str, object]
    if config.foreign is not None:
        inputs = config.foreign.settings
    else:
        inputs = {
            "annotations_sha256": hash_input(files.annotations),
            "images": files.images.resolve().as_posix(),
        }
    settings = (
        inputs
        | {
            "limits": asdict(config.limits),
            "headers_only": config.headers_only,
            "object_name": config.object_name,
        }
        | {f"{name}_sha256": None if path is None else hash_input(path) for name, path in tables.items()}
    )
    return ShardResults(output.with_name(f"{output.name}.shards"), WORK, settings)


def check_shard(files: CheckInput, config: CheckConfig, output: Path, shard: Shard) -> int | None:
    """Check a shard's images and store the findings in `OUTPUT.shards/`.

    Args:
        files: annotations and images.
        config: limits and tables of the check.
        output: file of the report; all shards name the same one.
        shard: the shard whose images are checked.

    Returns:
        The number of findings; None if the shard was finished before.
    """
    results = _results(files, config, output)
    with lock_folder(results.folder, f"{WORK}-{shard.file_stem}.lock"):
        if results.is_done(shard):
            return None
        part = check_part(files, config, shard)
        part = replace(part, findings=tuple(part.findings))
        results.write(shard, {CONTENT_KEY: _ADAPTER.dump_python(part, mode="json")})
    return len(part.findings)


def merge_checks(files: CheckInput, config: CheckConfig, output: Path) -> CheckReport:
    """Join the findings of all shards; the arguments are those of `check_shard`.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard is broken, or was made with other settings.
    """
    results = _results(files, config, output)
    parts = []
    for shard, content in results.read_all(dict[str, Any]):
        try:
            part = _ADAPTER.validate_json(json.dumps(content.get(CONTENT_KEY)), strict=True)
            parts.append(replace(part, findings=Findings(part.findings)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(key) for key in (CONTENT_KEY, *first["loc"]))
            raise ValueError(
                f"{results.path(shard)}: not the result of a check ({place}: {first['msg']}); delete it and run "
                f"--shard {shard} again"
            ) from error
    return join_checks(files.annotations, parts, config, files.folder)


def remove_check_shards(output: Path) -> None:
    """Delete the shards' files; call it once the joined findings are written."""
    remove_shards(output.with_name(f"{output.name}.shards"))
