"""`python -m partonomy describe`: label distributions and mask sizes of a data set, as charts and one page."""

from pathlib import Path

from partonomy.datasets.shard_results import SHARDS_FOLDER, remove_shards
from partonomy.datasets.store import load_dataset
from partonomy.sharding import parse_shard


def describe(folder: str, output: str, shard: str | None = None, merge: bool = False) -> None:
    """Draw how often labels occur and how large masks are: PNG files and one self-contained describe.html.

    Machines share the counting: --shard 1/N to --shard N/N, then --merge once, which draws the same charts as one
    process.

    Args:
        folder: Folder of a data set.
        output: Folder to write.
        shard: NUMBER/COUNT, for example 2/8, the part of the images that this process counts.
        merge: Draw what the shards counted and remove what they left.
    """
    # matplotlib takes a second to import
    from partonomy.datasets.curation.describe import describe_dataset, write_description  # noqa: PLC0415
    from partonomy.datasets.curation.sharded_describe import join_measured, measure_shard  # noqa: PLC0415

    source, target = Path(folder), Path(output)
    if merge and shard is not None:
        raise ValueError("--merge is a step of its own: run it alone, after all shards")
    if shard is not None:
        is_new = measure_shard(source, target, parse_shard(shard))
        print(f"{target}: shard {shard} {'finished' if is_new else 'was finished before, nothing to do'}")
        return
    description = join_measured(source, target) if merge else describe_dataset(load_dataset(source))
    for path in write_description(description, target):
        print(f"Written: {path}")
    if merge:
        remove_shards(target / SHARDS_FOLDER)
