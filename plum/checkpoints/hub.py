"""Finds a saved model by its folder or by its name on the Hugging Face Hub (`organisation/name`)."""

import re
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from plum.checkpoints.model_config_io import CONFIG_FILE, describe_conversion, read_model_config

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "README.md")
"""The files of a saved model; no pickles and no code are downloaded."""


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


def _download(name: str) -> Path:
    """Download a model of the Hub, its configuration first: that of another architecture is refused there."""
    try:
        config = Path(hf_hub_download(name, CONFIG_FILE))
        _require_saved_model(name, config.parent)
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
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
