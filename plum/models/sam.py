"""Segment Anything built from the `segment-anything` package's own modules, so that its checkpoints load strictly.

Three things differ in how they compute, not in what: the image encoder's attention goes through
scaled_dot_product_attention, the other layers are those of plum/models/sam_layers.py, and the mask decoder takes one
image per prompt row, so that prompts of many images share a call.

Source: facebookresearch/segment-anything (`modeling/`, `build_sam.py`); paper, section 4.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from plum.config import SamConfig
from plum.models.frozen import grad_if_trainable
from plum.models.sam_layers import fuse_layers
from plum.models.sam_modules import (
    Attention,
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
    get_rel_pos,
)

NUM_MULTIMASK_OUTPUTS = 3
IOU_HEAD_DEPTH = 3
MAX_TOKENS_OF_ALL_HEADS = 1024
"""Grids up to this size, windows above all, attend with all heads at once."""


class FusedAttention(Attention):
    """SAM's image attention through scaled_dot_product_attention, the decomposed relative positions as its bias.

    Same parameters and same numbers as segment_anything's, without its separate softmax and product over [h * w, h *
    w].
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each grid.

        Args:
            x: [B, h, w, d], whole grids or windows.

        Returns:
            Same shape.
        """
        batch, height, width, _ = x.shape
        num_tokens = height * width
        qkv = self.qkv(x).view(batch, num_tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        # The bias of a whole image is the largest tensor of SAM (16 x 4096 x 4096 in ViT-H): one head at a time.
        heads = qkv.split(1 if num_tokens > MAX_TOKENS_OF_ALL_HEADS else self.num_heads, dim=2)
        attended = torch.cat([self._attend(some, (height, width)) for some in heads], dim=1)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, -1))

    def _attend(self, qkv: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attention of some heads: [3, B, some heads, h * w, d / heads] to [B, some heads, h * w, d / heads]."""
        query, key, value = qkv.unbind(0)
        bias = self._relative_bias(query, *grid) if self.use_rel_pos else None
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)

    def _relative_bias(self, query: Tensor, height: int, width: int) -> Tensor:
        """Return the bias [B, some heads, h * w, h * w]: one term per row distance plus one per column distance."""
        grid = query.unflatten(2, (height, width))  # [B, heads, h, w, d]
        rows = get_rel_pos(height, height, self.rel_pos_h).to(query)  # [h, h, d]
        columns = get_rel_pos(width, width, self.rel_pos_w).to(query)  # [w, w, d]
        by_row = torch.einsum("bnhwd,hkd->bnhwk", grid, rows)
        by_column = torch.einsum("bnhwd,wkd->bnhwk", grid, columns)
        return (by_row[..., :, None] + by_column[..., None, :]).flatten(4, 5).flatten(2, 3)


class RowwiseMaskDecoder(MaskDecoder):
    """SAM's mask decoder with one image per prompt row.

    segment_anything repeats one image for all prompts; here row r of everything belongs together, whichever image it is
    of. Only the single-mask output is computed (`multimask_output=False`).
    """

    def decode_rows(self, image_embeddings: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode one mask per row.

        Args:
            image_embeddings: [R, C, h, w], each row's image.
            position: [1, C, h, w], dense positional encoding.
            sparse: [R, P, C] prompt tokens.
            dense: [R, C, h, w] dense prompts.

        Returns:
            Mask logits [R, 4h, 4w] in the frame of SAM's padded input.
        """
        num_rows = len(sparse)
        image_embeddings = image_embeddings.contiguous(memory_format=torch.channels_last)  # read pixel by pixel
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # [1 + masks, C]
        tokens = torch.cat([outputs.expand(num_rows, -1, -1), sparse], dim=1)
        tokens, pixels = self.transformer(image_embeddings + dense, position, tokens)
        pixels = self.output_upscaling(pixels.transpose(1, 2).unflatten(2, dense.shape[-2:]))  # [R, C / 8, 4h, 4w]
        weights = self.output_hypernetworks_mlps[0](tokens[:, 1])  # [R, C / 8]
        masks = weights[:, None] @ pixels.flatten(2)  # [R, 1, 16 h w]
        return masks.unflatten(2, pixels.shape[2:])[:, 0]


class SegmentAnything(nn.Module):
    """Image encoder, prompt encoder and mask decoder under the names of SAM's published checkpoints."""

    can_keep_embeddings = True
    """Whether `encode_images` depends on the image encoder alone, so that a frozen one's result may be kept."""

    def __init__(
        self, image_encoder: ImageEncoderViT, prompt_encoder: PromptEncoder, mask_decoder: RowwiseMaskDecoder
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width (h, w) of the image embedding."""
        height, width = self.prompt_encoder.image_embedding_size
        return height, width

    @property
    def image_size(self) -> int:
        """Side of the padded square input in pixels."""
        return int(self.image_encoder.img_size)

    def encode_images(self, sam_pixels: Tensor) -> Tensor:
        """Encode normalised, padded images [B, 3, P, P] to embeddings [B, C, h, w].

        A frozen encoder keeps no graph and reads one image at a time: that fills a GPU at full size, needs the memory
        of one, and an embedding does not depend, not even by rounding, on the images beside it, so that it may be kept.
        """
        with grad_if_trainable(self.image_encoder):
            pixels = sam_pixels.to(self.image_encoder.patch_embed.proj.weight.dtype)
            if torch.is_grad_enabled() or len(pixels) < 2:
                return self.image_encoder(pixels)
            return torch.cat([self.image_encoder(image) for image in pixels.split(1)])

    def dense_position(self) -> Tensor:
        """Return SAM's dense positional encoding [1, C, h, w]."""
        position = self.prompt_encoder.get_dense_pe().to(self.prompt_encoder.no_mask_embed.weight.dtype)
        return position.contiguous(memory_format=torch.channels_last)

    def decode_masks(self, image_embeddings: Tensor, queries: Tensor, dense: Tensor | None, position: Tensor) -> Tensor:
        """Decode one mask per query.

        Args:
            image_embeddings: [R, C, h, w], each query's image.
            queries: [R, C], each one sparse prompt token.
            dense: [R, C, h, w] mask prompts; None: no mask, as SAM's `no_mask_embed` says it.
            position: `dense_position()`.

        Returns:
            Mask logits [R, 4h, 4w], float32, in the frame of SAM's padded input.
        """
        if dense is None:
            dense = self.prompt_encoder.no_mask_embed.weight[..., None, None].expand_as(image_embeddings)
        return self.mask_decoder.decode_rows(image_embeddings, position, queries[:, None], dense).float()

    def load_sam_checkpoint(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of a published `sam_vit_{b,l,h}` checkpoint, strictly.

        Raises:
            ValueError: keys or shapes differ; the message lists them and says which sizes this model has.
        """
        try:
            self.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            size, depth = self.image_size, len(self.image_encoder.blocks)
            raise ValueError(f"not a SAM checkpoint for this model ({size} px, {depth} blocks): {error}") from error


def build_sam(config: SamConfig) -> SegmentAnything:
    """Build SAM from sizes (public `build_sam.py`; everything not in the configuration is SAM's constant)."""
    side = config.image_size // config.patch_size
    encoder = ImageEncoderViT(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.encoder_dim,
        depth=config.encoder_depth,
        num_heads=config.encoder_heads,
        mlp_ratio=4,
        out_chans=config.prompt_dim,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.encoder_window_size,
        global_attn_indexes=config.encoder_global_blocks,
    )
    for block in encoder.blocks:
        window = block.window_size or side
        block.attn = FusedAttention(
            config.encoder_dim, config.encoder_heads, qkv_bias=True, use_rel_pos=True, input_size=(window, window)
        )
    if config.position_init == "sincos":
        _init_sincos_position(encoder.pos_embed)
    decoder = RowwiseMaskDecoder(
        transformer_dim=config.prompt_dim,
        transformer=TwoWayTransformer(
            depth=config.decoder_depth,
            embedding_dim=config.prompt_dim,
            num_heads=config.decoder_heads,
            mlp_dim=config.decoder_mlp_dim,
        ),
        num_multimask_outputs=NUM_MULTIMASK_OUTPUTS,
        iou_head_depth=IOU_HEAD_DEPTH,
        iou_head_hidden_dim=config.prompt_dim,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=config.prompt_dim,
        image_embedding_size=(side, side),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=config.mask_in_channels,
    )
    sam = SegmentAnything(encoder, prompt_encoder, decoder)
    fuse_layers(sam)
    return sam


def _init_sincos_position(position: nn.Parameter) -> None:
    """Fill [1, h, w, d] with 0.5 x the 2-D sine-cosine encoding (a quarter of d each: sin y, cos y, sin x, cos x)."""
    _, height, width, dim = position.shape
    if dim % 4:
        raise ValueError(f"sam.encoder_dim: sincos positions need a multiple of 4, not {dim}")
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    rows = torch.arange(height, dtype=torch.float32)[:, None, None] * frequencies  # [h, 1, d / 4]
    columns = torch.arange(width, dtype=torch.float32)[None, :, None] * frequencies  # [1, w, d / 4]
    parts = [rows.sin(), rows.cos(), columns.sin(), columns.cos()]
    with torch.no_grad():
        position.copy_(0.5 * torch.cat([part.expand(height, width, -1) for part in parts], dim=-1)[None])
