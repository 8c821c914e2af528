"""Finds a saved model by its folder or by its name on the Hugging Face Hub (`organisation/name`), and downloads it."""

import shutil
from pathlib import Path

from partonomy.hub import Repository, download, download_file, is_hub_name, require_hub_name
from plum.checkpoints.model_config_io import CONFIG_FILE, describe_conversion, read_model_config
from plum.checkpoints.store import saved_tensors

HUB_FILES = ("*.json", "*.safetensors", "*.crc32", "*.model", "*.jinja", "*.txt", "README.md")
"""The files of a saved model; no pickles and no code are downloaded."""
_DOWNLOAD_STATE = Path(".cache", "huggingface")
"""Where huggingface_hub keeps the state of a download to a folder."""


def find_checkpoint(name: str | Path) -> Path:
    """Return the folder of a saved model; download it if the name is one of the Hub.

    A name is taken for one of the Hub only if nothing here begins like it: a typing error in `runs/mine/model` does not
    reach the network while there is a folder `runs`.

    Raises:
        FileNotFoundError: there is no such folder, and the Hub has no such model or cannot be reached.
        ValueError: the Hub's model is not one that plum saved.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise FileNotFoundError(f"{name} is a file; name the folder of a saved model")
    if not is_hub_name(str(name)) or Path(folder.parts[0]).exists():
        raise FileNotFoundError(f"{name}: no such folder; name the folder of a saved model, such as RUN/model")
    return _download(str(name))


def pull_model(name: str, folder: Path, revision: str | None = None) -> None:
    """Download a model of the Hub to a new folder; the same call continues an interrupted download.

    Args:
        name: `organisation/name` on the Hub.
        folder: is created; it must not exist, or hold an unfinished download.
        revision: branch, tag or commit; None for the main branch.

    Raises:
        FileExistsError: the folder holds something else.
        FileNotFoundError: the Hub has no such model, or cannot be reached.
        ValueError: the name is not one of the Hub, or the Hub's model is not one that plum saved.
    """
    require_hub_name(name)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _DOWNLOAD_STATE).is_dir():
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    _download(name, folder, revision)
    saved_tensors(folder)  # raises an error if a file of weights is missing
    shutil.rmtree(folder / _DOWNLOAD_STATE.parts[0])  # the download is complete


def _download(name: str, folder: Path | None = None, revision: str | None = None) -> Path:
    """Download a model of the Hub, its configuration first: that of another architecture is refused there.

    Args:
        name: `organisation/name` on the Hub.
        folder: where to; None for the Hub's cache.
        revision: branch, tag or commit; None for the main branch.

    Returns:
        The folder that holds the model.
    """
    repository = Repository(name, "model", revision)
    config = download_file(repository, CONFIG_FILE, folder)
    _require_saved_model(name, config.parent)
    return download(repository, HUB_FILES, folder)


def _require_saved_model(name: str, folder: Path) -> None:
    """Refuse a model that plum did not save; the folder holds its configuration only."""
    command = describe_conversion(folder)
    if command is not None:
        raise ValueError(
            f"{name} was not written by plum: hf download {name} --local-dir FOLDER; "
            f"{command.replace(str(folder), 'FOLDER')}"
        )
    read_model_config(folder)
