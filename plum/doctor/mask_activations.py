"""Bytes that autograd keeps of mask decoding, mask feedback and mask losses; formulas, one line per saved tensor.

They follow segment-anything's decoder (trained) and plum's feedback loop. G = C h w is one embedding of an image: 2 MB
in bfloat16 at full size. Parameters are not counted. Checked against torch in tests/plum/doctor/test_activations.py.
"""

from plum.config import SamConfig
from plum.doctor.workload import Workload

FLOAT = 4
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
    weights = cells * tokens * sam.decoder_heads * size
    # Tokens to image: keys + position, keys, both projected, softmax. Image to tokens: keys + position, projected,
    # softmax, attended; then the norm's input and its two numbers per cell.
    block = (image + image + 2 * narrow + weights) + (image + narrow + weights + narrow + image) + 2 * cells * FLOAT
    final = image + image + 2 * narrow + weights
    # What is small: the tokens' own attention, norms and MLP.
    of_tokens = tokens * ((15 * sam.decoder_depth + 5) * width + sam.decoder_depth * sam.decoder_mlp_dim) * size
    return sam.decoder_depth * block + final + of_tokens


def _upscaling_bytes(sam: SamConfig, work: Workload) -> int:
    """SAM's transposed convolutions and the product with the mask token.

    The first convolution's input is kept already. In its norm x - mean twice and the normalised map; GELU's input;
    second convolution's input (each G); GELU's input and output at 16 times the cells, an eighth of the width (2 G
    each).
    """
    cells, width = grid_size(sam), sam.prompt_dim
    deviations = 4 * cells  # the norm's, one per pixel
    return (9 * cells * width + deviations) * work.element_bytes


def feedback_bytes(sam: SamConfig, num_heads: int, work: Workload) -> int:
    """Activations of feeding one earlier mask back and of pooling for one later one.

    FiLM mask encoder: the mask; per convolution in its norm x - mean twice, the normalised map and the deviations, the
    norm's output, the modulated map (GELU's input), GELU's output. Pooler: keys' input, keys, values' input, values,
    and the output projection's input (each G); its softmax over all earlier masks.
    """
    cells, width = grid_size(sam), sam.prompt_dim
    channels = sam.mask_in_channels
    first, second = 4 * cells * (channels // 4), cells * channels
    encoder = 16 * cells + 6 * first + 4 * cells + 6 * second + cells
    mean_earlier = work.spans / 2  # of 1, 2, ... S - 1
    pooler = 5 * cells * width + round(mean_earlier * cells * num_heads)
    return (encoder + pooler) * work.element_bytes


def loss_bytes(work: Workload) -> int:
    """Mask losses of one mask at original resolution, float32: probabilities, logits and targets."""
    return 3 * work.image_pixels * FLOAT
