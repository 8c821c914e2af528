"""`python -m partonomy describe`: charts of a data set's label distributions and mask sizes, and an HTML page."""

from pathlib import Path

from partonomy.datasets.shard_results import SHARDS_FOLDER, remove_shards
from partonomy.datasets.store import load_dataset
from partonomy.sharding import parse_shard


def describe(folder: str, output: str, shard: str | None = None, merge: bool = False) -> None:
    """Plot the label frequencies and mask sizes of a data set as PNG files and a self-contained describe.html.

    To split the counting over machines, run --shard 1/N to --shard N/N and then --merge once. The charts are those of a
    single process.

    Args:
        folder: Folder of a data set.
        output: Folder to write.
        shard: Count one shard of the images, given as NUMBER/COUNT, for example 2/8.
        merge: Plot the shards' counts and delete their files.
    """
    # matplotlib takes a second to import
    from partonomy.datasets.curation.describe import describe_dataset, write_description  # noqa: PLC0415
    from partonomy.datasets.curation.sharded_describe import join_measured, measure_shard  # noqa: PLC0415

    source, target = Path(folder), Path(output)
    if merge and shard is not None:
        raise ValueError("--merge is a separate step: run it alone, after all shards")
    if shard is not None:
        is_new = measure_shard(source, target, parse_shard(shard))
        print(f"{target}: shard {shard} {'finished' if is_new else 'was finished before, nothing to do'}")
        return
    description = join_measured(source, target) if merge else describe_dataset(load_dataset(source))
    for path in write_description(description, target):
        print(f"Written: {path}")
    if merge:
        remove_shards(target / SHARDS_FOLDER)
