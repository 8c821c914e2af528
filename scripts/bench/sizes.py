"""Models and runs that the training benchmarks measure, by size, with random weights.

tiny: the quickstart's (configs/plum_tiny_stage*.yaml). small: a 4-layer, 512-wide LLaMA behind 256 image tokens, and
SAM with a smaller encoder at 512 px, so that two CPU cores show the shape of a full-size step. 7b, 13b: the paper's.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from plum.config import ModelConfig, SamConfig, VisionConfig
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

Size = Literal["tiny", "small", "7b", "13b"]


def training_config(size: Size, stage: int, data: Path) -> TrainConfig:
    """Return a shipped run, turned to a folder of drawn data.

    Args:
        size: of the model; `small` is the 7B run with a small model.
        stage: 0 or 1.
        data: folder from `draw_data`.
    """
    shipped = "7b" if size == "small" else size
    name = f"plum_tiny_stage{stage}" if size == "tiny" else f"plum_{shipped}_{'0shot' if stage == 0 else 'ft'}"
    config = load_train_config(["--config", str(CONFIGS / f"{name}.yaml")])
    if size != "tiny":  # the downloads of full-size runs are not needed to measure them
        drawn = load_train_config(["--config", str(CONFIGS / f"plum_tiny_stage{stage}.yaml")]).data
        config = replace(config, data=replace(drawn, conversations_per_image=config.data.conversations_per_image))
    if size == "small":
        config = replace(config, model=small_model(config.model))
    sources = tuple(replace(source, path=str(data / "train")) for source in config.data.sources)
    return replace(
        config,
        data=replace(config.data, sources=sources, exclude_images=(), count_images=()),
        tokenizer=str(data / "tokenizer"),
        init_from=None,
        save_model="full",
    )


def small_model(full: ModelConfig) -> ModelConfig:
    """Return a full-size model with fewer and narrower layers: same tokens, same decoder, a quarter of the grid."""
    language = replace(
        full.language,
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=1376,
        num_layers=4,
        num_heads=8,
        num_key_value_heads=8,
    )
    vision = VisionConfig(
        image_size=224, patch_size=14, hidden_size=256, intermediate_size=1024, num_layers=4, num_heads=4
    )
    sam = SamConfig(image_size=512, encoder_dim=384, encoder_depth=6, encoder_heads=6, encoder_global_blocks=(2, 5))
    return replace(full, llava=replace(full.of_llava, language=language, vision=vision), sam=sam)


def draw_data(folder: Path, images: int, image_size: int) -> None:
    """Draw the embedded data set into `folder`/train and train its tokenizer, unless they are there."""
    from partonomy.cli.build import build  # noqa: PLC0415  (with all sources: seconds)
    from plum.data.tokenizer_texts import collect_texts  # noqa: PLC0415
    from plum.inputs.tokenizer import train_tokenizer  # noqa: PLC0415

    if not (folder / "train").exists():
        build(
            source="synthetic",
            output=str(folder / "train"),
            images=str(images),
            image_size=image_size,
            embedding_model="char-ngram-tfidf",
        )
    if not (folder / "tokenizer").exists():
        train_tokenizer(collect_texts([folder / "train"]), 1024).save_pretrained(str(folder / "tokenizer"))


def only_mask_branch(config: ModelConfig) -> ModelConfig:
    """Return the model with towers and language model of one layer: the mask branch does not use them."""
    llava = config.of_llava
    assert isinstance(config.sam, SamConfig)
    return replace(
        config,
        llava=replace(
            llava,
            language=replace(llava.language, num_layers=1, vocab_size=64),
            vision=replace(llava.vision, num_layers=1, select_layer=-1),
        ),
        sam=replace(config.sam, encoder_depth=1, encoder_global_blocks=()),
    )


def image_sizes(size: Size, count: int) -> Sequence[tuple[int, int]]:
    """Return (H, W) of a batch's images: the drawn ones are square, photographs are of COCO's usual sizes."""
    photographs = ((480, 640), (480, 640), (640, 480), (427, 640), (480, 640), (640, 427))
    return [(192, 192) if size == "tiny" else photographs[i % len(photographs)] for i in range(count)]
