"""Times the image encoders of SAM and SAM 2 with random weights, and shows that they equal the reference.

python scripts/bench/segmenters.py --size vit_h|hiera_large|small_sam|small_sam2 [--batch 4] [--repeats 5]

SAM: our attention (on a GPU, whole images attend with all heads at once and without a bias) against segment_anything's
own on the same weights. SAM 2: transformers' modules with the attention that the library chooses, against its eager
attention. `images_per_second` and `reference_images_per_second` are medians over repeats, in bfloat16 on a GPU and
float32 on a CPU; the ways take turns. `deviation` is the largest difference in float32, relative to the largest value
of the reference. The last line is one JSON object.
"""

import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import CLI
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plum.config import Sam2Config, SamConfig, SegmenterConfig
from plum.inference.plain_reference import stock_attention
from plum.models.segmenters.build import build_segmenter
from plum.models.segmenters.sam import SegmentAnything, stock_layers
from plum.models.segmenters.sam2 import Sam2
from plum.models.segmenters.segmenter import Segmenter
from scripts.bench.device_clock import seconds_now
from scripts.bench.eval_world import fill_constant_parameters
from scripts.bench.peak_memory import peak_bytes, reset_peak
from scripts.bench.sizes import HIERA_LARGE

SegmenterSize = Literal["vit_h", "hiera_large", "small_sam", "small_sam2"]
SIZES: dict[str, SegmenterConfig] = {
    "vit_h": SamConfig(),
    "hiera_large": HIERA_LARGE,
    "small_sam": SamConfig(
        image_size=256, encoder_dim=192, encoder_depth=4, encoder_heads=4, encoder_global_blocks=(1, 3)
    ),
    "small_sam2": Sam2Config(model_type="sam2", image_size=256),
}


def main(*, size: SegmenterSize = "small_sam", batch: int = 4, repeats: int = 5, seed: int = 0) -> None:
    """Print one JSON line.

    Args:
        size: Of the segmenter.
        batch: Images encoded together.
        repeats: Timed runs of each way, in turn.
        seed: Of weights and pixels.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # equality is shown in float32
    config = SIZES[size]
    torch.manual_seed(seed)
    with device:
        segmenter = build_segmenter(config).eval()
    fill_constant_parameters(segmenter, seed)
    pixels = torch.randn(batch, 3, config.image_size, config.image_size, device=device)
    deviation = compare(segmenter, pixels[:1])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    segmenter.to(dtype)
    pixels = pixels.to(dtype)
    reset_peak(device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(repeats + 1):
        for is_reference, times in seconds.items():
            passed = time_encoder(segmenter, pixels, is_reference=is_reference)
            if repeat:  # the first one warms up
                times.append(passed)
    ours, reference = (statistics.median(times) for times in seconds.values())
    result = {
        "segmenter": size,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "dtype": str(dtype).removeprefix("torch."),
        "batch": batch,
        "images_per_second": batch / ours,
        "reference_images_per_second": batch / reference,
        "ratio": reference / ours,
        "deviation": deviation,
        "peak_memory_gb": peak_bytes(device) / 1e9,
    }
    print(json.dumps(result))


@contextmanager
def reference_attention(segmenter: Segmenter) -> Iterator[None]:
    """Use the library's plain attention within the context."""
    if isinstance(segmenter, SegmentAnything):
        with stock_attention(segmenter.image_encoder), stock_layers(segmenter):
            yield
        return
    assert isinstance(segmenter, Sam2), "the segmenters of `SIZES`"
    configs = {id(one.config): one.config for one in segmenter.vision_encoder.modules() if hasattr(one, "config")}
    usual = {key: one._attn_implementation for key, one in configs.items()}
    try:
        for one in configs.values():
            one._attn_implementation = "eager"
        yield
    finally:
        for key, one in configs.items():
            one._attn_implementation = usual[key]


@torch.inference_mode()
def compare(segmenter: Segmenter, pixels: Tensor) -> float:
    """Return the largest deviation from the reference, relative to its largest value."""
    ours = segmenter.encode_images(pixels)
    with reference_attention(segmenter):
        theirs = segmenter.encode_images(pixels)
    pairs = zip(ours.maps, theirs.maps, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


@torch.inference_mode()
def time_encoder(segmenter: Segmenter, pixels: Tensor, *, is_reference: bool) -> float:
    """Return seconds of encoding a batch."""
    start = seconds_now(pixels.device)
    if is_reference:
        with reference_attention(segmenter):
            segmenter.encode_images(pixels)
    else:
        segmenter.encode_images(pixels)
    return seconds_now(pixels.device) - start


if __name__ == "__main__":
    CLI(main, as_positional=False)
