"""`python -m plum convert`: convert a published checkpoint of LISA, M2SA, GLaMM or PLUM's authors to a saved model.

With `--system calico`, it joins GLaMM's checkpoint with CALICO's towers.
"""

import argparse
from pathlib import Path
from typing import get_args

from plum.checkpoints.published.system_request import LORA_ALPHA, SystemRequest, Targets, TargetSystem
from plum.cli.commands import COMMANDS
from plum.cli.model_flags import positive
from plum.config import PositionDtype, SamConfig


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("convert", help=COMMANDS["convert"])
    parser.add_argument(
        "source", type=Path, help="folder of the checkpoint, or the file that DeepSpeed's zero_to_fp32 wrote"
    )
    parser.add_argument("destination", type=Path, help="new folder to write; name it as --checkpoint of any command")
    parser.add_argument("--clip", type=Path, help="CLIP folder, if the checkpoint has no CLIP (merged ones have none)")
    parser.add_argument("--sam", type=Path, help="SAM's weights, if the checkpoint lacks its image encoder")
    parser.add_argument(
        "--base", type=Path, help="LLaVA folder that the training began with, if the source has no config.json"
    )
    parser.add_argument(
        "--targets",
        choices=get_args(Targets),
        help="[SEG] tokens in an answer (default: single for LISA, many for M2SA and GLaMM)",
    )
    parser.add_argument(
        "--lora_alpha",
        type=positive,
        help=f"lora_alpha of the training, for unmerged adapters (default: {LORA_ALPHA})",
    )
    parser.add_argument(
        "--feedback", action="store_true", help="keep the mask feedback of PLUM's authors, which their evaluation drops"
    )
    parser.add_argument(
        "--system",
        choices=get_args(TargetSystem),
        help="calico: join a GLaMM checkpoint with CALICO's towers, as a start of its training (init_from)",
    )
    parser.add_argument(
        "--blip",
        type=Path,
        help="for calico: folder of InstructBLIP or BLIP-2 (EVA-CLIP, Q-Former and, from InstructBLIP with Vicuna, "
        "f_image)",
    )
    parser.add_argument("--dino", type=Path, help="for calico: folder of DINOv2, with or without registers")
    parser.add_argument(
        "--position_dtype",
        choices=get_args(PositionDtype),
        default=SamConfig.position_dtype,
        help="arithmetic of SAM's positional encoding; bfloat16: as the authors' code (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from plum.checkpoints.published.convert_system import convert_system

    request = SystemRequest(
        arguments.source,
        arguments.clip,
        arguments.sam,
        arguments.base,
        arguments.targets,
        arguments.lora_alpha,
        arguments.feedback,
        arguments.system,
        arguments.blip,
        arguments.dino,
        arguments.position_dtype,
    )
    result = convert_system(request, arguments.destination)
    for note in result.notes:
        print(note)
    print(f"{arguments.destination}: {result.num_tensors} tensors, {result.num_bytes / 1e9:.2f} GB")
    if request.system is not None:
        print(f"Train from it: init_from: {arguments.destination} (configs/calico_7b.yaml)")
        return
    print(f"Use it: python -m plum segment --checkpoint {arguments.destination} --image IMAGE --question QUESTION")
