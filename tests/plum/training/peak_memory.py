"""Run as a program: start from a saved model in one of two ways and print how far resident memory rose, in bytes."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from plum.checkpoints.model_config_io import read_model_config
from plum.config import LoraConfig, ModelConfig
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_model_config
from plum.training.initialise import Placement, build_from, initialise_from


def sized_config(width: int, num_layers: int) -> ModelConfig:
    """A tiny model around a language model of 12 x width^2 x num_layers parameters."""
    config = tiny_model_config(512, TINY_TOKENS)
    language = replace(
        config.llava.language,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_layers=num_layers,
    )
    return replace(config, llava=replace(config.llava, language=language))


def resident_bytes() -> int:
    """Highest resident memory so far (getrusage would count the parent's too)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


def start(way: str, folder: str) -> int:
    """Start from the model in `folder` and return its number of parameters."""
    config = replace(read_model_config(Path(folder)), lora=LoraConfig(rank=2))
    torch.manual_seed(0)
    if way == "float32":
        model = build_model(config)
        initialise_from(model, folder)
        model = model.to(torch.bfloat16)
    else:
        model = build_from(config, folder, Placement(torch.bfloat16)).model
    assert all(parameter.dtype is torch.bfloat16 for parameter in model.parameters())
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """`peak_memory.py float32|straight SMALL_FOLDER FOLDER`."""
    way, small_folder, folder = sys.argv[1:]
    start(way, small_folder)  # the libraries' code and objects have their memory before the rise is measured
    before = resident_bytes()
    number = start(way, folder)
    sys.stdout.write(f"{resident_bytes() - before} {number}\n")


if __name__ == "__main__":
    main()
