"""Finds a saved model by its folder or by its name on the Hugging Face Hub (`organisation/name`), and downloads it."""

import logging
import re
import shutil
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from plum.checkpoints.model_config_io import CONFIG_FILE, describe_conversion, read_model_config
from plum.checkpoints.store import saved_tensors

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
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
    if not _HUB_NAME.fullmatch(str(name)) or Path(folder.parts[0]).exists():
        raise FileNotFoundError(f"{name}: no such folder; name the folder of a saved model, such as RUN/model")
    return _download(str(name))


def hide_requests() -> None:
    """Keep the log of HTTP requests, a line for each, out of the messages of a command."""
    logging.getLogger("httpx").setLevel(logging.WARNING)


def is_hub_name(name: str) -> bool:
    """Return whether a text has the form `organisation/name`."""
    return _HUB_NAME.fullmatch(name) is not None


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
    if not is_hub_name(name):
        raise ValueError(f"{name}: not a name on the Hugging Face Hub; write organisation/name")
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
    hide_requests()
    try:
        config = Path(hf_hub_download(name, CONFIG_FILE, revision=revision, local_dir=folder))
        _require_saved_model(name, config.parent)
        patterns = list(HUB_FILES)
        return Path(snapshot_download(name, revision=revision, local_dir=folder, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name}: no such folder here, and it could not be downloaded from the Hugging Face Hub "
            f"({type(error).__name__}: {reason}); where the network is there: hf download {name} --local-dir FOLDER, "
            "then name that folder"
        ) from error


def _require_saved_model(name: str, folder: Path) -> None:
    """Refuse a model that plum did not save; the folder holds its configuration only."""
    command = describe_conversion(folder)
    if command is not None:
        raise ValueError(
            f"{name} was not written by plum: hf download {name} --local-dir FOLDER; "
            f"{command.replace(str(folder), 'FOLDER')}"
        )
    read_model_config(folder)
