"""SAM's image embeddings on disk, so that a frozen encoder runs once per image for any number of epochs and runs.

The key of an embedding is the content of its image, the encoder's weights and its preprocessing, so that a stale one is
never returned. Writes are atomic, so that processes may share a folder.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from partonomy.files import require_readable, write_text_atomically
from plum.checkpoints.weights import give_usual_mode
from plum.inputs.image_transforms import SAM_MEAN, SAM_STD

logger = logging.getLogger(__name__)

TENSOR_NAME = "embedding"
RECOUNT_SHARE = 0.01
"""After writing this share of the limit, a process measures the folder again, to include what others have written."""


@dataclass(frozen=True)
class SamPreprocessing:
    """How an image becomes the encoder's input, and the encoder's precision.

    Attributes:
        image_size: side of the padded square input in pixels; the longest side of the image becomes this long.
        dtype: the encoder's dtype, as torch names it ("float32", "bfloat16").
        mean, std: pixel statistics, RGB, 0 to 255.
        resampling: PIL's resampling filter.
    """

    image_size: int
    dtype: str
    mean: tuple[float, ...] = SAM_MEAN
    std: tuple[float, ...] = SAM_STD
    resampling: str = "bilinear"


class SamFeatureCache:
    """Embeddings of one encoder, one safetensors file per image; picklable for loader processes.

    Args:
        folder: shared by all encoders; each has its own subfolder.
        weights_hash: hash of the encoder's weights, from `hash_encoder`.
        preprocessing: preprocessing of the encoder's input.
        max_bytes: nothing is added to `folder` beyond this size, which is logged once; each of several processes may
            exceed it by 1%. None: no limit.

    Raises:
        ValueError: `folder` is a file.
    """

    def __init__(
        self, folder: Path | str, weights_hash: str, preprocessing: SamPreprocessing, max_bytes: int | None = None
    ) -> None:
        self.root = Path(folder)
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"{self.root} is a file; the cache of SAM features needs a folder")
        about = {"weights_hash": weights_hash, "preprocessing": asdict(preprocessing)}
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = self.root / key
        self.max_bytes = max_bytes
        self._about = about
        self._counted: int | None = None
        self._since_count = 0
        self._is_full = False

    def get(self, image_hash: str) -> Tensor | None:
        """Read an embedding [C, h, w], on the CPU, in the dtype in which it was stored; None if it is missing.

        Raises:
            ValueError: the file is damaged.
        """
        path = self._path(image_hash)
        if not path.is_file():
            return None
        require_readable(path)
        try:
            with safe_open(path, framework="pt") as tensors:
                return tensors.get_tensor(TENSOR_NAME)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, and it will be computed again") from error

    def put(self, image_hash: str, embedding: Tensor) -> None:
        """Store an embedding [C, h, w], unless it exists or the cache is full.

        If a write fails (a full disk), a warning is logged and nothing more is written: the cache is optional.
        """
        path = self._path(image_hash)
        if self._is_full or path.exists():
            return
        if self.max_bytes is not None and self._size() + embedding.nbytes > self.max_bytes:
            self._is_full = True
            logger.warning("%s is full (%d bytes): further SAM features are not kept", self.root, self.max_bytes)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._describe()
            self._write(path, embedding.detach().cpu().contiguous())
        except (OSError, SafetensorError) as error:
            self._is_full = True
            logger.warning("SAM features cannot be written to %s (%s): further ones are not kept", self.root, error)
            return
        self._since_count += embedding.nbytes

    def size_in_bytes(self) -> int:
        """Return the size of the whole folder, other encoders' embeddings included."""
        return sum(file.stat().st_size for file in self.root.rglob("*.safetensors"))

    def count_images(self) -> int:
        """Return the number of this encoder's embeddings."""
        return sum(1 for _ in self.folder.rglob("*.safetensors"))

    def _size(self) -> int:
        """Return the folder's size, measured again now and then, since other processes write to it, too."""
        assert self.max_bytes is not None
        if self._counted is None or self._since_count > RECOUNT_SHARE * self.max_bytes:
            self._counted, self._since_count = self.size_in_bytes(), 0
        return self._counted + self._since_count

    def _path(self, image_hash: str) -> Path:
        return self.folder / image_hash[:2] / f"{image_hash}.safetensors"

    def _write(self, path: Path, embedding: Tensor) -> None:
        """Write to a temporary file, then rename it, so that other processes see a complete file or none."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            save_file({TENSOR_NAME: embedding}, temporary)
            give_usual_mode(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _describe(self) -> None:
        """Record in the folder which encoder its embeddings belong to."""
        path = self.folder / "about.json"
        if not path.exists():
            write_text_atomically(path, json.dumps(self._about, indent=2) + "\n")


def hash_encoder(encoder: nn.Module, dtype: torch.dtype) -> str:
    """Return a digest of a module's weights cast to `dtype`, independent of their current dtype.

    Training calls it with float32 weights, evaluation with weights already cast; both find the same embeddings.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        values = tensor.detach().cpu()
        if values.is_floating_point():
            values = values.to(dtype)
        digest.update(f"{name} {tuple(values.shape)} {values.dtype};".encode())
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
