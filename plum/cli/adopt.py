"""`python -m plum adopt`: a stock image-text-to-text checkpoint as the base of a run."""

from pathlib import Path


def adopt(source: Path, destination: Path, *, sam: Path) -> None:
    """Make a base of a stock checkpoint of transformers (Qwen-VL, InternVL, SmolVLM, ...), without copying it.

    Args:
        source: folder of the checkpoint; it is read where it is and has to be kept
        destination: new folder to write; use it as a run's init_from
        sam: SAM's weights, sam_vit_{b,l,h}_*.pth, or the folder of a SAM 2 in transformers' form

    Raises:
        FileNotFoundError: a file or folder does not exist.
        FileExistsError: the destination exists.
        ValueError: the architecture is not supported, or a file is damaged or incomplete.
    """
    from plum.checkpoints import adopt as adoption

    adopted = adoption.adopt(source, sam, destination)
    for note in adopted.notes:
        print(note)
    print(
        f"{destination}: use it as init_from; under `model:`, write `hf: {{}}` and the `sam` block of its config.json"
    )
