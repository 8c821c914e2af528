"""The segmenter's image embeddings on disk, so that a frozen encoder runs once per image for any number of epochs.

SAM has one map per image. SAM 2 has three: the finer two are kept as its mask decoder's convolutions leave them, or, if
these are trained, as the image encoder does, which takes five times the space. The key of an image's embeddings is the
content of the image, the weights that they depend on and the preprocessing, so that stale ones are never returned.
Writes are atomic, so that processes may share a folder.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from partonomy.files import require_readable, write_text_atomically
from plum.checkpoints.weights import give_usual_mode
from plum.inputs.image_transforms import SAM_MEAN, SAM_STD, SegmenterInput
from plum.models.segmenters.segmenter import Segmenter
from plum.structures import ImageEmbeddings

logger = logging.getLogger(__name__)

TENSOR_NAME = "embedding"
FINER_NAME = "finer.{}"
"""Names of an image's maps in its file: the main one's, and the finer ones' by number."""
RECOUNT_SHARE = 0.01
"""After writing this share of the limit, a process measures the folder again, to include what others have written."""


@dataclass(frozen=True)
class SamPreprocessing:
    """How an image becomes the encoder's input, and the encoder's precision.

    Attributes:
        image_size: side of the square input in pixels; the longest side of the image becomes this long.
        dtype: the encoder's dtype, as torch names it ("float32", "bfloat16").
        mean, std: pixel statistics, RGB, 0 to 255.
        resampling: PIL's resampling filter.
        fit: what becomes of the image's other side; see `SegmenterInput`.
    """

    image_size: int
    dtype: str
    mean: tuple[float, ...] = SAM_MEAN
    std: tuple[float, ...] = SAM_STD
    resampling: str = "bilinear"
    fit: str = "pad"

    @classmethod
    def of_input(cls, given: SegmenterInput, dtype: torch.dtype) -> "SamPreprocessing":
        """Return the preprocessing of a segmenter's input, read by an encoder in `dtype`."""
        return cls(given.size, str(dtype).removeprefix("torch."), given.mean, given.std, fit=given.fit)

    def describe(self) -> dict[str, object]:
        """Return the fields by name; without the usual `fit`, so that folders from before it existed stay valid."""
        described = asdict(self)
        return {name: value for name, value in described.items() if name != "fit" or value != SamPreprocessing.fit}


class SamFeatureCache:
    """Embeddings of one segmenter, one safetensors file per image; picklable for loader processes.

    Args:
        folder: shared by all encoders; each has its own subfolder.
        weights_hash: hash of the weights that embeddings depend on, from `hash_weights`.
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
        about = {"weights_hash": weights_hash, "preprocessing": preprocessing.describe()}
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = self.root / key
        self.max_bytes = max_bytes
        self._about = about
        self._counted: int | None = None
        self._since_count = 0
        self._is_full = False

    def get(self, image_hash: str) -> ImageEmbeddings | None:
        """Read one image's embeddings, on the CPU, in the dtype in which they were stored; None if they are missing.

        Raises:
            ValueError: the file is damaged.
        """
        path = self._path(image_hash)
        if not path.is_file():
            return None
        require_readable(path)
        try:
            with safe_open(path, framework="pt") as tensors:
                names = [TENSOR_NAME, *(FINER_NAME.format(number) for number in range(len(tensors.keys()) - 1))]
                return ImageEmbeddings.of_maps([tensors.get_tensor(name)[None] for name in names])
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, and it will be computed again") from error

    def put(self, image_hash: str, embeddings: ImageEmbeddings) -> None:
        """Store one image's embeddings, unless they exist or the cache is full.

        If a write fails (a full disk), a warning is logged and nothing more is written: the cache is optional.
        """
        path = self._path(image_hash)
        if self._is_full or path.exists():
            return
        if self.max_bytes is not None and self._size() + embeddings.nbytes > self.max_bytes:
            self._is_full = True
            logger.warning("%s is full (%d bytes): further SAM features are not kept", self.root, self.max_bytes)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._describe()
            self._write(path, embeddings)
        except (OSError, SafetensorError) as error:
            self._is_full = True
            logger.warning("SAM features cannot be written to %s (%s): further ones are not kept", self.root, error)
            return
        self._since_count += embeddings.nbytes

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

    def _write(self, path: Path, embeddings: ImageEmbeddings) -> None:
        """Write to a temporary file, then rename it, so that other processes see a complete file or none."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            main, *finer = (one[0].detach().cpu().contiguous() for one in embeddings.maps)
            save_file(
                {TENSOR_NAME: main, **{FINER_NAME.format(number): one for number, one in enumerate(finer)}}, temporary
            )
            give_usual_mode(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _describe(self) -> None:
        """Record in the folder which segmenter its embeddings belong to."""
        path = self.folder / "about.json"
        if not path.exists():
            write_text_atomically(path, json.dumps(self._about, indent=2) + "\n")


def open_cache(
    folder: Path | str,
    sam: Segmenter,
    given: SegmenterInput,
    dtype: torch.dtype,
    *,
    is_prepared: bool = True,
    max_bytes: int | None = None,
) -> SamFeatureCache:
    """Open the cache of a segmenter's embeddings.

    Args:
        folder: shared by all encoders.
        sam: the segmenter with its final weights.
        given: preprocessing of its input.
        dtype: dtype in which it runs.
        is_prepared: whether prepared embeddings are kept (`Segmenter.prepare`).
        max_bytes: limit of the folder; None: none.

    Raises:
        ValueError: `folder` is a file.
    """
    weights_hash = hash_weights(sam.weights_of_embeddings(is_prepared), dtype)
    return SamFeatureCache(folder, weights_hash, SamPreprocessing.of_input(given, dtype), max_bytes)


def hash_encoder(encoder: nn.Module, dtype: torch.dtype) -> str:
    """Return a digest of a module's weights; see `hash_weights`."""
    return hash_weights(encoder.state_dict(), dtype)


def hash_weights(weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """Return a digest of weights cast to `dtype`, independent of their current dtype.

    Training calls it with float32 weights, evaluation with weights already cast; both find the same embeddings.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu()
        if values.is_floating_point():
            values = values.to(dtype)
        digest.update(f"{name} {tuple(values.shape)} {values.dtype};".encode())
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
