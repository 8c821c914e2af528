"""What a stock model's own image processor makes of an image: its tokens, its pixels, and the patches of its tower.

The processor runs on a blank image of the assumed size, so that tiles, limits on sizes and marks between tiles are its
own. It needs a tokenizer only for its marks, so a tokenizer of nothing but these marks takes the place of the model's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from partonomy.models.processors import assemble_processor
from plum.config import HfBackboneConfig, stock_hf_config
from plum.inputs.stock_inputs import TEXT_INPUTS

TILES_OF_A_SIDE = 6
"""Most tiles along a side for which Idefics3 and SmolVLM have marks."""
NAMED_MARKS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
"""Marks that InternVL's processor asks its tokenizer for, by name."""
IMAGE_MARKS = {"internvl": NAMED_MARKS["context_image_token"]} | dict.fromkeys(
    ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "<|image_pad|>"
)
"""The image's placeholder by model type, where it is not `<image>`."""
QWEN_MARKS = ("<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
IDEFICS_MARKS = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")


@dataclass(frozen=True)
class StockImage:
    """One image as a stock model takes it.

    Attributes:
        num_tokens: the image's own tokens in the language model's input.
        slot: all tokens that take its place, marks between its tiles included.
        pixel_bytes: bytes of the image encoder's arguments, float32 pixels foremost.
        patches: rows of the image encoder's states, over all tiles.
        has_rectangles: tokens have positions on three axes (M-RoPE).
    """

    num_tokens: int
    slot: int
    pixel_bytes: int
    patches: int
    has_rectangles: bool


def read_stock_image(config: HfBackboneConfig, height: int, width: int) -> StockImage:
    """Return what the processor makes of an image of `height` x `width` pixels.

    Args:
        config: the model; where it has no settings of its processors, those that fit its sizes.
        height: H.
        width: W.

    Raises:
        ValueError: transformers has no processor for the model, or refuses its settings.
    """
    stock = stock_hf_config(config)
    images, own = dict(config.image_processor), dict(config.processor)
    if not images:
        images, own = _usual_settings(stock)
    tokenizer = _marks_tokenizer()
    placeholder = IMAGE_MARKS.get(config.model_type, "<image>")
    processor = assemble_processor(stock, tokenizer, images, own)
    blank = Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8))
    try:
        found = processor(text=[placeholder], images=[[blank]], return_tensors="pt", add_special_tokens=False)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # transformers' own checks
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the image processor of {config.model_type} refuses its settings: {reason}") from error
    ids = found["input_ids"][0].tolist()
    tensors = [one for name, one in found.items() if name not in TEXT_INPUTS and isinstance(one, Tensor)]
    decoder = stock.get_text_config(decoder=True)
    return StockImage(
        num_tokens=ids.count(tokenizer.convert_tokens_to_ids(placeholder)),
        slot=len(ids),
        pixel_bytes=sum(one.nbytes for one in tensors),
        patches=found["pixel_values"].numel() // _patch_numbers(stock),
        has_rectangles="mrope_section" in (decoder.rope_parameters or {}) or "image_grid_thw" in found,
    )


def _patch_numbers(stock: PreTrainedConfig) -> int:
    """Return the numbers of a patch in the image processor's output: three channels, and each frame of it."""
    vision = stock.vision_config
    return 3 * getattr(vision, "temporal_patch_size", 1) * _side(vision.patch_size) ** 2


def _side(size: int | list[int] | tuple[int, ...]) -> int:
    """Return a side that a configuration gives as one number or as height and width."""
    return size if isinstance(size, int) else int(size[0])


def _usual_settings(stock: PreTrainedConfig) -> tuple[dict[str, object], dict[str, object]]:
    """Return settings of the image processor and of the processor that fit a model's sizes.

    They are those of the published checkpoints wherever these follow from the sizes; the rest is the default of
    transformers' class.
    """
    vision, kind = stock.vision_config, stock.model_type
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {}
    name = names.get("pil") or names.get("torchvision")
    if name is None:
        raise ValueError(
            f"model.hf.image_processor is empty, and transformers names no image processor of {kind}; adopt the model"
        )
    images: dict[str, object] = {"image_processor_type": name}
    if hasattr(vision, "spatial_merge_size"):  # Qwen-VL: any size, in patches that are merged
        sizes = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
        return images | sizes | {"temporal_patch_size": vision.temporal_patch_size}, {}
    side, patch = _side(vision.image_size), _side(vision.patch_size)
    cells, square = (side // patch) ** 2, {"height": side, "width": side}
    settings: Mapping[str, tuple[dict[str, object], dict[str, object]]] = {
        "internvl": ({"size": square, "crop_to_patches": True}, {"image_seq_length": _internvl_tokens(stock, cells)}),
        "llava_onevision": (
            {"size": square, "image_grid_pinpoints": getattr(stock, "image_grid_pinpoints", None)},
            {"num_image_tokens": cells, "vision_feature_select_strategy": "full"},
        ),
        "llava": (
            {"size": {"shortest_edge": side}, "crop_size": square},
            {"patch_size": patch, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"},
        ),
    }
    tiles: dict[str, object] = {"max_image_size": {"longest_edge": side}, "size": {"longest_edge": 4 * side}}
    of_tiles: dict[str, object] = {"image_seq_len": cells // getattr(stock, "scale_factor", 1) ** 2}
    found, own = settings.get(kind, (tiles, of_tiles))
    return images | found, own


def _internvl_tokens(stock: PreTrainedConfig, cells: int) -> int:
    return int(cells * getattr(stock, "downsample_ratio", 1) ** 2)


@cache
def _marks_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows the marks of all families and every other text byte by byte."""
    places = [
        f"<row_{row}_col_{column}>" for row in range(1, TILES_OF_A_SIDE + 1) for column in range(1, TILES_OF_A_SIDE + 1)
    ]
    marks = ["<pad>", "<image>", *IMAGE_MARKS.values(), *NAMED_MARKS.values(), *QWEN_MARKS, *IDEFICS_MARKS, *places]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(dict.fromkeys(marks))})
    tokenizer._set_model_specific_special_tokens(special_tokens=dict(NAMED_MARKS))
    return tokenizer
