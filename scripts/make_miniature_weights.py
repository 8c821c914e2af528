"""Write LLaVA and SAM with a few hundred thousand random weights in the published file formats, for miniature_path.sh.

`python scripts/make_miniature_weights.py --output weights` writes weights/llava-miniature (a llava-hf folder with CLIP
inside) and weights/sam_miniature.pth for `python -m plum convert-llava`, with the sizes of
configs/overlays/miniature.yaml.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plum.config import LlavaConfig, ModelConfig, SamConfig
from plum.data.readers.label_maps import NAMES_FILE
from plum.data.sources import wordings
from plum.inputs.conversation import TEMPLATES
from plum.models.backbones.llava import build_llava
from plum.models.segmenters.sam import build_sam
from plum.training.config_file import load_train_config
from scripts.sentencepiece_model import train_sentencepiece, write_tokenizer_files

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BASE_CONVERSATION = "llava_llama_2"
"""Template of the base, as LLaVA trained the 13B one; the runs on top of it use the authors'."""
NUM_PIECES = 500
"""Size of the published vocabulary; the converter adds `<image>`, padding, and rows up to the overlay's size."""


def read_sizes() -> ModelConfig:
    """Return the model that the miniature's runs expect from the converter."""
    run, overlay = CONFIGS / "plum_13b_0shot.yaml", CONFIGS / "overlays" / "miniature.yaml"
    return load_train_config(["--config", str(run), "--config", str(overlay)]).model


def write_llava(config: LlavaConfig, folder: Path) -> None:
    """Write a llava-hf folder: safetensors, config.json, SentencePiece tokenizer."""
    published = replace(config, language=replace(config.language, vocab_size=NUM_PIECES))
    build_llava(published, None).stock.save_pretrained(folder)
    write_tokenizer_files(folder, train_sentencepiece(training_texts(), NUM_PIECES))


def training_texts() -> list[str]:
    """Return the texts of templates, wordings and classes, each three times."""
    names: dict[str, Sequence[str]] = yaml.safe_load(NAMES_FILE.read_text(encoding="utf-8"))
    texts = [template.opening + template.before_answer for template in TEMPLATES.values()]
    texts += [name for group in names.values() for name in group]
    texts += [text for value in vars(wordings).values() if isinstance(value, tuple) for text in value]
    return [text for text in texts for _ in range(3)]


def main() -> None:
    """Write both and print the command that converts them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--output", required=True, type=Path, help="folder for both")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    llava, sam = arguments.output / "llava-miniature", arguments.output / "sam_miniature.pth"
    if llava.exists() or sam.exists():
        parser.error(f"{arguments.output} already holds miniature weights")
    sizes = read_sizes()
    torch.manual_seed(arguments.seed)
    llava.mkdir(parents=True)
    write_llava(sizes.of_llava, llava)
    assert isinstance(sizes.sam, SamConfig)
    torch.save(build_sam(sizes.sam).state_dict(), sam)
    print(f"python -m plum convert-llava {llava} DESTINATION --sam {sam} --conversation {BASE_CONVERSATION}")


if __name__ == "__main__":
    main()
