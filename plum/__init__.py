"""PLUM, a multimodal language model that answers in words and segments the parts it names.

`plum.load(folder)` opens a saved model.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plum.inference.api import Plum


def load(folder: Path | str, device: str = "auto") -> "Plum":
    """Open a saved model for questions and highlights; bfloat16 on a GPU, float32 on the CPU.

    Args:
        folder: what a run or `python -m plum export` saved.
        device: "auto", "cpu", "cuda", "cuda:1", ...
    """
    from plum.inference.api import Plum  # noqa: PLC0415  (torch and transformers come with it)

    return Plum(folder, device)
