import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from plum.data.collate import Collator
from plum.models.grounded_lmm import GroundedLMM
from plum.models.trainable import set_trainable
from plum.structures import Batch, Exchange, ImageFeatures, Sample
from plum.train_config import DataConfig, LossConfig, SourceConfig
from plum.training.objective import Objective
from plum.training.part_pretext import SUBCELLS, PartPretext
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_image, make_model
from tests.plum.training.training_world import FULL

NUM_CLASSES = 3
DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))


@pytest.fixture
def model() -> GroundedLMM:
    return make_model()


def _batch(model: GroundedLMM, part_map: np.ndarray | None, width: int = 24) -> Batch:
    exchange = Exchange("What is it?", "It is a biplane.", is_tagged=False)
    sample = Sample("s", "test", make_image(0, 24, width), ((exchange,),), part_map=part_map)
    return Collator(byte_level(), model.config, DATA)([sample])


def _upscaled(model: GroundedLMM) -> torch.Tensor:
    return torch.zeros(1, model.prompt_dim // 8, 16, 16)


def _half_map() -> np.ndarray:
    part_map = np.zeros((24, 24), dtype=np.int64)
    part_map[:, 12:] = 2
    return part_map


def test_untrained_heads_of_zeros_give_the_uniform_loss(model: GroundedLMM) -> None:
    pretext = PartPretext(model.prompt_dim, 32, NUM_CLASSES)
    for parameter in pretext.parameters():
        torch.nn.init.zeros_(parameter)
    batch = _batch(model, _half_map())
    # Equal logits: -log(1/3) for every pixel, once per head.
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    assert float(pretext(images, _upscaled(model), batch).detach()) == pytest.approx(3 * math.log(3), rel=1e-5)


def test_cells_read_their_own_pixels(model: GroundedLMM) -> None:
    """Features that hold each cell's class, and heads that read them out, leave no loss."""
    batch = _batch(model, _half_map())
    pretext = PartPretext(8 * NUM_CLASSES, NUM_CLASSES, NUM_CLASSES)
    pretext.sam_head = torch.nn.Conv2d(NUM_CLASSES, NUM_CLASSES * SUBCELLS**2, kernel_size=1)
    torch.nn.init.zeros_(pretext.upscaled_head.bias)
    pretext.upscaled_head.weight.data = 50 * torch.eye(NUM_CLASSES)[:, :, None, None]
    for head in (pretext.sam_head, pretext.llava_head):
        torch.nn.init.zeros_(head.bias)
        weight = torch.eye(NUM_CLASSES).repeat_interleave(SUBCELLS**2, dim=0)  # all sub-pixels of a cell alike
        head.weight.data = 50 * weight[:, :, None, None]
    classes = {n: torch.tensor([0] * (n // 2) + [2] * (n // 2)) for n in (2, 4, 16)}
    one_hot = {n: torch.eye(NUM_CLASSES)[row].expand(n, n, -1) for n, row in classes.items()}  # [n, n, classes]
    images = ImageFeatures(tokens=one_hot[2].reshape(1, 4, NUM_CLASSES), embeddings=one_hot[4].permute(2, 0, 1)[None])
    upscaled = one_hot[16].permute(2, 0, 1)[None]
    assert float(pretext(images, upscaled, batch).detach()) < 1e-6
    mirrored = replace(images, embeddings=images.embeddings.flip(3))
    assert float(pretext(mirrored, upscaled, batch).detach()) > 10
    assert float(pretext(images, upscaled.flip(3), batch).detach()) > 10


def test_losses_and_gradients_equal_those_of_convolutions(model: GroundedLMM) -> None:
    """The plain form: 1 x 1 convolution, pixel shuffle, cross-entropy over channels."""
    torch.manual_seed(0)
    pretext = PartPretext(model.prompt_dim, 32, NUM_CLASSES)
    part_map = np.random.default_rng(0).integers(0, NUM_CLASSES, (24, 24))
    batch = _batch(model, part_map)
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    upscaled = torch.randn(1, model.prompt_dim // 8, 16, 16)
    tokens = images.tokens.transpose(1, 2).unflatten(2, (2, 2))
    pixels = torch.nn.functional.conv2d(
        upscaled[..., ::2, ::2], pretext.upscaled_head.weight, pretext.upscaled_head.bias
    )
    expected = torch.nn.functional.cross_entropy(pixels, batch.part_maps[..., ::2, ::2])
    for head, features, step in ((pretext.sam_head, images.embeddings, 2), (pretext.llava_head, tokens, 4)):
        fine = torch.nn.functional.pixel_shuffle(head(features), SUBCELLS)
        expected = expected + torch.nn.functional.cross_entropy(
            fine, batch.part_maps[:, step // 2 :: step, step // 2 :: step]
        )
    found = pretext(images, upscaled, batch)
    torch.testing.assert_close(found, expected)
    leaves = [*pretext.parameters(), model.sam.image_encoder.pos_embed]
    for one, other in zip(
        *(torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_images_without_maps_give_zero_and_others_are_refused(model: GroundedLMM) -> None:
    pretext = PartPretext(model.prompt_dim, 32, NUM_CLASSES)
    batch = _batch(model, None)
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    assert float(pretext(images, _upscaled(model), batch)) == 0.0
    with pytest.raises(ValueError, match="square images"):
        pretext(images, _upscaled(model), _batch(model, np.zeros((24, 30), dtype=np.int64), width=30))


def test_towers_only_trains_the_towers_and_the_heads_alone(model: GroundedLMM) -> None:
    set_trainable(model, FULL)
    objective = Objective(model, LossConfig(), PartPretext(model.prompt_dim, 32, NUM_CLASSES), pretext_weight=2.0)
    result = objective(_batch(model, _half_map()), towers_only=True)
    assert result.part_pretext is not None
    assert float(result.total.detach()) == pytest.approx(2 * float(result.part_pretext.detach()))
    result.total.backward()
    moved = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, parameter in objective.named_parameters()
        if parameter.grad is not None and float(parameter.grad.abs().max()) > 0
    }
    assert moved == {"model.llava", "model.sam", "pretext.sam_head", "pretext.upscaled_head", "pretext.llava_head"}
    assert all(parameter.grad is not None for parameter in objective.parameters() if parameter.requires_grad)
    language = [p for n, p in objective.named_parameters() if "language_model" in n and p.grad is not None]
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in language)
