"""Upload of a saved model to the Hugging Face Hub, with a model card whose metadata the Hub reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from partonomy.hub import Repository, require_hub_name, upload
from plum.checkpoints.hub import HUB_FILES
from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.store import BASE_FILE, CARD_FILE
from plum.export.card_metadata import read_card, with_metadata


@dataclass(frozen=True)
class UploadRequest:
    """A saved model to upload.

    Attributes:
        folder: the saved model.
        name: `organisation/name` on the Hub; the repository is created if it does not exist.
        is_private: whether a repository that is created is private; one that exists stays as it is.
        revision: branch to write, created if it does not exist; None for the main one.
        licence: the Hub's name of a licence; None for that of the card, or "other".
        base_model: name on the Hub of the model under the trained weights; None for that of the card.
        tags: further tags.
        datasets: further names of training data.
        summaries: `summary.json` files, or folders that hold them, whose scores the card lists.
    """

    folder: Path
    name: str
    is_private: bool = False
    revision: str | None = None
    licence: str | None = None
    base_model: str | None = None
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    summaries: tuple[Path, ...] = ()


def push_model(request: UploadRequest) -> str:
    """Upload a saved model in a single commit.

    Returns:
        Address of the commit.

    Raises:
        FileNotFoundError: the folder or a summary is missing.
        ValueError: the name is not one of the Hub, the folder holds no complete saved model, its card has damaged
            metadata, or the Hub refuses the upload or cannot be reached.
    """
    require_hub_name(request.name)
    _require_whole_model(request.folder)
    card = hub_card(request)
    files: dict[str, Path | bytes] = {
        path.relative_to(request.folder).as_posix(): path
        for path in sorted(request.folder.rglob("*"))
        if path.is_file() and path.name != CARD_FILE and any(fnmatch(path.name, pattern) for pattern in HUB_FILES)
    }
    files[CARD_FILE] = card.encode()
    repository = Repository(request.name, "model", request.revision)
    return upload(repository, files, "Upload a model of plum", request.folder, is_private=request.is_private)


def hub_card(request: UploadRequest) -> str:
    """Return the model's card with the metadata that it has, completed by those of the request.

    Raises:
        FileNotFoundError, ValueError: a summary is missing or is not a summary, or the card's metadata are damaged.
    """
    path = request.folder / CARD_FILE
    try:
        metadata, text = read_card(path.read_text(encoding="utf-8") if path.is_file() else "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; correct or delete them") from error
    metadata = replace(
        metadata,
        licence=request.licence or metadata.licence,
        base_model=request.base_model or metadata.base_model,
        tags=_joined(metadata.tags, request.tags),
        datasets=_joined(metadata.datasets, request.datasets),
    )
    title = request.name.rsplit("/", maxsplit=1)[-1]
    return with_metadata(text.strip() + "\n" if text.strip() else f"# {title}\n", title, metadata, request.summaries)


def _joined(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _require_whole_model(folder: Path) -> None:
    """Refuse a folder that others could not load: no saved model, or trained weights over a base in another folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name the folder of a saved model, such as RUN/model")
    read_model_config(folder)
    if (folder / BASE_FILE).is_file():
        raise ValueError(
            f"{folder} holds only trained weights over a base in another folder, which others do not have; merge them "
            f"first: python -m plum export {folder} NEW_FOLDER"
        )
