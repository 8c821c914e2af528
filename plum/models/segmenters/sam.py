"""Segment Anything, built from the `segment-anything` package's own modules, so that its checkpoints load strictly.

The prompt encoder and the mask decoder run in fewer, larger operations; parameters and results are SAM's.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from plum.config import SamConfig
from plum.models.frozen import grad_if_trainable
from plum.models.segmenters.sam_modules import (
    Attention,
    ImageEncoderViT,
    LayerNorm2d,
    MaskDecoder,
    PromptEncoder,
    TwoWayAttention,
    TwoWayAttentionBlock,
    TwoWayTransformer,
)
from plum.models.segmenters.segmenter import Segmenter
from plum.structures import ImageEmbeddings

NUM_MULTIMASK_OUTPUTS = 3
IOU_HEAD_DEPTH = 3
MAX_TOKENS_OF_ALL_HEADS = 1024
"""Grids of up to this many tokens, mainly windows, attend with all heads at once."""
IMAGES_AT_ONCE = 4
"""Images that a frozen encoder runs together on a GPU if no embedding is kept. An image of ViT-H has 160 tiles of flash
attention, too few to fill the 132 processors of an H200 evenly. The bound on memory is that of the doctor's estimate
(`plum.doctor.memory`): .18 GB an image in bfloat16."""
UNBIASED_DEVICES = ("cuda",)
"""Devices on which larger grids attend without a bias. On the CPU, head by head with a bias is quicker
(docs/LOG.md)."""


def takes_over_from_image(num_vectors: int, internal_dim: int) -> bool:
    """Return whether heads x tokens vectors are fewer than the channels in which an image attends to tokens."""
    return num_vectors < internal_dim


def takes_over_to_image(num_vectors: int, internal_dim: int) -> bool:
    """Return the same for tokens attending to the image; the bound is lower: torch's attention is quicker there."""
    return 2 * num_vectors <= internal_dim


class FusedTwoWayAttention(TwoWayAttention):
    """The decoder's attention between an image and a few tokens, without projecting the image's tokens.

    A projection of one side can be folded into the other: (W x + b) y = x (W^T y) + b y. Each pixel is then multiplied
    by heads x tokens vectors instead of two projections: 48 vectors, compared with SAM's 128 internal channels. If the
    gain is smaller (docs/LOG.md), attention falls back to scaled_dot_product_attention.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q [R, Q, C] to k and v [R, K, C]; returns [R, Q, C]."""
        if q.shape[1] > k.shape[1] and takes_over_from_image(self.num_heads * k.shape[1], self.internal_dim):
            return self._from_image(q, k, v)
        if q.shape[1] < k.shape[1] and takes_over_to_image(self.num_heads * q.shape[1], self.internal_dim):
            return self._to_image(q, k, v)
        queries, keys, values = self._split(self.q_proj, q), self._split(self.k_proj, k), self._split(self.v_proj, v)
        attended = functional.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _from_image(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Fold q_proj into the keys and out_proj into the values."""
        keys, values = self._split(self.k_proj, k), self._split(self.v_proj, v)
        scores = self._scores(keys, self.q_proj, q)
        weights = scores.unflatten(1, (self.num_heads, -1)).softmax(2).flatten(1, 2)
        from_values = self.out_proj.weight.T.unflatten(0, (self.num_heads, -1))  # [heads, d, C]
        return torch.baddbmm(self.out_proj.bias, weights.transpose(1, 2), (values @ from_values).flatten(1, 2))

    def _to_image(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Fold k_proj into the queries and apply v_proj after attention; valid because attention weights sum to 1."""
        found = self._scores(self._split(self.q_proj, q), self.k_proj, k).softmax(2) @ v  # [R, heads Q, C]
        heads = (self.num_heads, -1)
        to_values, bias = self.v_proj.weight.unflatten(0, heads), self.v_proj.bias.unflatten(0, heads)
        attended = found.unflatten(1, heads) @ to_values.transpose(1, 2) + bias[:, None]  # [R, heads, Q, d]
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split(self, project: nn.Module, given: Tensor) -> Tensor:
        """Project [R, n, C] to [R, heads, n, d]."""
        projected: Tensor = project(given)
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _scores(self, few: Tensor, project: nn.Linear, image: Tensor) -> Tensor:
        """Return scores [R, heads n, p] of projected tokens [R, heads, n, d] and an unprojected image [R, p, C]."""
        few = few * few.shape[-1] ** -0.5
        weight, bias = (part.unflatten(0, (self.num_heads, -1)) for part in (project.weight, project.bias))
        of_bias = few @ bias[..., None]  # [R, heads, n, 1]
        return torch.baddbmm(of_bias.flatten(1, 2), (few @ weight).flatten(1, 2), image.transpose(1, 2))


class FusedTwoWayBlock(TwoWayAttentionBlock):
    """The decoder's block, which adds the positional encoding to the image once instead of twice."""

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens [R, Q, C] and image [R, K, C] attend to each other; positions have the same shapes."""
        if self.skip_first_layer_pe:
            queries = self.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + query_pe
            queries = queries + self.self_attn(q=placed, k=placed, v=queries)
        queries = self.norm1(queries)
        placed_keys = keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(q=queries + query_pe, k=placed_keys, v=keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = keys + self.cross_attn_image_to_token(q=placed_keys, k=queries + query_pe, v=queries)
        return queries, self.norm4(keys)


class FusedLayerNorm2d(LayerNorm2d):
    """The norm over channels as torch's layer norm: one operation instead of ten small ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel of [R, C, h, w]."""
        by_pixel = x.permute(0, 2, 3, 1)
        normed = functional.layer_norm(by_pixel, by_pixel.shape[-1:], self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


class PatchConv2d(nn.Conv2d):
    """A convolution whose stride is its kernel size, computed as a linear layer on patches."""

    def forward(self, input: Tensor) -> Tensor:
        """Reduce [R, C, k h, k w] to [R, D, h, w]."""
        rows, columns = self.kernel_size
        patches = input.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # [R, C, h, k, w, k]
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [R, h, w, C k k]
        return functional.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class PatchConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution whose stride is its kernel size, computed as a linear layer from pixels to patches."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Enlarge [R, C, h, w] to [R, D, k h, k w]."""
        rows, columns = self.kernel_size
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [k k D, C]
        bias = None if self.bias is None else self.bias.repeat(rows * columns)
        patches = functional.linear(input.permute(0, 2, 3, 1), weight, bias)
        patches = patches.unflatten(3, (rows, columns, -1))  # [R, h, w, k, k, D]
        return patches.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    TwoWayAttention: FusedTwoWayAttention,
    TwoWayAttentionBlock: FusedTwoWayBlock,
    LayerNorm2d: FusedLayerNorm2d,
    nn.ConvTranspose2d: PatchConvTranspose2d,
}
FUSED_IN_PROMPT_ENCODER: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: PatchConv2d}
"""Not for the image encoder: its convolutions overlap or cover patches of 16 pixels, for which torch's are fast."""


def fuse_layers(sam: nn.Module) -> None:
    """Switch SAM's layers to the forward passes above, in place; modules and parameters stay the same."""
    for part, ways in ((sam, FUSED), (sam.get_submodule("prompt_encoder"), FUSED_IN_PROMPT_ENCODER)):
        for module in part.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.stride != module.kernel_size:
                continue
            module.__class__ = ways.get(type(module), type(module))


@contextmanager
def stock_layers(sam: nn.Module) -> Iterator[None]:
    """Switch SAM's layers back to segment_anything's own forward passes within the context."""
    fused = [module for module in sam.modules() if type(module) in (*FUSED.values(), *FUSED_IN_PROMPT_ENCODER.values())]
    ways = [type(module) for module in fused]
    try:
        for module in fused:
            module.__class__ = type(module).__bases__[0]
        yield
    finally:
        for module, way in zip(fused, ways, strict=True):
            module.__class__ = way


class FusedAttention(Attention):
    """SAM's image attention by scaled_dot_product_attention, with the decomposed relative positions.

    Parameters and results are segment_anything's, without its separate softmax and product over [h * w, h * w]. On the
    CPU, and in windows, the positions are the attention's bias. On a GPU, whole images attend with all heads at once
    and without a bias, which would rule out flash attention; see `_attend_unbiased`.
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
        positions = self._relative_positions(height, width, qkv) if self.use_rel_pos else None
        is_large = num_tokens > MAX_TOKENS_OF_ALL_HEADS
        if is_large and positions is not None and x.device.type in UNBIASED_DEVICES:
            attended = self._attend_unbiased(qkv, positions)
        else:
            # The bias of a whole image is the largest tensor of SAM (16 x 4096 x 4096 in ViT-H): one head at a time.
            heads = qkv.split(1 if is_large else self.num_heads, dim=2)
            attended = torch.cat([self._attend(some, positions) for some in heads], dim=1)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, -1))

    def _relative_positions(self, height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encodings of row distances [h, h, d / heads] and column distances [w, w, d / heads]."""
        tables = ((self.rel_pos_h, height), (self.rel_pos_w, width))
        rows, columns = (table[_distances(size, like.device)].to(like) for table, size in tables)
        return rows, columns

    def _attend(self, qkv: Tensor, positions: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attention of some heads: [3, B, some heads, h * w, d / heads] to [B, some heads, h * w, d / heads]."""
        query, key, value = qkv.unbind(0)
        bias = None
        if positions is not None:
            by_row, by_column = _position_scores(query, positions)
            bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(4, 5).flatten(2, 3)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)

    def _attend_unbiased(self, qkv: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
        """Return what `_attend` does, without a bias: the positions' scores become channels of queries and keys.

        A query carries its score of each row and each column; a key marks its own row and column with a 1. The product
        picks and adds the two scores, as the bias would, but within the attention's float32 sums. Values are padded
        with zeros, since flash attention takes one width for all three.
        """
        query, key, value = qkv.unbind(0)
        scores = [by.flatten(2, 3) for by in _position_scores(query, positions)]  # [B, heads, h * w, h or w]
        marks = _place_marks(len(positions[0]), len(positions[1]), key.dtype, key.device)
        wide_query = torch.cat([query * query.shape[-1] ** -0.5, *scores], dim=-1)
        wide_key = torch.cat([key, marks.expand(*key.shape[:-1], -1)], dim=-1)
        wide_value = functional.pad(value, (0, marks.shape[-1]))
        attended = functional.scaled_dot_product_attention(wide_query, wide_key, wide_value, scale=1.0)
        return attended[..., : value.shape[-1]]


def _position_scores(query: Tensor, positions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return each query's scores of rows [B, heads, h, w, h] and of columns [B, heads, h, w, w]."""
    rows, columns = positions
    grid = query.unflatten(2, (len(rows), len(columns)))  # [B, heads, h, w, d]
    return torch.einsum("bnhwd,hkd->bnhwk", grid, rows), torch.einsum("bnhwd,wkd->bnhwk", grid, columns)


@lru_cache(maxsize=64)
def _distances(size: int, device: torch.device) -> Tensor:
    """Return the row of a table of relative positions for each pair of places, LongTensor [size, size].

    It is kept on the device. segment_anything makes it on the CPU anew for each call, and the device waits for it.
    """
    with torch.inference_mode(False), torch.device("cpu"):
        places = torch.arange(size)
        return (places[:, None] - places + size - 1).to(device)


@lru_cache(maxsize=16)
def _place_marks(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a 1 at the row and a 1 at the column of each cell of a grid, [h * w, h + w]."""
    with torch.inference_mode(False), torch.device("cpu"):
        rows = torch.eye(height, dtype=dtype)[:, None].expand(height, width, height)
        columns = torch.eye(width, dtype=dtype)[None].expand(height, width, width)
        return torch.cat([rows, columns], dim=-1).flatten(0, 1).to(device)


class RowwiseMaskDecoder(MaskDecoder):
    """SAM's mask decoder with one image per prompt row.

    segment_anything repeats one image for all prompts; here row r of all inputs belongs together, and rows may be of
    any image. Only the single-mask output is computed (`multimask_output=False`).
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


def position_encoding(frequencies: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute SAM's positional encoding of a grid's cells, all in the dtype of the frequencies.

    Args:
        frequencies: [2, C / 2], of x and y.
        grid: height and width (h, w).

    Returns:
        [C, h, w]: sines, then cosines, of 2 pi times the frequencies at each cell's centre, in [-1, 1].
    """
    height, width = grid
    rows, columns = (
        (torch.arange(size, dtype=frequencies.dtype, device=frequencies.device) + 0.5) / size for size in grid
    )
    centres = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], dim=-1)  # [h, w, 2]
    angles = 2 * math.pi * ((2 * centres - 1) @ frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)


class SegmentAnything(Segmenter):
    """Image encoder, prompt encoder and mask decoder under the names of SAM's published checkpoints.

    Args:
        image_encoder: of images.
        prompt_encoder: of prompts.
        mask_decoder: of masks.
        position_dtype: arithmetic of the dense positional encoding, whatever the dtype of the weights.
    """

    images_at_once = 1
    """Images that a frozen encoder runs together. If it is one, an embedding does not depend on other images, so it may
    be kept."""

    def __init__(
        self,
        image_encoder: ImageEncoderViT,
        prompt_encoder: PromptEncoder,
        mask_decoder: RowwiseMaskDecoder,
        position_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.position_dtype = position_dtype
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

    @property
    def prepares_with_trained_weights(self) -> bool:
        """False: the decoder takes the encoder's output as it is."""
        return False

    def map_shapes(self, is_prepared: bool = True) -> tuple[tuple[int, ...], ...]:
        """Return the shape (C, h, w) of the only map."""
        return ((int(self.prompt_encoder.embed_dim), *self.grid),)

    def weights_of_embeddings(self, is_prepared: bool) -> Mapping[str, Tensor]:
        """Return the image encoder's weights."""
        return self.image_encoder.state_dict()

    def encode_images(self, sam_pixels: Tensor) -> ImageEmbeddings:
        """Encode normalised, padded images [B, 3, P, P]; see `Segmenter.encode_images`."""
        with grad_if_trainable(self.image_encoder):
            pixels = sam_pixels.to(self.image_encoder.patch_embed.proj.weight.dtype)
            if torch.is_grad_enabled() or len(pixels) <= self.images_at_once:
                return ImageEmbeddings(self.image_encoder(pixels))
            together = [self.image_encoder(some) for some in pixels.split(self.images_at_once)]
            return ImageEmbeddings(torch.cat(together))

    def dense_position(self) -> Tensor:
        """Return SAM's dense positional encoding [1, C, h, w]."""
        if self.position_dtype == torch.float32:
            position = self.prompt_encoder.get_dense_pe()
        else:
            frequencies = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
            position = position_encoding(frequencies.to(self.position_dtype), self.grid)[None]
        position = position.to(self.prompt_encoder.no_mask_embed.weight.dtype)
        return position.contiguous(memory_format=torch.channels_last)

    def decode_masks(
        self, embeddings: ImageEmbeddings, queries: Tensor, dense: Tensor | None, position: Tensor
    ) -> Tensor:
        """Decode one mask per query, in the frame of SAM's padded input; see `Segmenter.decode_masks`."""
        if dense is None:
            dense = self.prompt_encoder.no_mask_embed.weight[..., None, None].expand_as(embeddings.main)
        return self.mask_decoder.decode_rows(embeddings.main, position, queries[:, None], dense).float()

    def mask_layers(self) -> nn.Sequential:
        """Return SAM's `mask_downscaling`."""
        return self.prompt_encoder.mask_downscaling

    def load_sam_checkpoint(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of a published `sam_vit_{b,l,h}` checkpoint, strictly.

        Raises:
            ValueError: keys or shapes differ; the message lists them and this model's sizes.
        """
        try:
            self.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            size, depth = self.image_size, len(self.image_encoder.blocks)
            raise ValueError(f"not a SAM checkpoint for this model ({size} px, {depth} blocks): {error}") from error


def build_sam(config: SamConfig) -> SegmentAnything:
    """Build SAM from its sizes, as the public `build_sam.py`; values not in the configuration are SAM's constants."""
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
    sam = SegmentAnything(encoder, prompt_encoder, decoder, getattr(torch, config.position_dtype))
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
