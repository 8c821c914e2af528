"""Bytes that autograd keeps of the language model and of what reads its states; formulas, one line per saved tensor.

They follow plum's and transformers' own forward with scaled_dot_product_attention in a fused kernel (queries, keys,
values, output and one float32 number per query are kept, not the attention weights). Parameters are not counted.
A frozen linear layer keeps nothing; a trained one keeps its input. Checked against torch in
tests/plum/doctor/test_activations.py.
"""

from plum.config import LanguageConfig, LoraConfig, TaggerConfig
from plum.doctor.workload import Workload
from plum.models.shared_beginnings import align

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
