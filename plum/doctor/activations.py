"""Activation memory: bytes that the forward pass keeps for the backward pass, layer by layer."""

from plum.config import (
    CalicoConfig,
    FeedbackConfig,
    LanguageConfig,
    LlavaConfig,
    LoraConfig,
    SamConfig,
    SegmenterConfig,
    TaggerConfig,
)
from plum.doctor.workload import Workload
from plum.inputs.bio_labels import number_of_classes
from plum.losses.losses import MAX_WHOLE_LOGITS
from plum.losses.mask_losses import NUM_MAPS, masks_at_once
from plum.models.backbones.calico import adapted_layers
from plum.models.backbones.shared_beginnings import align
from plum.models.segmenters.sam import takes_over_from_image, takes_over_to_image

FLOAT = 4
"""Bytes of a float32, in which norms, softmaxes and losses are computed."""
NUM_OUTPUT_TOKENS = 5
"""SAM's IoU token and four mask tokens; together with the span's query they are the decoder's tokens."""
DOWNSAMPLE = 2
"""Factor by which SAM's decoder reduces the width for attention between image and tokens."""


def layer_bytes(
    language: LanguageConfig, lora: LoraConfig | None, work: Workload, *, is_trained: bool, is_first: bool
) -> int:
    """Return the bytes of one decoder layer's activations.

    Args:
        language: sizes.
        lora: adapters, if any.
        work: the micro-batch.
        is_trained: whether the layer's own weights are trained.
        is_first: whether its input needs no gradient (embeddings and image tokens are frozen).
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
    """Return the bytes of one layer's adapters: A's (dropped-out) input with its mask, and B's input."""
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
    for source in shared - {"attention"}:  # the attention itself keeps this one
        width = language.intermediate_size if source == "product" else language.hidden_size
        total += work.places * width * work.element_bytes
    return total


def _input_of(target: str) -> str:
    """Return which tensor a linear layer of the block reads; layers that read the same one share it."""
    if target in ("q_proj", "k_proj", "v_proj"):
        return "first norm"
    return {"o_proj": "attention", "down_proj": "product"}.get(target, "second norm")


def layers_bytes(
    language: LanguageConfig,
    lora: LoraConfig | None,
    work: Workload,
    *,
    is_trained: bool,
    are_embeddings_trained: bool,
    is_checkpointed: bool,
) -> int:
    """Return the bytes of all decoder layers' activations; with gradient checkpointing, only of each layer's input.

    With gradient checkpointing the mask and the rotary tables, a thousandth of the peak, are left out.

    Args:
        language: sizes.
        lora: adapters, if any.
        work: the micro-batch.
        is_trained: whether the layers' own weights are trained.
        are_embeddings_trained: whether the first layer's input needs a gradient.
        is_checkpointed: gradient checkpointing.
    """
    if is_checkpointed:
        return language.num_layers * work.places * language.hidden_size * work.element_bytes
    first = layer_bytes(language, lora, work, is_trained=is_trained, is_first=not are_embeddings_trained)
    other = layer_bytes(language, lora, work, is_trained=is_trained, is_first=False)
    rotary = 2 * (language.hidden_size // language.num_heads) * work.element_bytes
    rotary *= work.places if work.is_shared else work.tokens
    embedding = (8 + 1) * work.places if are_embeddings_trained else 0  # ids, and which of them are the image's
    return first + (language.num_layers - 1) * other + rotary + _mask_bytes(work) + embedding


def _mask_bytes(work: Workload) -> int:
    """Return the bytes of the attention mask of several conversations: one number per pair, shared by all layers."""
    if not work.is_shared:
        return 0
    return work.places * align(work.sequence) * work.element_bytes


def final_norm_bytes(language: LanguageConfig, work: Workload, *, is_trained: bool) -> int:
    """Return the bytes of the norm after the last layer and of gathering each conversation's states.

    Args:
        language: sizes.
        work: the micro-batch.
        is_trained: whether the norm is trained.
    """
    kept = work.places * language.hidden_size * work.element_bytes if is_trained else 0
    return work.places * language.hidden_size * FLOAT + work.places * FLOAT + kept + 8 * work.rows


def token_loss_bytes(language: LanguageConfig, work: Workload, *, is_trained: bool) -> int:
    """Return the bytes that the loss keeps of the log-probabilities [K, V] of K supervised tokens, float32.

    Many logits are kept as they are instead; see `plum.losses.losses.language_loss`.

    Args:
        language: sizes.
        work: the micro-batch.
        is_trained: whether lm_head is trained, which also keeps its input.
    """
    kept = work.supervised * language.hidden_size * work.element_bytes if is_trained else 0
    num_logits = work.supervised * language.vocab_size
    size = FLOAT if num_logits <= MAX_WHOLE_LOGITS else work.element_bytes
    return num_logits * size + kept + 8 * work.supervised  # and labels


def tagger_bytes(width: int, tagger: TaggerConfig, work: Workload, num_tagged: int, num_image_tokens: int) -> int:
    """Return the bytes of the span tagger and of its loss.

    Args:
        width: D.
        tagger: the tagger.
        work: the micro-batch.
        num_tagged: number of tokens that the tagger reads.
        num_image_tokens: number of an image's tokens, to which cross-attention attends.
    """
    size, mask = work.element_bytes, work.dropout_mask_bytes
    states, read = work.rows * width * size, num_tagged * width * size
    # First: its input states, the ReLU's output; the classifier's input. Last: the MLP's input, the ReLU's output.
    total = 2 * states + read if tagger.order == "mlp_first" else 2 * read
    if tagger.context != "none":
        # MLP's output; keys and values with their input, the padding mask.
        total += 4 * states + work.rows * tagger.num_heads * size
        # Queries with their input, attention's output, both norms' inputs, the first one's output.
        total += 6 * read + num_tagged * (tagger.num_heads * FLOAT + 1 + 4 * FLOAT)
        feedforward = num_tagged * tagger.feedforward_dim * size
        total += feedforward
        if tagger.dropout > 0:
            # Masks after the attention and after the block's second layer; inside, also the dropped-out copy. The
            # attention's own dropout is redrawn from its seed.
            total += (2 * width + tagger.feedforward_dim) * num_tagged * mask + feedforward
    if tagger.use_cross_attention:
        total += _cross_attention_bytes(width, tagger, work, num_tagged, num_image_tokens)
    return total + num_tagged * _tag_loss_bytes(tagger)


def _cross_attention_bytes(
    width: int, tagger: TaggerConfig, work: Workload, num_tagged: int, num_image_tokens: int
) -> int:
    """Return the bytes of the tagger's attention to image tokens, which every conversation has a copy of."""
    size = work.element_bytes
    # Image tokens, keys and values.
    images = 3 * work.conversations * num_image_tokens * width * size
    # Queries with their input, attention's output as it is and in the order of its projection, the norm's input; the
    # attention's log-sum-exp, two numbers of the norm.
    read = num_tagged * (5 * width * size + tagger.num_heads * size + 2 * FLOAT)
    return images + read + (width * num_tagged * work.dropout_mask_bytes if tagger.dropout > 0 else 0)


def _tag_loss_bytes(tagger: TaggerConfig) -> int:
    """Return the bytes of one token's loss: log-probabilities and label, or the CRF's sums over pairs of classes."""
    num_classes = number_of_classes(tagger.scheme)
    if tagger.use_crf:
        return (num_classes + 1) * num_classes * FLOAT + 6 * 8  # and indices
    return num_classes * FLOAT + 8


def query_bytes(width: int, work: Workload, *, is_kl_pooled: bool) -> int:
    """Return the bytes of the query projection (span tokens, ReLU's output) and of the KL term; `width` is D.

    The KL term keeps the float32 differences that it squares: one per span if they are pooled, or one per token.
    """
    tokens = work.masks * work.span_tokens
    differences = work.masks if is_kl_pooled else tokens
    gathering = tokens * (8 + work.element_bytes) + work.masks * work.element_bytes  # positions, weights, their sums
    return 2 * tokens * width * work.element_bytes + differences * width * FLOAT + 2 * gathering


def grid_size(sam: SegmenterConfig) -> int:
    """Return the number of cells of the embedding grid, h * w."""
    return (sam.image_size // sam.patch_size) ** 2


def decoder_bytes(sam: SamConfig, work: Workload) -> int:
    """Return the bytes of decoding one mask."""
    return _transformer_bytes(sam, work) + _upscaling_bytes(sam, work)


def _transformer_bytes(sam: SamConfig, work: Workload) -> int:
    """Return the bytes of SAM's two-way transformer: in each block tokens attend to the image and vice versa."""
    cells, width, size = grid_size(sam), sam.prompt_dim, work.element_bytes
    tokens = NUM_OUTPUT_TOKENS + 1
    image = cells * width * size
    narrow = image // DOWNSAMPLE
    # Keys + position and keys, and for each direction of attention a weight per head and token or, if these are many,
    # two projections and (towards the tokens) one number per head; then the norm's input and two numbers per cell.
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
    # The small rest: the tokens' own attention, norms and MLP.
    of_tokens = tokens * ((15 * sam.decoder_depth + 5) * width + sam.decoder_depth * sam.decoder_mlp_dim) * size
    return sam.decoder_depth * block + final + of_tokens


def _upscaling_bytes(sam: SamConfig, work: Workload) -> int:
    """Return the bytes of SAM's transposed convolutions and the product with the mask token.

    The first convolution's input is kept already. New are its norm's input, GELU's input and the second convolution's
    input (G = cells * width each), and GELU's input and output at 16 times the cells and an eighth of the width (2 G
    each).
    """
    cells, width = grid_size(sam), sam.prompt_dim
    of_norm = 2 * 4 * cells  # two numbers per pixel
    return (7 * cells * width + of_norm) * work.element_bytes


def feedback_bytes(sam: SegmenterConfig, feedback: FeedbackConfig, work: Workload) -> int:
    """Return the bytes of feeding one earlier mask back and of pooling for one later one.

    The FiLM mask encoder keeps the mask and, per convolution, its norm's input and two numbers per pixel, the norm's
    output, the modulated map (GELU's input) and GELU's output. The pooler keeps the keys' input, keys, the values'
    input, values and the output projection's input (G = cells * width each), and its softmax over all earlier masks. If
    the position is in the values too, keys and values share one input.
    """
    cells, width = grid_size(sam), sam.prompt_dim
    channels = sam.mask_in_channels
    first, second = 4 * cells * (channels // 4), cells * channels
    encoder = 16 * cells + 4 * first + 2 * 4 * cells + 4 * second + 2 * cells
    mean_earlier = work.spans / 2  # of 1, 2, ... S - 1
    is_input_shared = feedback.position_in == "keys_and_values" and not feedback.use_order_embedding
    pooler = (4 if is_input_shared else 5) * cells * width + round(mean_earlier * cells * feedback.num_heads)
    return (encoder + pooler) * work.element_bytes


def loss_bytes(sam: SegmenterConfig, work: Workload) -> int:
    """Return the bytes of one mask's losses: the true mask (a byte per original pixel) and the logits (float32)."""
    return work.image_pixels + 16 * grid_size(sam) * FLOAT


def mask_sum_bytes(work: Workload) -> int:
    """Return the transient bytes of float32 maps at original resolution while a few masks are summed at a time."""
    num_masks = masks_at_once(work.masks, work.image_pixels, "cuda")
    return NUM_MAPS * num_masks * work.image_pixels * FLOAT


def correspondence_bytes(llava: LlavaConfig, calico: CalicoConfig, work: Workload) -> int:
    """Return the bytes of CALICO's correspondence extraction (CEM) on all images.

    It keeps its two inputs with the numbers of their norms, both normalised, and the attention's queries, keys, values,
    output and log-sum-exp. Without DINOv2, one input serves as both.
    """
    if calico.adaptation is None or calico.correspondence.source == "none":
        return 0
    size, width = work.element_bytes, llava.vision.hidden_size
    tokens = llava.vision.num_patches + 1
    cells, semantic = tokens, width
    inputs = tokens * width
    if calico.dino is not None:
        dino = calico.dino
        cells, semantic = (llava.vision.image_size // dino.patch_size) ** 2, dino.hidden_size
        # A facet of tokens is a view of all, so that the class token and the registers stay too.
        inputs += (cells + (1 + dino.num_register_tokens)) * semantic
    norms = 2 * (tokens + cells)
    attention = 2 * tokens * width + 2 * cells * width
    per_image = (inputs + norms + tokens * width + cells * semantic + attention) * size
    return work.images * (per_image + tokens * calico.correspondence.num_heads * FLOAT)


def adaptation_bytes(llava: LlavaConfig, calico: CalicoConfig, work: Workload) -> int:
    """Return the bytes of CALICO's adaptation modules (CAM): in each adapted layer, each image of each conversation.

    A module keeps the guide's state, the Q-Former's pass in float32 (frozen, but gradients go through it), its output
    and what it adds to the image's tokens. Gradient checkpointing does not reach it.
    """
    if calico.adaptation is None:
        return 0
    size, hidden = work.element_bytes, llava.language.hidden_size
    num_tokens, width = llava.vision.num_image_tokens, calico.embedding_size
    per_pair = hidden * size if calico.adaptation.follows_prompt else 0
    per_pair += num_tokens * (width + hidden) * size
    if calico.qformer is None:
        per_pair += llava.vision.num_patches * llava.vision.hidden_size * size  # read by the trained projection
    else:
        per_pair += _qformer_bytes(llava, calico)
    return len(adapted_layers(calico.adaptation, llava.language.num_layers)) * work.pairs * per_pair


def _qformer_bytes(llava: LlavaConfig, calico: CalicoConfig) -> int:
    """Return the bytes of one image's pass through the frozen Q-Former with gradients, float32."""
    qformer, width, queries = calico.qformer, calico.embedding_size, llava.vision.num_image_tokens
    assert qformer is not None, "only a model with a Q-Former has its activations"
    norm = queries * (width + 2)
    attention = 4 * queries * width + queries * qformer.num_heads + norm
    # Keys and values of the image's tokens instead of the queries'.
    crossed = attention + 2 * (llava.vision.num_patches + 1 - queries) * width
    num_crossed = -(-qformer.num_layers // qformer.cross_attention_frequency)
    feedforward = queries * qformer.intermediate_size + norm
    return FLOAT * (norm + qformer.num_layers * (attention + feedforward) + num_crossed * crossed)


def image_token_bytes(llava: LlavaConfig, calico: CalicoConfig, work: Workload, *, is_trained: bool) -> int:
    """Return the bytes of CALICO's f_image on all images, and of the projection that stands in for the Q-Former.

    Args:
        llava: sizes.
        calico: what CALICO adds.
        work: the micro-batch.
        is_trained: whether f_image is trained.
    """
    kept = llava.vision.num_image_tokens * calico.embedding_size if is_trained else 0
    if calico.qformer is None:
        kept += llava.vision.num_patches * llava.vision.hidden_size  # a copy, without the class token
    return work.images * kept * work.element_bytes
