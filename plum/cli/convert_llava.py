"""`python -m plum convert-llava`: convert downloaded LLaVA, CLIP and SAM weights to a folder for `init_from`."""

from dataclasses import asdict
from pathlib import Path

from plum.config import Conversation, Fit, ModelConfig


def convert_llava(
    source: Path,
    destination: Path,
    *,
    sam: Path,
    clip: Path | None = None,
    conversation: Conversation | None = None,
    fit: Fit | None = None,
    config: Path | None = None,
) -> None:
    """Convert the published weights of LLaVA, CLIP and SAM.

    Args:
        source: folder of a llava-hf or an original (liuhaotian) checkpoint
        destination: new folder to write; use it as a run's init_from
        sam: SAM's weights, sam_vit_{b,l,h}_*.pth
        clip: CLIP folder, if the LLaVA checkpoint has no CLIP
        conversation: the checkpoint's chat template
        fit: how the checkpoint's images became CLIP's square (default: read from it)
        config: YAML file of a run; the checkpoints must match its architecture

    Raises:
        FileNotFoundError: a file or folder does not exist.
        FileExistsError: the destination exists.
        ValueError: a checkpoint has another architecture, or weights are missing or left over.
    """
    from plum.checkpoints.published import convert_llava as conversion
    from plum.training.config_file import load_train_config

    expected = load_train_config(["--config", str(config)]).model if config else None
    request = conversion.ConversionRequest(source, sam, clip, conversation, expected, fit)
    result = conversion.convert_llava(request, destination)
    for note in result.notes:
        print(note)
    print(f"{destination}: {result.num_tensors} tensors, {result.num_bytes / 1e9:.2f} GB")
    print("The YAML of a run that starts from it:")
    print(describe_model(result.config))


def describe_model(config: ModelConfig) -> str:
    """Return the `model` block of a YAML for the converted weights (heads and adapters keep their defaults)."""
    import yaml

    llava = asdict(config.llava)
    del llava["special_tokens"]  # a run reads them from the tokenizer
    sam = asdict(config.sam)
    sam["encoder_global_blocks"] = list(sam["encoder_global_blocks"])
    block = {"model": {"system": config.system, "llava": llava, "sam": sam}}
    return yaml.safe_dump(block, sort_keys=False, default_flow_style=None, width=160)
