"""`python -m partonomy describe`: charts of a data set's label distributions and mask sizes, and an HTML page."""

from pathlib import Path

from partonomy.datasets.mixed_parts import is_mixed_parts
from partonomy.datasets.shard_results import SHARDS_FOLDER, remove_shards
from partonomy.datasets.store import DATASET_FILE, load_dataset
from partonomy.files import read_json, write_text_atomically
from partonomy.questions.mixed_parts.describe import describe_pairs, description_tables
from partonomy.sharding import parse_shard
from partonomy.table_format import TableFormat, render_table

PAIRS_PAGE = "describe.md"


def describe(folder: str, output: str, shard: str | None = None, merge: bool = False) -> None:
    """Plot the label frequencies and mask sizes of a data set as PNG files and a self-contained describe.html.

    The page also shows a dozen annotated photographs, among them those with the smallest and with the most masks.

    Of a folder of pairs (build-mixedparts), the sizes and the most frequent labels are written as describe.md.

    To split the counting over machines, run --shard 1/N to --shard N/N and then --merge once. The charts are those of a
    single process.

    Args:
        folder: Folder of a data set, or of pairs.
        output: Folder to write.
        shard: Count one shard of the images, given as NUMBER/COUNT, for example 2/8.
        merge: Plot the shards' counts and delete their files.
    """
    # matplotlib takes a second to import
    from partonomy.datasets.curation.describe import describe_dataset, write_description  # noqa: PLC0415
    from partonomy.datasets.curation.describe_pictures import draw_photographs  # noqa: PLC0415
    from partonomy.datasets.curation.sharded_describe import join_measured, measure_shard  # noqa: PLC0415

    source, target = Path(folder), Path(output)
    if merge and shard is not None:
        raise ValueError("--merge is a separate step: run it alone, after all shards")
    if (source / DATASET_FILE).is_file() and is_mixed_parts(read_json(source / DATASET_FILE)):
        if merge or shard is not None:
            raise ValueError(f"{source}: a folder of pairs is described at once, without --shard and --merge")
        _describe_pairs(source, target)
        return
    if shard is not None:
        is_new = measure_shard(source, target, parse_shard(shard))
        print(f"{target}: shard {shard} {'finished' if is_new else 'was finished before, nothing to do'}")
        return
    joined = join_measured(source, target) if merge else None
    dataset = load_dataset(source)
    description = describe_dataset(dataset) if joined is None else joined
    photographs = draw_photographs(dataset)
    for path in write_description(description, target, photographs):
        print(f"Written: {path}")
    unread = [one for one in photographs if one.problem]
    if unread:
        example = f"such as {unread[0].file_name}: {unread[0].problem}"
        print(f"{len(unread)} of {len(photographs)} photographs cannot be read, {example}")
    if merge:
        remove_shards(target / SHARDS_FOLDER)


def _describe_pairs(source: Path, target: Path) -> None:
    tables = description_tables(describe_pairs(source))
    target.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(render_table(table, TableFormat.MARKDOWN) for table in tables) + "\n"
    write_text_atomically(target / PAIRS_PAGE, text)
    print(render_table(tables[0], TableFormat.TEXT))
    print(f"Written: {target / PAIRS_PAGE}")
