"""PLUM, a multimodal language model that answers in words and segments the parts it names.

`plum.load(folder)` opens a saved model; its predictions have `phrases`, `masks`, `boxes`, `plot()` and `save(folder)`.
`__version__` is the version of the package.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plum.inference.api import Plum

    __version__: str

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> str:
    """Return `__version__`, which is read only when it is asked for."""
    if name == "__version__":
        from partonomy.version import find_version  # noqa: PLC0415

        return find_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(folder: Path | str, device: str = "auto", dtype: str = "auto") -> "Plum":
    """Open a saved model for questions and highlights.

    Args:
        folder: what a run or `python -m plum export` saved, or the name of such a model on the Hugging Face Hub.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", ...
        dtype: "auto" (bfloat16 on a GPU, float32 elsewhere), "float32", "bfloat16" or "float16".

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no usable model, or device or dtype do not exist.
    """
    from plum.inference.api import Plum  # noqa: PLC0415  (torch and transformers come with it)

    return Plum(folder, device, dtype)
