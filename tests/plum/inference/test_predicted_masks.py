import subprocess
import sys

import numpy as np
import pytest
import torch

from plum.inference import predicted_masks
from plum.inference.predicted_masks import PredictedMasks, predict_masks, threshold_masks
from plum.models.segmenters.mask_resize import resize_to_original
from plum.structures import ImageFrame
from tests.readme_commands import ROOT

FRAME = ImageFrame((45, 61), (47, 64))
LOGITS = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.2

PEAK = """
import re, sys, torch
from plum.inference.predicted_masks import predict_masks
from plum.structures import ImageFrame
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
height, width, spans = map(int, sys.argv[1:])
frame = ImageFrame((height, width), (48, 64))
predict_masks(torch.randn(1, 16, 16), ImageFrame((8, 8), (64, 64)), 64)
before = peak()
predict_masks(torch.randn(spans, 16, 16), frame, 64)
print(peak() - before)
"""


@pytest.mark.parametrize("max_pixels", [1, 61, 61 * 7, 45 * 61, 45 * 61 * 5 - 1])
def test_masks_and_confidences_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch, max_pixels: int) -> None:
    logits = resize_to_original(LOGITS, FRAME, 64)
    inside = [float(one.sigmoid()[one > 0].mean()) for one in logits]
    whole = predict_masks(LOGITS, FRAME, 64)
    monkeypatch.setattr(predicted_masks, "MAX_PIXELS_AT_ONCE", max_pixels)
    for found in (whole, predict_masks(LOGITS, FRAME, 64)):
        np.testing.assert_array_equal(found.masks, (logits > 0).numpy())
        assert found.confidences == pytest.approx(inside, rel=1e-5)
    np.testing.assert_array_equal(threshold_masks(LOGITS, FRAME, 64), whole.masks)


def test_an_empty_mask_has_no_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicted_masks, "MAX_PIXELS_AT_ONCE", 100)
    found = predict_masks(torch.full((2, 16, 16), -3.0), FRAME, 64)
    assert (found.masks.any(), found.confidences) == (False, (0.0, 0.0))


def test_masks_are_taken_in_any_order_and_copied_only_then() -> None:
    masks = np.arange(3)[:, None, None] == np.arange(3).reshape(1, 1, 3)
    found = PredictedMasks(masks, (0.1, 0.2, 0.3))
    assert np.shares_memory(found.take(np.arange(3)).masks, masks)
    taken = found.take(np.array([2, 2, 0]))
    assert taken.confidences == (0.3, 0.3, 0.1)
    np.testing.assert_array_equal(taken.masks, masks[[2, 2, 0]])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_one_byte_per_pixel_and_mask_and_a_constant() -> None:
    height, width, spans = 1500, 2000, 20
    command = [sys.executable, "-c", PEAK, str(height), str(width), str(spans)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    masks_in_mb = height * width * spans / 2**20
    assert float(run.stdout) < masks_in_mb + 450, "all logits at once take 17 times the masks: 970 MB"
