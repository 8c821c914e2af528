"""What the forward pass keeps for the backward pass, counted layer by layer."""

from plum.config import LanguageConfig, LoraConfig, SamConfig, TaggerConfig
from plum.doctor.workload import Workload
from plum.losses.mask_losses import NUM_MAPS, masks_at_once
from plum.models.backbones.shared_beginnings import align
from plum.models.segmenters.sam import takes_over_from_image, takes_over_to_image

FLOAT = 4
"""Norms, softmaxes and losses are computed in float32."""


def layer_bytes(
    language: LanguageConfig, lora: LoraConfig | None, work: Workload, *, is_trained: bool, is_first: bool
) -> int:
    """Activations of one decoder layer.

    Args:
        language: sizes.
        lora: adapters, if any.
        work: the micro-batch.
        is_trained: the layer's own weights are trained.
        is_first: its input needs no gradient (embeddings and image tokens are frozen).
    """
    width, inner, rows, size = language.hidden_size, language.intermediate_size, work.places, work.element_bytes
    head = width // language.num_heads
    norm = rows * width * FLOAT + rows * FLOAT
    states = rows * width * size
    num_kept = language.num_key_value_heads
    if work.is_shared and num_kept > 1:
        num_kept = language.num_heads  # with a mask every head gets a copy of its keys and values
    attention = (2 * width + 2 * num_kept * head) * rows * size  # q, output; k, v
    attention += rows * language.num_heads * FLOAT  # log-sum-exp of each query
    gated = 3 * rows * inner * size  # gate, its SiLU, up
    total = (1 if is_first else 2) * norm + attention + gated
    if is_trained:
        total += 4 * states + rows * inner * size  # both norms: normalised and weighted; the product before down_proj
    return total + _adapter_bytes(language, lora, work, is_first)


def _adapter_bytes(language: LanguageConfig, lora: LoraConfig | None, work: Workload, is_first: bool) -> int:
    """Activations of one layer's adapters: the (dropped-out) input of A with its mask, and the input of B."""
    if lora is None:
        return 0
    total, shared = 0, set()
    for target in lora.target_modules:
        width = language.intermediate_size if target == "down_proj" else language.hidden_size
        total += work.places * lora.rank * work.element_bytes
        if lora.dropout > 0:
            needs_mask = not (is_first and _input_of(target) == "first norm")
            total += work.places * width * (work.element_bytes + work.dropout_mask_bytes * needs_mask)
        else:
            shared.add(_input_of(target))
    for source in shared - {"attention"}:  # that one is kept by the attention itself
        width = language.intermediate_size if source == "product" else language.hidden_size
        total += work.places * width * work.element_bytes
    return total


def _input_of(target: str) -> str:
    """Which tensor a linear layer of the block reads; those that read the same one share it."""
    if target in ("q_proj", "k_proj", "v_proj"):
        return "first norm"
    return {"o_proj": "attention", "down_proj": "product"}.get(target, "second norm")


def layers_bytes(
    language: LanguageConfig, lora: LoraConfig | None, work: Workload, *, is_trained: bool, is_checkpointed: bool
) -> int:
    """Activations of all decoder layers: all of them, or with gradient checkpointing the inputs of each alone.

    With it the mask and the rotary tables, a thousandth of the peak, are left out.
    """
    if is_checkpointed:
        return language.num_layers * work.places * language.hidden_size * work.element_bytes
    first = layer_bytes(language, lora, work, is_trained=is_trained, is_first=not is_trained)
    other = layer_bytes(language, lora, work, is_trained=is_trained, is_first=False)
    rotary = 2 * (language.hidden_size // language.num_heads) * work.element_bytes
    rotary *= work.places if work.is_shared else work.tokens
    embedding = (8 + 1) * work.places if is_trained else 0  # ids, and where they are the image's
    return first + (language.num_layers - 1) * other + rotary + _mask_bytes(work) + embedding


def _mask_bytes(work: Workload) -> int:
    """Who sees whom in a sequence of several conversations: one number per pair, for all layers together."""
    if not work.is_shared:
        return 0
    return work.places * align(work.sequence) * work.element_bytes


def final_norm_bytes(language: LanguageConfig, work: Workload, *, is_trained: bool) -> int:
    """Activations of the norm after the last layer, and of handing each conversation its states."""
    kept = work.places * language.hidden_size * work.element_bytes if is_trained else 0
    return work.places * language.hidden_size * FLOAT + work.places * FLOAT + kept + 8 * work.rows


def token_loss_bytes(language: LanguageConfig, work: Workload, *, is_trained: bool) -> int:
    """Log-probabilities [K, V] in float32; a trained lm_head also keeps its input."""
    kept = work.supervised * language.hidden_size * work.element_bytes if is_trained else 0
    labels = 8 * work.supervised + work.rows  # and which positions have one
    return work.supervised * language.vocab_size * FLOAT + kept + labels


def tagger_bytes(width: int, tagger: TaggerConfig, work: Workload) -> int:
    """Activations of the span tagger and of its loss, which reads supervised tokens alone; `width` is D."""
    size, mask = work.element_bytes, work.dropout_mask_bytes
    states, read = work.rows * width * size, work.supervised * width * size
    total = 2 * states + read  # the states it reads, the ReLU's output; the classifier's input
    if tagger.context != "none":
        # MLP's output with the places of what is read; keys and values with their input, the padding mask.
        total += 4 * states + 8 * work.rows + work.rows * tagger.num_heads * size
        # Queries with their input, attention's output, both norms' inputs, the first one's output.
        total += 6 * read + work.supervised * (tagger.num_heads * FLOAT + 1 + 4 * FLOAT)
        feedforward = work.supervised * tagger.feedforward_dim * size
        total += feedforward
        if tagger.dropout > 0:
            # Masks after the attention and after the block's second layer; inside, the dropped-out copy too. The
            # attention's own dropout is redrawn from its seed.
            total += (2 * width + tagger.feedforward_dim) * work.supervised * mask + feedforward
    return total + work.supervised * (3 * FLOAT + 8)


def query_bytes(width: int, work: Workload) -> int:
    """Activations of the query projection (span tokens in, ReLU's output) and of the KL term; `width` is D."""
    tokens = work.masks * work.span_tokens
    gathering = tokens * (8 + work.element_bytes) + work.masks * work.element_bytes  # positions, weights, their sums
    return 2 * tokens * width * work.element_bytes + work.masks * width * FLOAT + 2 * gathering


NUM_OUTPUT_TOKENS = 5
"""SAM's IoU token and four mask tokens; with the span's query they are the decoder's tokens."""
DOWNSAMPLE = 2
"""How much narrower SAM's decoder attends across image and tokens."""


def grid_size(sam: SamConfig) -> int:
    """Cells of the embedding grid, h * w."""
    return (sam.image_size // sam.patch_size) ** 2


def decoder_bytes(sam: SamConfig, work: Workload) -> int:
    """Activations of decoding one mask."""
    return _transformer_bytes(sam, work) + _upscaling_bytes(sam, work)


def _transformer_bytes(sam: SamConfig, work: Workload) -> int:
    """SAM's two-way transformer: per block tokens attend to the image and the image to the tokens."""
    cells, width, size = grid_size(sam), sam.prompt_dim, work.element_bytes
    tokens = NUM_OUTPUT_TOKENS + 1
    image = cells * width * size
    narrow = image // DOWNSAMPLE
    # Keys + position and keys, and for either direction of attention a weight per head and token or, where these are
    # many, two projections and back to the tokens one number per head; then the norm's input and two numbers per cell.
    vectors, internal = sam.decoder_heads * tokens, width // DOWNSAMPLE
    to_image = to_tokens = vectors * cells * size
    if not takes_over_to_image(vectors, internal):
        to_image = 2 * narrow
    if not takes_over_from_image(vectors, internal):
        to_tokens = 2 * narrow + sam.decoder_heads * cells * FLOAT
    to_image += image + image
    to_tokens += image + 2 * cells * FLOAT
    block = to_image + to_tokens
    final = to_image
    # What is small: the tokens' own attention, norms and MLP.
    of_tokens = tokens * ((15 * sam.decoder_depth + 5) * width + sam.decoder_depth * sam.decoder_mlp_dim) * size
    return sam.decoder_depth * block + final + of_tokens


def _upscaling_bytes(sam: SamConfig, work: Workload) -> int:
    """SAM's transposed convolutions and the product with the mask token.

    The first convolution's input is kept already. Its norm's input, GELU's input, second convolution's input (each G);
    GELU's input and output at 16 times the cells, an eighth of the width (2 G each).
    """
    cells, width = grid_size(sam), sam.prompt_dim
    of_norm = 2 * 4 * cells  # two numbers per pixel
    return (7 * cells * width + of_norm) * work.element_bytes


def feedback_bytes(sam: SamConfig, num_heads: int, work: Workload) -> int:
    """Activations of feeding one earlier mask back and of pooling for one later one.

    FiLM mask encoder: the mask; per convolution its norm's input and two numbers per pixel, the norm's output, the
    modulated map (GELU's input), GELU's output. Pooler: keys' input, keys, values' input, values, and the output
    projection's input (each G); its softmax over all earlier masks.
    """
    cells, width = grid_size(sam), sam.prompt_dim
    channels = sam.mask_in_channels
    first, second = 4 * cells * (channels // 4), cells * channels
    encoder = 16 * cells + 4 * first + 2 * 4 * cells + 4 * second + 2 * cells
    mean_earlier = work.spans / 2  # of 1, 2, ... S - 1
    pooler = 5 * cells * width + round(mean_earlier * cells * num_heads)
    return (encoder + pooler) * work.element_bytes


def loss_bytes(sam: SamConfig, work: Workload) -> int:
    """Mask losses of one mask: the true mask at original resolution, a byte a pixel, and the logits, float32."""
    return work.image_pixels + 16 * grid_size(sam) * FLOAT


def mask_sum_bytes(work: Workload) -> int:
    """Maps at original resolution while masks are summed a few at a time, float32; freed at once, on a GPU."""
    num_masks = masks_at_once(work.masks, work.image_pixels, "cuda")
    return NUM_MAPS * num_masks * work.image_pixels * FLOAT
