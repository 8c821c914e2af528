"""SAM 2 and its relatives, built from transformers' own modules, so that its checkpoints load strictly.

`Sam2Model`, `EdgeTamModel` and `Sam3TrackerModel` share prompt encoder and mask decoder; only image encoders differ.
transformers' own calls cannot be used: they switch gradients off, and add one mask prompt per image before prompts are
repeated, whereas every row here has its own. The modules are therefore called one by one; the features equal those of
`Sam2Model.get_image_embeddings`, and masks those of its own forward pass, within rounding.

SAM 2 chooses between its four masks by their stability, in evaluation only. Here the first mask is always taken, so
that evaluation decodes what training trains.

Source: facebookresearch/sam2; transformers, `models/{sam2,edgetam,sam3_tracker}`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from plum.config import Sam2Config
from plum.models.frozen import grad_if_trainable
from plum.models.segmenters.sam import position_encoding
from plum.models.segmenters.segmenter import Segmenter
from plum.structures import ImageEmbeddings

DECODER_LEVELS = (4, 2, 1)
"""Resolution of the maps that the decoder takes, finest first, in cells per cell of the embedding grid."""
GENERIC = frozenset(field.name for field in fields(PreTrainedConfig)) | {"_name_or_path"}
"""Keys of every configuration of transformers, which say nothing of a model's sizes."""


@dataclass(frozen=True)
class Stock:
    """Names of transformers' classes for a model type, its usual image encoder's type, and packages that it needs."""

    config: str
    model: str
    backbone: str
    packages: str = "transformers"


STOCK: Mapping[str, Stock] = {
    "sam2": Stock("Sam2Config", "Sam2Model", "sam2_hiera_det_model"),
    "edgetam": Stock("EdgeTamConfig", "EdgeTamModel", "timm_wrapper", "the packages timm and torchvision"),
    "sam3_tracker": Stock("Sam3TrackerConfig", "Sam3TrackerModel", "sam3_vit_model"),
}


class Sam2(Segmenter):
    """Image encoder, prompt encoder and mask decoder under the names of transformers' checkpoints.

    Args:
        network: a `Sam2Model`, or one of its relatives, whose modules are taken over.
        image_size: side of the square input in pixels.
    """

    vision_encoder: Any
    prompt_encoder: Any
    mask_decoder: Any
    shared_image_embedding: Any
    no_memory_embedding: Any

    def __init__(self, network: PreTrainedModel, image_size: int) -> None:
        super().__init__()
        self._image_size = image_size
        self.vision_encoder = network.vision_encoder
        self.prompt_encoder = network.prompt_encoder
        self.mask_decoder = network.mask_decoder
        self.shared_image_embedding = network.shared_image_embedding
        self.no_memory_embedding = network.no_memory_embedding
        self.mask_decoder.dynamic_multimask_via_stability = False

    def train(self, mode: bool = True) -> "Sam2":
        """Set the mode of all but the image encoder, whose batch norms (EdgeTAM) keep their running statistics."""
        super().train(mode)
        self.vision_encoder.eval()
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width (h, w) of the image embedding."""
        height, width = self.prompt_encoder.image_embedding_size
        return height, width

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels, to which images are stretched."""
        return self._image_size

    @property
    def prepares_with_trained_weights(self) -> bool:
        """Whether the decoder's convolutions of the finer maps are trained."""
        return any(one.requires_grad for layer in self._projections() for one in layer.parameters())

    def map_shapes(self, is_prepared: bool = True) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the embedding and of the maps at four and two times its resolution."""
        height, width = self.grid
        dim = int(self.prompt_encoder.hidden_size)
        widths = [layer.out_channels if is_prepared else dim for layer in self._projections()]
        finer = zip(widths, DECODER_LEVELS, strict=False)
        return ((dim, height, width), *((channels, times * height, times * width) for channels, times in finer))

    def weights_of_embeddings(self, is_prepared: bool) -> Mapping[str, Tensor]:
        """Return the image encoder's weights, and those of the convolutions of prepared maps."""
        parts = [f"mask_decoder.{name}" for name in ("conv_s0", "conv_s1")] if is_prepared else []
        wanted = tuple(f"{part}." for part in ("vision_encoder", *parts))
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(wanted) or name == "no_memory_embedding"
        }

    def encode_images(self, sam_pixels: Tensor) -> ImageEmbeddings:
        """Encode normalised, stretched images [B, 3, P, P]; the finer maps have C channels (see `prepare`)."""
        with grad_if_trainable(self.vision_encoder):
            pixels = sam_pixels.to(self.no_memory_embedding.dtype)
            if torch.is_grad_enabled() or len(pixels) < 2:
                return self._encode(pixels)
            return ImageEmbeddings.concatenate([self._encode(image) for image in pixels.split(1)])

    def _encode(self, pixels: Tensor) -> ImageEmbeddings:
        # SAM 3's neck has a fourth map, coarser than the embedding, which its tracker does not read.
        fine, middle, main = self.vision_encoder(pixels, return_dict=True).fpn_hidden_states[: len(DECODER_LEVELS)]
        return ImageEmbeddings(main + self.no_memory_embedding.reshape(1, -1, 1, 1), (fine, middle))

    def prepare(self, embeddings: ImageEmbeddings) -> ImageEmbeddings:
        """Apply the decoder's convolutions of the finer maps, C to C / 8 and C / 4 channels, once per image."""
        layers = self._projections()
        if all(one.shape[1] == layer.out_channels for one, layer in zip(embeddings.finer, layers, strict=True)):
            return embeddings
        # In one layout, so that maps that were kept are convolved as those that come from the encoder, to the bit.
        finer = zip(layers, embeddings.channels_last().finer, strict=True)
        return ImageEmbeddings(embeddings.main, tuple(layer(one) for layer, one in finer))

    def _projections(self) -> tuple[nn.Conv2d, nn.Conv2d]:
        return self.mask_decoder.conv_s0, self.mask_decoder.conv_s1

    def dense_position(self) -> Tensor:
        """Return SAM 2's dense positional encoding [1, C, h, w], which is SAM's."""
        position = position_encoding(self.shared_image_embedding.positional_embedding, self.grid)[None]
        position = position.to(self.prompt_encoder.no_mask_embed.weight.dtype)
        return position.contiguous(memory_format=torch.channels_last)

    def decode_masks(
        self, embeddings: ImageEmbeddings, queries: Tensor, dense: Tensor | None, position: Tensor
    ) -> Tensor:
        """Decode one mask per query, in the frame of the stretched input; see `Segmenter.decode_masks`."""
        if dense is None:
            dense = self.prompt_encoder.no_mask_embed.weight[..., None, None].expand_as(embeddings.main)
        masks, *_ = self.mask_decoder(
            image_embeddings=embeddings.main,
            image_positional_embeddings=position.expand(len(queries), -1, -1, -1),
            sparse_prompt_embeddings=queries[:, None, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=list(embeddings.finer),
        )
        return masks[:, 0, 0].float()

    def mask_layers(self) -> nn.Sequential:
        """Return SAM 2's `mask_embed` in the order of its forward pass."""
        layers = self.prompt_encoder.mask_embed
        first, second = (layers.conv1, layers.layer_norm1), (layers.conv2, layers.layer_norm2)
        return nn.Sequential(*first, layers.activation, *second, layers.activation, layers.conv3)


def build_sam2(config: Sam2Config) -> Sam2:
    """Build SAM 2, or the relative that `config.model_type` names, with random weights.

    Raises:
        ValueError: sizes that contradict each other, or a package that the image encoder needs is missing.
    """
    stock, sizes = STOCK[config.model_type], stock_config(config)
    try:
        network = getattr(transformers, stock.model)(sizes)
    except ImportError as error:
        raise ValueError(
            f"model.sam.model_type {config.model_type} needs {stock.packages}: {_reason(error)}"
        ) from error
    table = network.shared_image_embedding.positional_embedding
    network.prompt_encoder.shared_embedding.positional_embedding.copy_(table)  # one table, which checkpoints hold twice
    return Sam2(network, config.image_size)


def complete_sam2(config: Sam2Config) -> Sam2Config:
    """Return a configuration whose `vision` names every size of the image encoder, having tried the encoder on them.

    Raises:
        ValueError: an unknown size, or sizes that contradict each other; the message names the key.
    """
    complete = replace(config, vision=own_sizes(stock_config(config).vision_config))
    _try_encoder(complete)
    return complete


def stock_config(config: Sam2Config) -> PreTrainedConfig:
    """Return transformers' configuration of the same model.

    Raises:
        ValueError: `vision` has an unknown size, or one that contradicts the other fields; the message names it.
    """
    stock, width = STOCK[config.model_type], config.prompt_dim
    grid = config.image_size // config.patch_size
    derived: dict[str, Any] = {"fpn_hidden_size": width, "backbone_feature_sizes": [[k * grid] * 2 for k in (4, 2, 1)]}
    for key, value in derived.items():
        if config.vision.get(key, value) != value:
            raise ValueError(
                f"model.sam.vision.{key} is {config.vision[key]}, but the other sizes of model.sam make it {value}: "
                "leave it out"
            )
    backbone = {"model_type": stock.backbone, **_usual_backbone(config), **config.vision.get("backbone_config", {})}
    try:
        built = getattr(transformers, stock.config)(
            vision_config={**config.vision, **derived, "backbone_config": AutoConfig.for_model(**backbone)},
            prompt_encoder_config={
                "hidden_size": width,
                "image_size": config.image_size,
                "patch_size": config.patch_size,
                "mask_input_channels": config.mask_in_channels,
            },
            mask_decoder_config={
                "hidden_size": width,
                "num_hidden_layers": config.decoder_depth,
                "num_attention_heads": config.decoder_heads,
                "mlp_dim": config.decoder_mlp_dim,
                "iou_head_hidden_dim": width,
            },
        )
    except Exception as error:  # transformers' own checks of types raise several kinds
        raise ValueError(f"model.sam.vision: {_reason(error)}") from error
    _require_known(config.vision, own_sizes(built.vision_config), "model.sam.vision")
    return built


def own_sizes(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a configuration of transformers says of its model, by name, in the types that JSON can hold."""
    declared = {field.name for field in fields(config)} - GENERIC
    sizes: dict[str, Any] = {"model_type": config.model_type}
    for name in sorted(declared):
        value = getattr(config, name)
        sizes[name] = own_sizes(value) if isinstance(value, PreTrainedConfig) else json.loads(json.dumps(value))
    return sizes


def _usual_backbone(config: Sam2Config) -> dict[str, Any]:
    """Return what the image encoder's backbone has unless it is told otherwise, by its configuration's names."""
    if config.model_type == "edgetam":
        model = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        return {"architecture": "repvit_m1", "model_args": model}
    size = config.image_size
    return {"image_size": [size, size] if config.model_type == "sam2" else size}


def _require_known(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Refuse keys that transformers would take and ignore."""
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{where}.{key} is not a size of this image encoder; it has {', '.join(sorted(known))}")
        if isinstance(value, Mapping) and isinstance(known[key], Mapping):
            _require_known(value, known[key], f"{where}.{key}")


def _try_encoder(config: Sam2Config) -> None:
    """Run the image encoder without memory, to learn whether its sizes fit each other and the decoder."""
    with torch.device("meta"), torch.no_grad():
        sam = build_sam2(config)
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
        try:
            maps = sam.encode_images(pixels).maps
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"model.sam.vision: the image encoder does not run at {config.image_size} px ({_reason(error)}); in "
                "Hiera every pooled stage widens the states and its first block is not global, and windows divide the "
                "patches of a side"
            ) from error
    found, wanted = [tuple(one.shape[1:]) for one in maps], list(sam.map_shapes(is_prepared=False))
    if found != wanted:
        raise ValueError(
            f"model.sam.vision: the image encoder's maps are {found}, the decoder needs {wanted}: set patch_size and "
            "prompt_dim of model.sam to the encoder's"
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
