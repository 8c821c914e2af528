"""What a conversion of a published system is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plum.config import PositionDtype, SamConfig

Targets = Literal["many", "single"]
TargetSystem = Literal["calico"]
"""System that a checkpoint is made a start of, where it is not its own."""
LORA_ALPHA = 16
"""`lora_alpha` of the training scripts of LISA, M2SA and PLUM; checkpoints do not state it."""


@dataclass(frozen=True)
class SystemRequest:
    """What to convert.

    Attributes:
        source: folder of a checkpoint, or one weight file of `zero_to_fp32`.
        clip: CLIP folder, if the checkpoint holds no CLIP.
        sam: `sam_vit_{b,l,h}_*.pth`, for a checkpoint that lacks SAM's image encoder or another of its three parts.
        base: folder of the LLaVA that the training began with, if the source has no config.json and no tokenizer.
        targets: [SEG] tokens of an answer; None: the system's own way, one for LISA, one per phrase for M2SA and GLaMM.
        lora_alpha: scale of adapters, times their rank; None: `LORA_ALPHA`.
        keeps_feedback: keep the mask feedback of PLUM's authors, which their evaluation turns off.
        system: `calico`: make a start of CALICO of GLaMM's checkpoint; None: the checkpoint's own system.
        blip: folder of InstructBLIP or BLIP-2, for CALICO.
        dino: folder of DINOv2, for CALICO; None: without (`model.calico.correspondence.source` eva or none).
        position_dtype: arithmetic of SAM's positional encoding; the authors' code computes it in bfloat16.
    """

    source: Path
    clip: Path | None = None
    sam: Path | None = None
    base: Path | None = None
    targets: Targets | None = None
    lora_alpha: int | None = None
    keeps_feedback: bool = False
    system: TargetSystem | None = None
    blip: Path | None = None
    dino: Path | None = None
    position_dtype: PositionDtype = SamConfig.position_dtype
