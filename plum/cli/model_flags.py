"""Flags of the commands that answer with a saved model: `segment`, `predict`, `chat` and `demo`."""

from dataclasses import dataclass
from typing import Literal

from partonomy.cli.flags import Positive


@dataclass(frozen=True)
class ModelFlags:
    """Model.

    Attributes:
        checkpoint: folder of a saved model, or its name on the Hugging Face Hub
        device: auto (the first GPU, or the CPU), cpu, cuda, cuda:1, mps, ...
        dtype: auto: bfloat16 on a CUDA GPU, float32 elsewhere
        max_new_tokens: maximum length of an answer in tokens; an answer that it ends is marked (default: 256, about
            several images 1024)
    """

    checkpoint: str
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_new_tokens: Positive | None = None
