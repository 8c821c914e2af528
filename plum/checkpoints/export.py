"""Export: a trained model with its adapters merged, as one folder for inference or as the base of another stage."""

from pathlib import Path

import torch

from plum.checkpoints.merge_lora import MergeResult, merge_lora
from plum.checkpoints.store import CARD_FILE, load_pretrained, save_pretrained


def export_merged(
    source: Path | str, destination: Path | str, dtype: torch.dtype = torch.float32, model_card: str | None = None
) -> MergeResult:
    """Merge the adapters of a saved model and save the result.

    Args:
        source: folder of a saved model, adapters or not (without any it is copied in `dtype`).
        destination: must not exist.
        dtype: of the exported weights; the merge itself is float32.
        model_card: None: the source's.

    Returns:
        How far logits moved by merging (before the cast to `dtype`); 0 without adapters.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: see `load_pretrained` and `save_pretrained`.
    """
    loaded = load_pretrained(source)
    result = MergeResult(0.0) if loaded.config.lora is None else merge_lora(loaded.model)
    card = (Path(source) / CARD_FILE).read_text(encoding="utf-8") if model_card is None else model_card
    save_pretrained(loaded.model.to(dtype), loaded.tokenizer, destination, card)
    return result
