"""`python -m partonomy push-dataset | pull-dataset`: question sets to and from the Hugging Face Hub."""

import tempfile
from pathlib import Path

from partonomy.datasets.hub_dataset import (
    DEFAULT_SHARD_MEGABYTES,
    FILE_PATTERNS,
    PULL_COMMAND,
    PUSH_COMMAND,
    CardRequest,
    read_hub_dataset,
    require_hub_dataset,
    write_hub_dataset,
)
from partonomy.hub import (
    Repository,
    download,
    is_hub_name,
    list_files,
    read_remote_columns,
    require_hub_name,
    require_pyarrow,
    upload,
)


def push_dataset(
    folder: str,
    name: str | None = None,
    *,
    license: str,
    output: str | None = None,
    split: str | None = None,
    title: str | None = None,
    private: bool = False,
    revision: str | None = None,
    shard_megabytes: int = DEFAULT_SHARD_MEGABYTES,
) -> None:
    """Write a question set as a Hugging Face data set: to the Hub, to a folder (--output), or both.

    Questions, masks and the image files themselves become Parquet files, with a card for the Hub. Anybody can read it
    with datasets.load_dataset; pull-dataset writes the same question set again. Paths on this machine are not
    published. Check that the licence of the images allows it.

    Args:
        folder: Question set, made by build or import.
        name: organisation/name on the Hub; the repository is created if it does not exist.
        license: The Hub's name of the licence of images and annotations, such as cc-by-4.0, or other.
        output: New folder to write the data set to; without it, it is written to a temporary folder.
        split: Name of the split; default test.
        title: Title of the card; default the name of the question set.
        private: Make a repository that is created private.
        revision: Branch to write, created if it does not exist; default main.
        shard_megabytes: Largest size of a Parquet file in 10^6 bytes.

    Raises:
        ValueError: Neither a name nor an output is given, or the Hub refuses the upload.
    """
    if name is None and output is None:
        raise ValueError("name the data set on the Hub (organisation/name), or a folder to write (--output FOLDER)")
    if name is not None:
        require_hub_name(name)
    request = CardRequest(license, title, split, name)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "dataset" if output is None else Path(output)
        counts = write_hub_dataset(Path(folder), target, request, shard_megabytes)
        print(f"{folder}: {counts.num_questions} questions and {counts.num_images} images in {counts.num_files} tables")
        if output is not None:
            print(f"{target}: read it with datasets.load_dataset({str(target)!r})")
        if name is not None:
            files: dict[str, Path | bytes] = {
                path.relative_to(target).as_posix(): path for path in sorted(target.rglob("*")) if path.is_file()
            }
            repository = Repository(name, "dataset", revision)
            message = f"Upload with {PUSH_COMMAND}"
            address = upload(repository, files, message, Path(folder), is_private=private, replaced=FILE_PATTERNS)
            print(f"{folder} is uploaded: {address}")


def pull_dataset(name: str, folder: str, *, revision: str | None = None) -> None:
    """Write a question set that push-dataset has published to a folder, byte-identical.

    Args:
        name: organisation/name on the Hub, or the folder of a downloaded data set.
        folder: New folder to write.
        revision: Branch, tag or commit on the Hub; default main.

    Raises:
        FileNotFoundError: There is no such folder, and the Hub has no such data set or cannot be reached.
        ValueError: The data set was not written by push-dataset, or was changed since.
    """
    require_pyarrow(PULL_COMMAND)
    source = Path(name)
    if not source.is_dir():
        if source.exists() or not is_hub_name(name) or Path(source.parts[0]).exists():
            raise FileNotFoundError(f"{name}: no such folder; name a folder, or organisation/name on the Hub")
        repository = Repository(name, "dataset", revision)
        require_hub_dataset(name, list_files(repository), lambda path: read_remote_columns(repository, path))
        source = download(repository, FILE_PATTERNS)
    elif revision is not None:
        raise ValueError(f"{name}: is a folder, and --revision chooses a version on the Hub; leave it out")
    counts = read_hub_dataset(source, Path(folder), name)
    print(f"{folder}: {counts.num_questions} questions and {counts.num_images} images from {name}")
    print(f"  score a model: python validate_partonomy.py --model random --questions {folder} --output runs/random")
