"""Mask losses: hand-worked goldens, limits, ignored pixels; their sums against plain formulas under autograd."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from plum.config import SpecialTokensConfig
from plum.losses import mask_losses as mask_sums
from plum.losses.mask_losses import (
    Focal,
    bce_loss,
    dice_loss,
    focal_of,
    focal_tversky_loss,
    losses_by_mask,
    mask_losses,
    masks_at_once,
    sum_pixels,
)
from plum.models.segmenters.mask_resize import resize_matrices
from plum.models.tiny import tiny_batch, tiny_model_config
from plum.structures import Batch, ImageFrame, SpanBounds
from plum.train_config import LossConfig
from tests.plum.doctor.saved_tensors import measure_saved

LOG_3 = math.log(3.0)
BIG = 20.0


def make_batch(spans: tuple[int, ...]) -> Batch:
    config = tiny_model_config(40, SpecialTokensConfig(image=3, pad=0, eos=2))
    return tiny_batch(config, spans, torch.Generator().manual_seed(0))


def make_logits(batch: Batch) -> Tensor:
    return torch.randn(len(batch.masks), 16, 16, generator=torch.Generator().manual_seed(1))


def only_span(batch: Batch, row: int) -> Batch:
    bounds = (batch.spans.conversation, batch.spans.start, batch.spans.end, batch.spans.image)
    spans = SpanBounds(*(bound[row : row + 1] for bound in bounds))
    return replace(batch, spans=spans, masks=batch.masks[row : row + 1])


def focal_tversky(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    return focal_tversky_loss(sum_pixels(logits, targets, counted), alpha=0.7, beta=0.3, gamma=0.75)


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    return dice_loss(sum_pixels(logits, targets, None), 1000.0)


def bce(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    return bce_loss(sum_pixels(logits, targets, counted))


# sigmoid(log 3) = 3/4, sigmoid(-log 3) = 1/4.
LOGITS = torch.tensor([[[LOG_3, LOG_3], [-LOG_3, -LOG_3]]])
TARGETS = torch.tensor([[[True, False], [True, False]]])


def test_the_default_overlap_loss_is_the_papers() -> None:
    """Alpha .7 weighs the missed pixel, beta .3 the two false ones; gamma .75 (no configuration file sets them).

    TP = 1/4, FN = 3/4, FP = 3/4 + 3/4 = 3/2: TI = .25 / (.25 + .7 x .75 + .3 x 1.5) = .204082; (1 - TI)^.75 = .842658.
    """
    targets = torch.tensor([[[False, False], [True, False]]])
    logits = torch.tensor([[[LOG_3, LOG_3], [-LOG_3, -BIG]]])
    overlap, _ = losses_by_mask(sum_pixels(logits, targets, None), LossConfig())
    torch.testing.assert_close(overlap, torch.tensor([0.842658]), atol=1e-5, rtol=0)


def test_focal_tversky_golden() -> None:
    # TP = 3/4 + 1/4 = 1; FN = 2 - 1 = 1; FP = 2 - 1 = 1; TI = 1 / (1 + .7 + .3) = 1/2; loss = (1/2)^.75 = 0.594604.
    torch.testing.assert_close(focal_tversky(LOGITS, TARGETS), torch.tensor([0.594604]), atol=1e-5, rtol=0)


def test_focal_tversky_weighs_misses_above_false_alarms() -> None:
    # Only the first pixel counts as predicted (logit 20), truth is the first two: TP 1, FN 1, FP 0: TI = 1 / 1.7.
    # Swapped: TP 1, FN 0, FP 1: TI = 1 / 1.3.
    one, two = torch.tensor([[[BIG, -BIG, -BIG]]]), torch.tensor([[[BIG, BIG, -BIG]]])
    missed = focal_tversky(one, two > 0)
    false_alarm = focal_tversky(two, one > 0)
    torch.testing.assert_close(missed, torch.tensor([(1 - 1 / 1.7) ** 0.75]), atol=1e-4, rtol=0)
    torch.testing.assert_close(false_alarm, torch.tensor([(1 - 1 / 1.3) ** 0.75]), atol=1e-4, rtol=0)


def test_focal_tversky_ignores_uncounted_pixels() -> None:
    # Without the second column: TP = 1, FN = 2 - 1 = 1, FP = 1 - 1 = 0, TI = 1 / 1.7.
    counted = torch.tensor([[[True, False], [True, False]]])
    expected = torch.tensor([(1 - 1 / 1.7) ** 0.75])
    torch.testing.assert_close(focal_tversky(LOGITS, TARGETS, counted), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_full", [True, False])
def test_focal_tversky_gradient_is_finite_where_the_mask_is_perfect(is_full: bool) -> None:
    targets = torch.full((1, 8, 8), is_full)
    for magnitude in (BIG, 200.0):
        logits = torch.full((1, 8, 8), magnitude if is_full else -magnitude, requires_grad=True)
        loss = focal_tversky(logits, targets)
        loss.sum().backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        assert 0.0 <= float(loss.detach()) < 0.1


def test_focal_tversky_of_disjoint_masks_is_one() -> None:
    loss = focal_tversky(torch.tensor([[[BIG, -BIG]]]), torch.tensor([[[False, True]]]))
    torch.testing.assert_close(loss, torch.tensor([1.0]), atol=1e-4, rtol=0)


def test_dice_golden() -> None:
    # Intersection 1, sizes 2 + 2; scale 1000: 1 - (2/1000 + 1e-6) / (4/1000 + 1e-6) = 0.499875.
    torch.testing.assert_close(dice(LOGITS, TARGETS), torch.tensor([0.499875]), atol=1e-6, rtol=0)


def test_dice_limits() -> None:
    empty, disjoint = torch.full((1, 4, 4), -200.0), torch.tensor([[[200.0, -200.0]]])
    assert float(dice(empty, torch.zeros(1, 4, 4, dtype=torch.bool))) == pytest.approx(0.0, abs=1e-6)
    assert float(dice(disjoint, torch.tensor([[[False, True]]]))) == pytest.approx(1.0, abs=1e-3)


def test_mask_bce_golden() -> None:
    # Pixel losses: -ln 3/4, -ln 1/4, -ln 1/4, -ln 3/4; mean = (0.287682 + 1.386294) / 2 = 0.836988.
    torch.testing.assert_close(bce(LOGITS, TARGETS), torch.tensor([0.836988]), atol=1e-5, rtol=0)
    # First row only: the same mean; first column only: (-ln 3/4 - ln 1/4) / 2 as well; top left only: -ln 3/4.
    counted = torch.tensor([[[True, False], [False, False]]])
    torch.testing.assert_close(bce(LOGITS, TARGETS, counted), torch.tensor([0.287682]), atol=1e-5, rtol=0)
    assert float(bce(LOGITS, TARGETS, torch.zeros(1, 2, 2, dtype=torch.bool))) == 0.0


def test_mask_losses_are_means_over_masks_of_images_of_any_size() -> None:
    batch = make_batch((2, 1, 3))
    logits = make_logits(batch)
    config = LossConfig()
    overlap, bce = mask_losses(logits, batch, config)
    overlaps, bces = [], []
    for row in range(len(batch.masks)):
        overlap_one, bce_one = mask_losses(logits[row : row + 1], only_span(batch, row), config)
        overlaps.append(overlap_one)
        bces.append(bce_one)
    torch.testing.assert_close(overlap, torch.stack(overlaps).mean())
    torch.testing.assert_close(bce, torch.stack(bces).mean())


def test_ignored_pixels_leave_every_mask_loss() -> None:
    batch = make_batch((2, 1))
    ignore = torch.zeros(batch.frames[0].original, dtype=torch.bool)
    ignore[:, :9] = True
    batch = replace(batch, ignore_masks=(ignore, None))
    flipped = tuple(mask ^ ignore if row < 2 else mask for row, mask in enumerate(batch.masks))
    for overlap in ("focal_tversky", "dice"):
        config = LossConfig(overlap=overlap)  # type: ignore[arg-type]
        logits = make_logits(batch)
        losses, others = mask_losses(logits, batch, config), mask_losses(logits, replace(batch, masks=flipped), config)
        torch.testing.assert_close(losses, others)
        unmasked = mask_losses(logits, replace(batch, masks=flipped, ignore_masks=(None, None)), config)
        assert float((losses[0] - unmasked[0]).abs()) > 1e-4


def test_one_of_two_images_of_a_size_ignores_pixels() -> None:
    batch = make_batch((1, 1))
    size = batch.frames[0].original
    masks = torch.rand(2, *size, generator=torch.Generator().manual_seed(2)) > 0.5
    ignore = torch.zeros(size, dtype=torch.bool)
    ignore[:, :9] = True
    batch = replace(batch, frames=(batch.frames[0],) * 2, masks=tuple(masks), ignore_masks=(ignore, None))
    logits, config = make_logits(batch), LossConfig()
    both = mask_losses(logits, batch, config)
    alone = [mask_losses(logits[row : row + 1], only_span(batch, row), config) for row in range(2)]
    for found, first, second in zip(both, *alone, strict=True):
        torch.testing.assert_close(found, (first + second) / 2)


def test_mask_of_another_size_is_refused() -> None:
    batch = make_batch((1,))
    with pytest.raises(ValueError, match=r"mask 0 .*tiny-0.* is \(20, 31\) but its image 0 is \(20, 32\)"):
        mask_losses(make_logits(batch), replace(batch, masks=(batch.masks[0][:, 1:],)), LossConfig())


def plain_sums(logits: Tensor, targets: Tensor, counted: Tensor | None) -> Tensor:
    """The five sums as their names read, in float64, [5, m]."""
    true = targets.double()
    weight = torch.ones_like(true) if counted is None else counted.double()
    entropy = binary_cross_entropy_with_logits(logits, true, reduction="none")
    maps = (logits.sigmoid() * true, logits.sigmoid(), true, entropy, torch.ones_like(true))
    return torch.stack([(pixels * weight).sum((1, 2)) for pixels in maps])


@pytest.mark.parametrize("at_once", [1, 2500, 2**17])
@pytest.mark.parametrize("with_ignored", [False, True])
@pytest.mark.parametrize("with_resize", [False, True])
def test_sums_and_gradients_are_those_of_the_formulas(
    at_once: int, with_ignored: bool, with_resize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mask at a time, two (the last one alone), all at once."""
    monkeypatch.setitem(mask_sums.PIXELS_AT_ONCE, "cpu", at_once)
    generator = torch.Generator().manual_seed(0)
    size, frame = (28, 40), ImageFrame((28, 40), (45, 64))
    resize = resize_matrices(16, frame, 64, torch.device("cpu")) if with_resize else None
    logits = 8 * torch.randn(5, *((16, 16) if with_resize else size), generator=generator)
    targets = torch.rand(5, *size, generator=generator) > 0.7
    counted = torch.rand(5, *size, generator=generator) > 0.2 if with_ignored else None
    weights = torch.randn(5, 5, generator=generator)

    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    sums = sum_pixels(ours, targets, counted, resize)
    found = torch.stack([sums.both, sums.predicted, sums.true, sums.cross_entropy, sums.counted])
    enlarged = theirs if resize is None else resize[0].double() @ theirs @ resize[1].double().T
    expected = plain_sums(enlarged, targets, counted)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-5)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("magnitude", [100.0, 1e4])
def test_certain_pixels_have_finite_sums_and_gradients(magnitude: float) -> None:
    logits = torch.tensor([[[magnitude, -magnitude, magnitude, -magnitude]]], requires_grad=True)
    sums = sum_pixels(logits, torch.tensor([[[True, False, False, True]]]), None)
    assert sums.cross_entropy.tolist() == [2 * magnitude]  # the last two are wrong
    sums.cross_entropy.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[[0.0, 0.0, 1.0, -1.0]]]


def test_no_number_is_kept_at_original_resolution() -> None:
    """Of 5 masks of 480 x 640 pixels stay their bools (one byte) and the logits they are enlarged from."""
    resize = resize_matrices(64, ImageFrame((480, 640), (96, 128)), 128, torch.device("cpu"))
    logits, targets = torch.randn(5, 64, 64, requires_grad=True), torch.ones(5, 480, 640, dtype=torch.bool)
    kept = measure_saved(lambda: sum_pixels(logits, targets, None, resize).both, [logits, *resize])[0]
    assert kept <= targets.numel() + 1024


def test_a_few_masks_are_enlarged_at_a_time() -> None:
    assert masks_at_once(30, 192 * 192, "cpu") == 3
    assert masks_at_once(30, 4000 * 3000, "cpu") == 1
    assert masks_at_once(30, 4000 * 3000, "cuda") == 1
    assert masks_at_once(30, 480 * 640, "cuda") == 30
    assert masks_at_once(100, 480 * 640, "cuda") == 54
    assert masks_at_once(0, 480 * 640, "cuda") == 0


@pytest.mark.parametrize(("num_logits", "num_masks", "num_counted"), [(3, 2, 2), (2, 3, 3), (2, 2, 1), (0, 0, 0)])
def test_shapes_that_do_not_belong_together_are_refused(num_logits: int, num_masks: int, num_counted: int) -> None:
    targets, counted = (torch.ones(count, 4, 4, dtype=torch.bool) for count in (num_masks, num_counted))
    with pytest.raises(ValueError, match="for logits|for masks"):
        sum_pixels(torch.zeros(num_logits, 4, 4), targets, counted)
    with pytest.raises(ValueError, match="resized to"):
        sum_pixels(torch.zeros(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool), None, (torch.ones(5, 4),) * 2)


def test_the_focal_loss_of_a_pixel_by_hand() -> None:
    """Alpha .25, gamma 2: p = 3/4 true: .25 (1/4)^2 log 4/3; p = 3/4 false: .75 (3/4)^2 log 4, and the two mirrored."""
    true, false = 0.25 * 0.25**2 * math.log(4 / 3), 0.75 * 0.75**2 * math.log(4)
    missed, right = 0.25 * 0.75**2 * math.log(4), 0.75 * 0.25**2 * math.log(4 / 3)
    config = LossConfig(pixel_loss="focal")
    assert focal_of(config) == Focal(0.25, 2.0)
    assert focal_of(LossConfig()) is None
    _, loss = losses_by_mask(sum_pixels(LOGITS, TARGETS, None, focal=focal_of(config)), config)
    assert float(loss) == pytest.approx((true + false + missed + right) / 4, rel=1e-6)
    # Without focus and with equal weights it is half the cross-entropy.
    plain = sum_pixels(LOGITS, TARGETS, None, focal=Focal(0.5, 0.0))
    assert float(bce_loss(plain)) == pytest.approx(float(bce(LOGITS, TARGETS)) / 2, rel=1e-6)


@pytest.mark.parametrize("has_ignored", [False, True])
def test_the_focal_loss_has_autograds_gradient(has_ignored: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    low = torch.randn(3, 5, 5, generator=generator, dtype=torch.float32).mul(3).requires_grad_()
    targets = torch.rand(3, 9, 7, generator=generator) > 0.5
    counted = torch.rand(3, 9, 7, generator=generator) > 0.3 if has_ignored else None
    resize = (torch.rand(9, 5, generator=generator), torch.rand(7, 5, generator=generator))
    focal = Focal(0.3, 1.5)
    logits = resize[0] @ low @ resize[1].T
    signed = logits * (2 * targets.float() - 1)
    weight = torch.where(targets, focal.alpha, 1 - focal.alpha)
    pixels = weight * (1 - signed.sigmoid()) ** focal.gamma * -torch.nn.functional.logsigmoid(signed)
    expected = (pixels if counted is None else pixels * counted).sum((1, 2))
    sums = sum_pixels(low, targets, counted, resize, focal)
    torch.testing.assert_close(sums.cross_entropy, expected)
    scale = torch.tensor([1.0, -2.0, 0.5])
    (ours,) = torch.autograd.grad((sums.cross_entropy * scale + sums.both + 0.3 * sums.predicted).sum(), low)
    kept = 1.0 if counted is None else counted.float()
    both = (logits.sigmoid() * targets * kept).sum((1, 2)) + 0.3 * (logits.sigmoid() * kept).sum((1, 2))
    (theirs,) = torch.autograd.grad((expected * scale + both).sum(), low)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_focal_loss_reaches_a_batch() -> None:
    batch = make_batch((2, 1))
    logits = make_logits(batch)
    plain, focal = mask_losses(logits, batch, LossConfig()), mask_losses(logits, batch, LossConfig(pixel_loss="focal"))
    assert torch.equal(plain[0], focal[0])
    assert float(focal[1]) < 0.5 * float(plain[1])
