"""One original annotation file of Pascal-Part (MATLAB 5 format): objects and parts under their code names."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from partonomy.masks import encode_mask
from partonomy.structures import RLE

HEADER_BYTES = 128
COMPRESSED = 15  # type of an element of a MATLAB 5 file
MAX_BYTES = 1 << 30  # of a variable, unpacked; the largest of the release have some 10 MB


@dataclass(frozen=True)
class MatPart:
    """A part under its code ("lfuleg", "wheel_1"); `mask` None: it covers no pixel."""

    code: str
    mask: RLE | None


@dataclass(frozen=True)
class MatObject:
    """An object of a VOC class with its parts, which may overlap or be missing."""

    class_name: str
    mask: RLE
    parts: tuple[MatPart, ...]


def read_mat(path: Path) -> tuple[MatObject, ...]:
    """Read a file.

    Raises:
        ValueError: the file is damaged, of another structure, of another image than its name says, or its masks have
            several sizes; names file, object and part.
    """
    try:
        content = path.read_bytes()
        _check_container(content)
        anno = loadmat(io.BytesIO(content), variable_names=["anno"])["anno"][0, 0]
        image_name, objects = str(anno["imname"][0]), anno["objects"].reshape(-1)
    except Exception as error:  # SciPy meets a file of another structure with errors of a dozen kinds
        raise ValueError(
            f"{path}: not an annotation file of Pascal-Part (MATLAB 5, `anno` with `imname` and `objects`): {error!r}"
        ) from error
    if image_name != path.stem:
        raise ValueError(f"{path}: the file annotates the image {image_name!r}, not the one it is named after")
    read = tuple(_read_object(content, f"{path}, object {number}") for number, content in enumerate(objects))
    masks = [mask for one in read for mask in (one.mask, *(part.mask for part in one.parts)) if mask is not None]
    sizes = sorted({(mask.height, mask.width) for mask in masks})
    if len(sizes) > 1:
        raise ValueError(f"{path}: the masks have several sizes (height, width): {sizes}")
    return read


def _check_container(content: bytes) -> None:
    """Check a file's framing and checksums: SciPy's reader trusts the bytes, and damaged ones can end the process."""
    byte_order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if not content.startswith(b"MATLAB 5.0") or byte_order is None:
        raise ValueError("no MATLAB 5 file")
    position = HEADER_BYTES
    while position < len(content):
        kind, size = struct.unpack_from(f"{byte_order}II", content, position)
        if kind != COMPRESSED:
            raise ValueError(
                "a variable is not compressed and so has no checksum; save the file again with compression (-v7 in "
                "MATLAB, do_compression=True in SciPy)"
            )
        packed = zlib.decompressobj()
        packed.decompress(content[position + 8 : position + 8 + size], MAX_BYTES)
        if not packed.eof:
            raise ValueError("it ends early, or a variable is larger than a gigabyte")
        position += 8 + size


def _read_object(content: Any, where: str) -> MatObject:
    try:
        class_name, parts = str(content["class"][0]), content["parts"].reshape(-1)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: needs `class`, `mask` and `parts` ({error!r})") from error
    mask = _read_mask(content, where)
    return MatObject(
        class_name, encode_mask(mask), tuple(_read_part(part, f"{where} ({class_name})") for part in parts)
    )


def _read_part(content: Any, where: str) -> MatPart:
    try:
        code = str(content["part_name"][0])
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: a part needs `part_name` and `mask` ({error!r})") from error
    mask = _read_mask(content, f"{where}, part {code!r}")
    return MatPart(code, encode_mask(mask) if mask.any() else None)


def _read_mask(content: Any, where: str) -> np.ndarray:
    """Bool (H, W), pixels of the image."""
    try:
        mask = np.asarray(content["mask"])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{where}: needs a `mask` ({error!r})") from error
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "bui":
        raise ValueError(f"{where}: `mask` must be an integer array (height, width), got {mask.dtype} {mask.shape}")
    return mask > 0
