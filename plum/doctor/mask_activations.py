"""Bytes that autograd keeps of mask decoding, mask feedback and mask losses; formulas, one line per saved tensor.

They follow segment-anything's decoder (trained) and plum's feedback loop. G = C h w is one embedding of an image: 2 MB
in bfloat16 at full size. Parameters are not counted. Checked against torch in tests/plum/doctor/test_activations.py.
"""

from plum.config import SamConfig
from plum.doctor.workload import Workload
from plum.mask_sums import NUM_MAPS, masks_at_once
from plum.models.sam_layers import takes_over_from_image, takes_over_to_image

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
