"""`python -m partonomy describe`: label distributions and mask sizes of a data set, as charts and one page."""

from pathlib import Path

from partonomy.datasets.store import load_dataset


def describe(folder: str, output: str) -> None:
    """Draw how often labels occur and how large masks are: PNG files and one self-contained describe.html.

    Args:
        folder: Folder of a data set.
        output: Folder to write.
    """
    from partonomy.datasets.curation.describe import write_description  # noqa: PLC0415  matplotlib takes a second

    dataset = load_dataset(Path(folder))
    for path in write_description(dataset, Path(output)):
        print(f"Written: {path}")
