"""SAM's published checkpoints `sam_vit_{b,l,h}_*.pth`: which variant a file holds, and its sizes.

Source: facebookresearch/segment-anything, build_sam.py.
"""

from collections.abc import Mapping
from pathlib import Path

from plum.checkpoints.published.source_files import open_weights
from plum.config import Sam2Config, SamConfig, SegmenterConfig

VARIANTS: Mapping[tuple[int, int], str] = {(768, 12): "ViT-B", (1024, 24): "ViT-L", (1280, 32): "ViT-H"}
"""Name of a variant by width and depth of its image encoder."""
OWN_PREFIX = "sam."


def variant_name(config: SegmenterConfig) -> str:
    """Return the variant's name, such as "ViT-H", or the sizes of any other encoder; another segmenter's type."""
    if isinstance(config, Sam2Config):
        return config.model_type
    size = (config.encoder_dim, config.encoder_depth)
    return VARIANTS.get(size, f"an encoder of {size[1]} blocks of {size[0]}")


def read_sam_config(path: Path) -> SamConfig:
    """Derive a SAM file's sizes from its tensors' shapes; values that shapes do not show are SAM's constants.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or not SAM's; the message names what is missing.
    """
    with open_weights(path) as file:
        shapes = {name: file.shape(name) for name in file.names}
    try:
        return sam_config_of(shapes)
    except KeyError as error:
        raise ValueError(
            f"{path} has no tensor {error}: it is not a SAM checkpoint (sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth, "
            "sam_vit_h_4b8939.pth)"
        ) from error


def sam_config_of(shapes: Mapping[str, tuple[int, ...]]) -> SamConfig:
    """Derive SAM's sizes from the shapes of its tensors, by their published names.

    Raises:
        KeyError: a tensor is missing.
    """
    _, side, _, width = shapes["image_encoder.pos_embed"]
    patch_size = shapes["image_encoder.patch_embed.proj.weight"][-1]
    depth = _count(shapes, "image_encoder.blocks.{}.norm1.weight")
    # A block's relative positions run from -(n - 1) to n - 1, where n is its window or the whole grid.
    reach = [(shapes[f"image_encoder.blocks.{i}.attn.rel_pos_h"][0] + 1) // 2 for i in range(depth)]
    head_dim = shapes["image_encoder.blocks.0.attn.rel_pos_h"][1]
    windows = [n for n in reach if n != side]
    return SamConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        encoder_dim=width,
        encoder_depth=depth,
        encoder_heads=width // head_dim,
        encoder_global_blocks=tuple(i for i, n in enumerate(reach) if n == side),
        encoder_window_size=windows[0] if windows else SamConfig().encoder_window_size,
        prompt_dim=shapes["prompt_encoder.no_mask_embed.weight"][1],
        mask_in_channels=shapes["prompt_encoder.mask_downscaling.3.weight"][0],
        decoder_depth=_count(shapes, "mask_decoder.transformer.layers.{}.norm1.weight"),
        decoder_mlp_dim=shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
    )


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    number = 0
    while pattern.format(number) in shapes:
        number += 1
    return number


def own_sam_name(published: str) -> str:
    """Return our name of a SAM tensor: segment-anything's own modules are used, so only a prefix differs."""
    return OWN_PREFIX + published


def published_sam_name(own: str) -> str:
    """Return the published name of one of our SAM tensors."""
    return own.removeprefix(OWN_PREFIX)
