"""Uploads files to the Hugging Face Hub and downloads them, with errors of one line that say what to do."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import httpx
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from partonomy.version import DISTRIBUTION

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LONGEST_REASON = 300
_FOOTER_BYTES = 1 << 16
"""Bytes that are downloaded at a time to find the columns of a Parquet file."""

RepositoryKind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub.

    Attributes:
        name: `organisation/name`.
        kind: whether it holds a model or a data set.
        revision: branch, tag or commit; None for the main branch.
    """

    name: str
    kind: RepositoryKind
    revision: str | None = None


def is_hub_name(name: str) -> bool:
    """Return whether a text has the form `organisation/name`."""
    return _HUB_NAME.fullmatch(name) is not None


def require_hub_name(name: str) -> None:
    """Refuse a name that the Hub cannot have.

    Raises:
        ValueError: the text does not have the form `organisation/name`.
    """
    if not is_hub_name(name):
        raise ValueError(f"{name}: not a name on the Hugging Face Hub; write organisation/name")


def hide_requests() -> None:
    """Keep the log of HTTP requests, a line for each, out of the messages of a command."""
    logging.getLogger("httpx").setLevel(logging.WARNING)


def upload(
    repository: Repository,
    files: Mapping[str, Path | bytes],
    message: str,
    source: Path,
    *,
    is_private: bool = False,
    replaced: Sequence[str] = (),
) -> str:
    """Upload files in a single commit.

    Args:
        repository: where to; it and its branch are created if they do not exist.
        files: path in the repository -> a file, or its content.
        message: title of the commit.
        source: what is uploaded, for messages.
        is_private: whether a repository that is created is private; one that exists stays as it is.
        replaced: names with wildcards; other files of the repository with such names are deleted.

    Returns:
        Address of the commit.

    Raises:
        ValueError: the Hub refuses the upload or cannot be reached, or nobody is logged in.
    """
    hide_requests()
    api, name, kind, branch = HfApi(), repository.name, repository.kind, repository.revision
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, content) for path, content in files.items()
    ]
    try:
        api.create_repo(name, repo_type=kind, private=is_private, exist_ok=True)
        if branch is not None:
            api.create_branch(name, repo_type=kind, branch=branch, exist_ok=True)
        if replaced:
            found = api.list_repo_files(name, repo_type=kind, revision=branch)
            stale = [path for path in found if path not in files and any(fnmatch(path, one) for one in replaced)]
            operations += [CommitOperationDelete(path) for path in stale]
        commit = api.create_commit(name, operations, repo_type=kind, commit_message=message, revision=branch)
    except LocalTokenNotFoundError as error:
        raise ValueError(f"{name}: log in to the Hugging Face Hub (hf auth login), or set HF_TOKEN") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ValueError(
            f"{name}: the Hugging Face Hub did not take {source} ({_reason(error)}); check the network, your token "
            "(hf auth whoami) and its right to write there, then push again"
        ) from error
    return str(commit.commit_url)


def list_files(repository: Repository) -> list[str]:
    """Return the paths of a repository's files.

    Raises:
        FileNotFoundError: the Hub has no such repository or revision, or cannot be reached.
    """
    with _naming(repository):
        return HfApi().list_repo_files(repository.name, repo_type=repository.kind, revision=repository.revision)


def download_file(repository: Repository, path: str, folder: Path | None = None) -> Path:
    """Download a single file.

    Args:
        repository: where from.
        path: path in the repository.
        folder: where to; None for the Hub's cache.

    Returns:
        The file.

    Raises:
        FileNotFoundError: the Hub has no such repository, revision or file, or cannot be reached.
    """
    name, kind, revision = repository.name, repository.kind, repository.revision
    with _naming(repository):
        return Path(hf_hub_download(name, path, repo_type=kind, revision=revision, local_dir=folder))


def download(repository: Repository, patterns: Sequence[str], folder: Path | None = None) -> Path:
    """Download the files whose names fit one of the patterns; the same call continues an interrupted download.

    Args:
        repository: where from.
        patterns: file names with wildcards (`*.json`).
        folder: where to; None for the Hub's cache.

    Returns:
        The folder that holds the files.

    Raises:
        FileNotFoundError: the Hub has no such repository or revision, or cannot be reached.
    """
    name, kind, revision = repository.name, repository.kind, repository.revision
    with _naming(repository):
        return Path(
            snapshot_download(name, repo_type=kind, revision=revision, local_dir=folder, allow_patterns=list(patterns))
        )


def read_remote_columns(repository: Repository, path: str) -> list[str]:
    """Return the columns of a Parquet file; only the end of the file is downloaded.

    Args:
        repository: where from.
        path: path in the repository.

    Raises:
        FileNotFoundError: the Hub has no such file, cannot be reached, or the file is damaged.
    """
    from pyarrow.parquet import read_schema  # noqa: PLC0415  (optional)

    with _naming(repository):
        place = f"{repository.kind}s/{repository.name}/{path}"
        with HfFileSystem().open(place, revision=repository.revision, block_size=_FOOTER_BYTES) as file:
            return list(read_schema(file).names)


@contextmanager
def _naming(repository: Repository) -> Iterator[None]:
    """Turn the errors of a download into one that names the repository and says what to do."""
    hide_requests()
    try:
        yield
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        if isinstance(error, PermissionError):  # of the folder here
            raise
        name, flag = repository.name, "" if repository.kind == "model" else f" --repo-type {repository.kind}"
        raise FileNotFoundError(
            f"{name}: no such folder here, and it could not be downloaded from the Hugging Face Hub "
            f"({_reason(error)}); on a machine with network access, run: hf download {name}{flag} --local-dir FOLDER, "
            "then name that folder"
        ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]}"


def require_pyarrow(command: str) -> None:
    """Refuse to go on without pyarrow, the optional package that reads and writes Parquet files.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415  (optional)
    except ImportError as error:
        raise ValueError(f"{command} needs pyarrow: pip install '{DISTRIBUTION}[hub]'") from error
