"""The second file of an export, `NAME.annotations.json` beside `NAME.json`: what published records cannot say."""

from pathlib import Path
from typing import Any

from partonomy.datasets.files import hash_files, read_json

SIDECAR_SUFFIX = ".annotations.json"


def sidecar_path(record_file: Path) -> Path:
    """Where the annotations of a record file stand."""
    return record_file.with_suffix(SIDECAR_SUFFIX)


def read_sidecar(record_file: Path) -> dict[str, Any]:
    """Read the annotations beside a record file.

    Raises:
        FileNotFoundError: there are none.
        ValueError: no JSON object, or one that was written with another version of the record file.
    """
    path = sidecar_path(record_file)
    content = read_json(path)
    if content.get("record_sha256") != hash_files([record_file]):
        raise ValueError(f"{path}: belongs to another version of {record_file}; export both again, or delete it")
    return content


def exported_image_root(record_file: Path) -> Path | None:
    """The image folder that the annotations beside a record file name; None where there are none.

    Raises:
        ValueError: the annotations are broken or belong to another version of the record file.
    """
    path = sidecar_path(record_file)
    if not path.is_file():
        return None
    dataset = read_sidecar(record_file).get("dataset")
    image_root = dataset.get("image_root") if isinstance(dataset, dict) else None
    if not isinstance(image_root, str):
        raise ValueError(f"{path}: 'dataset' must name its 'image_root'; export both files again")
    return (record_file.parent / image_root).resolve()
