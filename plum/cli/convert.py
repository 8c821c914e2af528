"""`python -m plum convert`: convert a published checkpoint of LISA, M2SA, GLaMM or PLUM's authors to a saved model.

With `--system calico`, it joins GLaMM's checkpoint with CALICO's towers.
"""

from pathlib import Path

from partonomy.cli.flags import Positive
from plum.checkpoints.published.system_request import SystemRequest, Targets, TargetSystem
from plum.config import PositionDtype, SamConfig


def convert(
    source: Path,
    destination: Path,
    *,
    clip: Path | None = None,
    sam: Path | None = None,
    base: Path | None = None,
    targets: Targets | None = None,
    lora_alpha: Positive | None = None,
    feedback: bool = False,
    system: TargetSystem | None = None,
    blip: Path | None = None,
    dino: Path | None = None,
    position_dtype: PositionDtype = SamConfig.position_dtype,
) -> None:
    """Convert a published checkpoint of LISA, M2SA, GLaMM or PLUM's authors to a saved model.

    Args:
        source: folder of the checkpoint, or the file that DeepSpeed's zero_to_fp32 wrote
        destination: new folder to write; name it as --checkpoint of any command
        clip: CLIP folder, if the checkpoint has no CLIP (merged ones have none)
        sam: SAM's weights, if the checkpoint lacks its image encoder
        base: LLaVA folder that the training began with, if the source has no config.json
        targets: [SEG] tokens in an answer (default: single for LISA, many for M2SA and GLaMM)
        lora_alpha: lora_alpha of the training, for unmerged adapters (default: 16)
        feedback: keep the mask feedback of PLUM's authors, which their evaluation drops
        system: calico: join a GLaMM checkpoint with CALICO's towers, as a start of its training (init_from)
        blip: for calico: folder of InstructBLIP or BLIP-2 (EVA-CLIP, Q-Former and, from InstructBLIP with Vicuna,
            f_image)
        dino: for calico: folder of DINOv2, with or without registers
        position_dtype: arithmetic of SAM's positional encoding; bfloat16: as the authors' code

    Raises:
        FileNotFoundError: a file or folder does not exist.
        FileExistsError: the destination exists.
        ValueError: the checkpoint is none that is known, or weights are missing or left over.
    """
    from plum.checkpoints.published.convert_system import convert_system

    request = SystemRequest(source, clip, sam, base, targets, lora_alpha, feedback, system, blip, dino, position_dtype)
    result = convert_system(request, destination)
    for note in result.notes:
        print(note)
    print(f"{destination}: {result.num_tensors} tensors, {result.num_bytes / 1e9:.2f} GB")
    if request.system is not None:
        print(f"Train from it: init_from: {destination} (configs/calico_7b.yaml)")
        return
    print(f"Use it: python -m plum segment --checkpoint {destination} --image IMAGE --question QUESTION")
