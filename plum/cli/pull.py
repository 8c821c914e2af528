"""`python -m plum pull`: download a model of the Hugging Face Hub to a folder."""

from pathlib import Path


def pull(name: str, folder: Path, *, revision: str | None = None) -> None:
    """Download a model of the Hugging Face Hub to a folder.

    Args:
        name: organisation/name on the Hub
        folder: new folder; the same command continues an interrupted download
        revision: branch, tag or commit (default: main)

    Raises:
        ValueError: the Hub has no such model, or cannot be reached.
        FileExistsError: the folder holds something else.
    """
    from plum.checkpoints.hub import pull_model

    pull_model(name, folder, revision)
    print(f"{folder} holds {name}; name it as --checkpoint, or plum.load({str(folder)!r})")
