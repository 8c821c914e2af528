"""Models and runs that the training benchmarks measure, by size, with random weights.

tiny: the quickstart's (configs/plum_tiny_stage*.yaml). small: a 4-layer, 512-wide LLaMA behind 256 image tokens, and
SAM with a smaller encoder at 512 px, so that two CPU cores show the shape of a full-size step. 7b, 13b: the paper's.
qwen3_vl_4b: PLUM's heads on Qwen3-VL-4B with SAM 2.1 Hiera-large; small_qwen3_vl: four narrow layers of both.
calico_7b: CALICO of configs/calico_7b.yaml, over the same drawn data, one image a conversation; small_calico: narrow.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from plum.config import HfBackboneConfig, ModelConfig, Sam2Config, SamConfig, VisionConfig
from plum.inputs.tokenizer import load_stock_tokenizer, load_tokenizer, train_tokenizer
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config
from scripts.bench.stock_checkpoints import QWEN_MARKS, QWEN_TEMPLATE, qwen_tokenizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

Size = Literal["tiny", "small", "7b", "13b", "qwen3_vl_4b", "small_qwen3_vl", "calico_7b", "small_calico"]
FIRST_MARK = 3
"""Id of the first of the stock tokenizer's marks, after padding, beginning and end."""
STOCK_SIZES = ("qwen3_vl_4b", "small_qwen3_vl")
VOCABULARY = 1024
"""Tokens of the drawn data's tokenizers; models have as many rows, or those of their published checkpoints."""
HIERA_LARGE = Sam2Config(
    model_type="sam2",
    vision={
        "backbone_channel_list": [1152, 576, 288, 144],
        "backbone_config": {
            "hidden_size": 144,
            "num_attention_heads": 2,
            "blocks_per_stage": [2, 6, 36, 4],
            "embed_dim_per_stage": [144, 288, 576, 1152],
            "num_attention_heads_per_stage": [2, 4, 8, 16],
            "window_size_per_stage": [8, 4, 16, 8],
            "global_attention_blocks": [23, 33, 43],
        },
    },
)
"""SAM 2.1 Hiera-large."""


def training_config(size: Size, stage: int, data: Path) -> TrainConfig:
    """Return a shipped run, turned to a folder of drawn data.

    Args:
        size: of the model; `small` is the 7B run with a small model.
        stage: 0 or 1.
        data: folder from `draw_data`.
    """
    shipped = "7b" if size in ("small", *STOCK_SIZES) else size.removeprefix("small_").removesuffix("_7b")
    names = {"tiny": f"plum_tiny_stage{stage}", "calico": "calico_7b"}
    name = names.get(shipped, f"plum_{shipped}_{'0shot' if stage == 0 else 'ft'}")
    config = load_train_config(["--config", str(CONFIGS / f"{name}.yaml")])
    if size != "tiny":  # the downloads of full-size runs are not needed to measure them
        drawn = load_train_config(["--config", str(CONFIGS / f"plum_tiny_stage{stage}.yaml")]).data
        config = replace(config, data=replace(drawn, conversations_per_image=config.data.conversations_per_image))
    if size == "small":
        config = replace(config, model=small_model(config.model))
    if size == "small_calico":
        config = replace(config, model=small_calico(config.model))
    if size in STOCK_SIZES:  # tied embeddings stay frozen
        model = stock_model(config.model, is_small=size == "small_qwen3_vl")
        config = replace(config, model=model, trainable=replace(config.trainable, embeddings=False))
    sources = tuple(replace(source, path=str(data / "train")) for source in config.data.sources)
    return replace(
        config,
        data=replace(config.data, sources=sources, exclude_images=(), count_images=()),
        tokenizer=str(data / ("stock_tokenizer" if size in STOCK_SIZES else "tokenizer")),
        init_from=None,
        save_model="full",
    )


def stock_model(plum: ModelConfig, *, is_small: bool) -> ModelConfig:
    """Return PLUM over Qwen3-VL-4B and SAM 2.1 Hiera-large, or over four narrow layers of both.

    Args:
        plum: heads and adapters.
        is_small: for two CPU cores.
    """
    text: dict[str, object] = {
        "hidden_size": 512 if is_small else 2560,
        "intermediate_size": 1376 if is_small else 9728,
        "num_hidden_layers": 4 if is_small else 36,
        "num_attention_heads": 8 if is_small else 32,
        "num_key_value_heads": 4 if is_small else 8,
        "head_dim": 64 if is_small else 128,
        "vocab_size": VOCABULARY if is_small else 151_936,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [12, 10, 10] if is_small else [24, 20, 20],
        },
    }
    vision: dict[str, object] = {
        "depth": 4 if is_small else 24,
        "hidden_size": 256 if is_small else 1024,
        "intermediate_size": 1024 if is_small else 4096,
        "num_heads": 4 if is_small else 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "out_hidden_size": text["hidden_size"],
        "deepstack_visual_indexes": [0, 1, 2] if is_small else [5, 11, 17],
        "num_position_embeddings": 2304,
    }
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    stock = {"model_type": "qwen3_vl", "text_config": text, "vision_config": vision, "tie_word_embeddings": True}
    images = Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 2**16, "longest_edge": 2**24})
    hf = HfBackboneConfig(
        stock=stock | dict(zip(names, range(FIRST_MARK + 2, FIRST_MARK + 6), strict=True)),
        image_processor=json.loads(images.to_json_string()),
        processor={"processor_class": "Qwen3VLProcessor"},
        end_tokens=("<|im_end|>",),
    )
    assert plum.lora is not None, "the shipped runs have adapters"
    small = Sam2Config(model_type="sam2", image_size=512)
    lora = replace(plum.lora, train_embeddings=False)
    return replace(plum, llava=None, hf=hf, lora=lora, sam=small if is_small else HIERA_LARGE)


def small_calico(full: ModelConfig) -> ModelConfig:
    """Return CALICO with narrow layers, four in the language model and two in each tower."""
    assert full.calico is not None
    assert full.calico.qformer is not None
    assert full.calico.dino is not None
    assert full.calico.adaptation is not None
    calico = replace(
        full.calico,
        embedding_size=128,
        qformer=replace(full.calico.qformer, num_layers=2, num_heads=4, intermediate_size=256),
        dino=replace(full.calico.dino, hidden_size=128, num_layers=2, num_heads=4),
        correspondence=replace(full.calico.correspondence, num_heads=4),
    )
    small = small_model(full)
    vision = replace(full.of_llava.vision, hidden_size=128, intermediate_size=256, num_layers=2, num_heads=4)
    return replace(small, calico=calico, llava=replace(small.of_llava, vision=vision))


def small_model(full: ModelConfig) -> ModelConfig:
    """Return a full-size model with fewer and narrower layers: same tokens, same decoder, a quarter of the grid."""
    language = replace(
        full.language,
        vocab_size=VOCABULARY + 32,  # room for the marks that a system adds
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

    if not (folder / "train").exists():
        build(
            source="synthetic",
            output=str(folder / "train"),
            images=str(images),
            image_size=image_size,
            embedding_model="char-ngram-tfidf",
        )
    if not (folder / "tokenizer").exists():
        write_tokenizers(folder, [*collect_texts([folder / "train"])])


def write_tokenizers(folder: Path, texts: Sequence[str]) -> None:
    """Train the tokenizer of LLaVA's sizes into `folder`/tokenizer, and that of stock ones into stock_tokenizer."""
    train_tokenizer(texts, VOCABULARY).save_pretrained(str(folder / "tokenizer"))
    stock = qwen_tokenizer(texts=texts, vocab_size=VOCABULARY)
    assert stock.convert_tokens_to_ids(list(QWEN_MARKS)) == list(range(FIRST_MARK, FIRST_MARK + len(QWEN_MARKS)))
    stock.chat_template = QWEN_TEMPLATE
    stock.save_pretrained(str(folder / "stock_tokenizer"))


def read_tokenizer(config: TrainConfig) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a run from `training_config`."""
    assert config.tokenizer is not None
    read = load_tokenizer if config.model.hf is None else load_stock_tokenizer
    return read(config.tokenizer)


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
