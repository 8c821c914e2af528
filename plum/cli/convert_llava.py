"""`python -m plum convert-llava`: convert downloaded LLaVA, CLIP and SAM weights to a folder for `init_from`."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from plum.cli.commands import COMMANDS
from plum.config import Conversation, Fit, ModelConfig


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("convert-llava", help=COMMANDS["convert-llava"])
    parser.add_argument("source", type=Path, help="folder of a llava-hf or an original (liuhaotian) checkpoint")
    parser.add_argument("destination", type=Path, help="new folder to write; use it as a run's init_from")
    parser.add_argument("--sam", required=True, type=Path, help="SAM's weights, sam_vit_{b,l,h}_*.pth")
    parser.add_argument("--clip", type=Path, help="CLIP folder, if the LLaVA checkpoint has no CLIP")
    parser.add_argument("--conversation", choices=get_args(Conversation), help="the checkpoint's chat template")
    parser.add_argument(
        "--fit", choices=get_args(Fit), help="how the checkpoint's images became CLIP's square (default: read from it)"
    )
    parser.add_argument("--config", type=Path, help="YAML file of a run; the checkpoints must match its architecture")
    parser.set_defaults(run=_run)


def describe_model(config: ModelConfig) -> str:
    """Return the `model` block of a YAML for the converted weights (heads and adapters keep their defaults)."""
    import yaml

    llava = asdict(config.of_llava)
    del llava["special_tokens"]  # a run reads them from the tokenizer
    sam = asdict(config.sam)
    sam["encoder_global_blocks"] = list(sam["encoder_global_blocks"])
    block = {"model": {"system": config.system, "llava": llava, "sam": sam}}
    return yaml.safe_dump(block, sort_keys=False, default_flow_style=None, width=160)


def _run(arguments: argparse.Namespace) -> None:
    from plum.checkpoints.published.convert_llava import ConversionRequest, convert_llava
    from plum.training.config_file import load_train_config

    expected = load_train_config(["--config", str(arguments.config)]).model if arguments.config else None
    request = ConversionRequest(
        arguments.source, arguments.sam, arguments.clip, arguments.conversation, expected, arguments.fit
    )
    result = convert_llava(request, arguments.destination)
    for note in result.notes:
        print(note)
    print(f"{arguments.destination}: {result.num_tensors} tensors, {result.num_bytes / 1e9:.2f} GB")
    print("The YAML of a run that starts from it:")
    print(describe_model(result.config))
