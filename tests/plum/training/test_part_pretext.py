import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from partonomy.masks import encode_mask
from partonomy.structures import CharSpan
from plum.data.collate import Collator
from plum.losses.mask_losses import losses_by_mask, sum_pixels
from plum.models.grounded_lmm import GroundedLMM
from plum.models.trainable import set_trainable
from plum.structures import IGNORE_INDEX, Batch, Exchange, ImageEmbeddings, ImageFeatures, ImageTokens, Sample
from plum.train_config import DataConfig, LossConfig, PretextConfig, SourceConfig
from plum.training.objective import Objective
from plum.training.part_pretext import SUBCELLS, PartPretext, span_classes
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_image, make_model
from tests.plum.training.training_world import FULL

NUM_CLASSES = 3
EQUAL_SHARES = (1,) * NUM_CLASSES
DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))


@pytest.fixture
def model() -> GroundedLMM:
    return make_model()


def _batch(
    model: GroundedLMM,
    part_map: np.ndarray | None,
    width: int = 24,
    num_phrases: int = 0,
    shown: tuple[np.ndarray, ...] | None = None,
) -> Batch:
    exchange = Exchange("What is it?", "It is a biplane.", is_tagged=False)
    if num_phrases:
        words = ("biplane", "is", "It")[:num_phrases][::-1]
        starts = [exchange.answer.index(word) for word in words]
        phrases = tuple(CharSpan(start, start + len(word)) for start, word in zip(starts, words, strict=True))
        half = encode_mask(np.arange(24 * width).reshape(24, width) % width >= width // 2)
        masks = (half,) * num_phrases if shown is None else tuple(encode_mask(mask) for mask in shown)
        exchange = replace(exchange, spans=phrases, masks=masks, is_tagged=True)
    sample = Sample("s", "test", make_image(0, 24, width), ((exchange,),), part_map=part_map)
    return Collator(byte_level(), model.config, DATA)([sample])


def _upscaled(model: GroundedLMM) -> torch.Tensor:
    return torch.zeros(1, model.prompt_dim // 8, 16, 16)


def _half_map() -> np.ndarray:
    part_map = np.zeros((24, 24), dtype=np.int64)
    part_map[:, 12:] = 2
    return part_map


def test_untrained_heads_of_zeros_give_the_uniform_loss(model: GroundedLMM) -> None:
    pretext = PartPretext(model.prompt_dim, 32, EQUAL_SHARES)
    for parameter in pretext.parameters():
        torch.nn.init.zeros_(parameter)
    batch = _batch(model, _half_map())
    # Equal logits: -log(1/3) for every pixel, once per head.
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    assert float(pretext(images, _upscaled(model), batch).detach()) == pytest.approx(3 * math.log(3), rel=1e-5)
    weighed = pretext(images, _upscaled(model), batch, token_weight=4.0)
    assert float(weighed.detach()) == pytest.approx(6 * math.log(3), rel=1e-5)


def test_the_weight_of_the_image_tokens_is_the_configured_one(model: GroundedLMM) -> None:
    pretext = PartPretext(model.prompt_dim, 32, EQUAL_SHARES)
    gradients = []
    for weight in (1.0, 3.0):
        objective = Objective(model, LossConfig(), pretext, PretextConfig(token_weight=weight))
        objective.zero_grad()
        loss = objective(_batch(model, _half_map())).part_pretext
        assert loss is not None
        loss.backward()
        gradients.append([head.weight.grad.clone() for head in (pretext.llava_head, pretext.sam_head)])  # type: ignore[union-attr]
    assert torch.allclose(gradients[1][0], 3.0 * gradients[0][0], rtol=1e-5)
    assert torch.equal(gradients[1][1], gradients[0][1])


def test_cells_read_their_own_pixels(model: GroundedLMM) -> None:
    """Features that hold each cell's class, and heads that read them out, leave no loss."""
    batch = _batch(model, _half_map())
    pretext = PartPretext(8 * NUM_CLASSES, NUM_CLASSES, EQUAL_SHARES)
    pretext.sam_head = torch.nn.Conv2d(NUM_CLASSES, NUM_CLASSES * SUBCELLS**2, kernel_size=1)
    torch.nn.init.zeros_(pretext.upscaled_head.bias)
    pretext.upscaled_head.weight.data = 50 * torch.eye(NUM_CLASSES)[:, :, None, None]
    for head in (pretext.sam_head, pretext.llava_head):
        torch.nn.init.zeros_(head.bias)
        weight = torch.eye(NUM_CLASSES).repeat_interleave(SUBCELLS**2, dim=0)  # all sub-pixels of a cell alike
        head.weight.data = 50 * weight[:, :, None, None]
    classes = {n: torch.tensor([0] * (n // 2) + [2] * (n // 2)) for n in (2, 4, 16)}
    one_hot = {n: torch.eye(NUM_CLASSES)[row].expand(n, n, -1) for n, row in classes.items()}  # [n, n, classes]
    images = ImageFeatures(
        tokens=ImageTokens(one_hot[2].reshape(1, 4, NUM_CLASSES)),
        embeddings=ImageEmbeddings(one_hot[4].permute(2, 0, 1)[None]),
    )
    upscaled = one_hot[16].permute(2, 0, 1)[None]
    assert float(pretext(images, upscaled, batch).detach()) < 1e-6
    mirrored = replace(images, embeddings=ImageEmbeddings(images.embeddings.main.flip(3)))
    assert float(pretext(mirrored, upscaled, batch).detach()) > 10
    assert float(pretext(images, upscaled.flip(3), batch).detach()) > 10


def test_losses_and_gradients_equal_those_of_convolutions(model: GroundedLMM) -> None:
    """The plain form: 1 x 1 convolution, pixel shuffle, cross-entropy over channels."""
    torch.manual_seed(0)
    pretext = PartPretext(model.prompt_dim, 32, EQUAL_SHARES)
    part_map = np.random.default_rng(0).integers(0, NUM_CLASSES, (24, 24))
    batch = _batch(model, part_map)
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    upscaled = torch.randn(1, model.prompt_dim // 8, 16, 16)
    tokens = images.tokens.values.transpose(1, 2).unflatten(2, (2, 2))
    pixels = torch.nn.functional.conv2d(
        upscaled[..., ::2, ::2], pretext.upscaled_head.weight, pretext.upscaled_head.bias
    )
    expected = torch.nn.functional.cross_entropy(pixels, batch.part_maps[..., ::2, ::2])
    for head, features, step in ((pretext.sam_head, images.embeddings.main, 2), (pretext.llava_head, tokens, 4)):
        fine = torch.nn.functional.pixel_shuffle(head(features), SUBCELLS)
        expected = expected + torch.nn.functional.cross_entropy(
            fine, batch.part_maps[:, step // 2 :: step, step // 2 :: step]
        )
    found = pretext(images, upscaled, batch)
    torch.testing.assert_close(found, expected)
    heads = (pretext.sam_head, pretext.upscaled_head, pretext.llava_head)
    leaves = [*(p for head in heads for p in head.parameters()), model.sam.image_encoder.pos_embed]
    for one, other in zip(
        *(torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_images_without_maps_give_zero_and_others_are_refused(model: GroundedLMM) -> None:
    pretext = PartPretext(model.prompt_dim, 32, EQUAL_SHARES)
    batch = _batch(model, None)
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    assert float(pretext(images, _upscaled(model), batch)) == 0.0
    with pytest.raises(ValueError, match="square images"):
        pretext(images, _upscaled(model), _batch(model, np.zeros((24, 30), dtype=np.int64), width=30))


def test_the_warm_up_decodes_no_phrase_and_trains_all_else(model: GroundedLMM) -> None:
    set_trainable(model, FULL)
    pretext = PartPretext(model.prompt_dim, 32, EQUAL_SHARES)
    objective = Objective(model, LossConfig(kl=0.0), pretext, PretextConfig(weight=2.0))
    batch = _batch(model, _half_map(), num_phrases=2)
    assert len(batch.spans) == 2
    result = objective(batch, is_warmup=True)
    terms = result.terms
    assert terms.bio is not None
    assert result.part_pretext is not None
    assert float(terms.mask_overlap) == float(terms.mask_bce) == 0
    expected = float((terms.language + 2 * terms.bio + 2 * result.part_pretext).detach())
    assert float(result.total.detach()) == pytest.approx(expected)
    result.total.backward()

    def is_moved(module: torch.nn.Module) -> bool:
        return any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in module.parameters())

    assert model.feedback is not None
    assert model.tagger is not None
    trained = (model.llava, model.tagger, model.sam.image_encoder, pretext.sam_head)
    idle = (model.query_projection, model.feedback, model.sam.mask_decoder.transformer, pretext.part_queries)
    assert [is_moved(module) for module in trained] == [True] * 4
    assert [is_moved(module) for module in idle] == [False] * 4
    objective(batch).total.backward()
    assert [is_moved(module) for module in idle] == [True] * 3 + [False]


def test_classifiers_start_at_the_shares_of_the_classes(model: GroundedLMM) -> None:
    """With weights of zero the loss is the cross-entropy of the shares (counts + 1) on the map's own classes."""
    pretext = PartPretext(model.prompt_dim, 32, (6 * 24 - 1, 0, 3 * 24 - 1))
    for head in (pretext.sam_head, pretext.upscaled_head, pretext.llava_head):
        torch.nn.init.zeros_(head.weight)
    total = 9 * 24 + 1
    expected = -(math.log(6 * 24 / total) + math.log(3 * 24 / total)) / 2  # half the pixels are 0, half are 2
    batch = _batch(model, _half_map())
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    assert float(pretext(images, _upscaled(model), batch).detach()) == pytest.approx(3 * expected, rel=1e-5)


def test_queries_ask_for_parts_that_are_there_and_large_enough() -> None:
    torch.manual_seed(0)
    pretext = PartPretext(16, 32, (1,) * 5)
    maps = torch.zeros(3, 20, 20, dtype=torch.long)
    maps[0, :10], maps[0, 10:, :10], maps[0, 19, 19] = 1, 3, 4  # class 4 has exactly 1 / 400 of the grid
    maps[1, 0, :3] = 2
    maps[1, 10:] = IGNORE_INDEX
    asked = pretext.draw_queries(maps, per_image=4)
    pairs = zip(asked.image, asked.targets, strict=True)
    found = {(int(image), tuple(target.nonzero()[0].tolist())) for image, target in pairs}
    assert found == {(0, (0, 0)), (0, (10, 0)), (0, (19, 19)), (1, (0, 0))}  # the third image shows no part
    by_image = {int(image): k for k, image in enumerate(asked.image)}
    assert torch.equal(asked.targets[by_image[1]], (maps[1] == 2).float())
    assert torch.equal(asked.queries[by_image[1]], pretext.part_queries.weight[2])
    assert torch.equal(asked.is_counted[by_image[1]], (maps[1] != IGNORE_INDEX).float())

    fewer = [frozenset(map(int, pretext.draw_queries(maps[:1], 2).targets.sum((1, 2)))) for _ in range(30)]
    assert all(len(areas) == 2 for areas in fewer)  # 200, 100 and 1 pixels: the areas tell the parts apart
    assert set(fewer) == {frozenset({200, 100}), frozenset({200, 1}), frozenset({100, 1})}


def test_queries_train_the_decoder_and_count_as_masks_do(model: GroundedLMM) -> None:
    set_trainable(model, FULL)
    losses = LossConfig(kl=0.0, mask_overlap=8.0, mask_bce=5.0)
    pretext = PartPretext(model.prompt_dim, 32, EQUAL_SHARES)
    plain, asking = (
        Objective(model, losses, pretext, PretextConfig(queries_per_image=count, query_weight=0.5)) for count in (0, 2)
    )
    batch = _batch(model, _half_map())
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    target = batch.part_maps == 2  # the map's only part
    query = pretext.part_queries.weight[2:3]
    logits = model.sam.decode_masks(images.embeddings, query, None, model.sam.dense_position())
    overlap, bce = losses_by_mask(sum_pixels(logits, target, None), losses)
    masks = 8 * overlap + 5 * bce
    found = asking(batch, is_warmup=True)
    without = plain(batch, is_warmup=True)
    assert found.part_pretext is not None
    assert without.part_pretext is not None
    torch.testing.assert_close(found.part_pretext, without.part_pretext + 0.5 * masks[0])
    torch.testing.assert_close(asking(batch).part_pretext, without.part_pretext)  # after the warm-up
    found.total.backward()
    assert pretext.part_queries.weight.grad is not None
    assert pretext.part_queries.weight.grad.abs().sum(1).gt(0).tolist() == [False, False, True]
    decoder = model.sam.mask_decoder.transformer.parameters()
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in decoder)

    empty = _batch(model, np.zeros((24, 24), dtype=np.int64))
    pretexts = [objective(empty, is_warmup=True).part_pretext for objective in (plain, asking)]
    torch.testing.assert_close(*pretexts)


def _thirds() -> np.ndarray:
    """Classes 0, 1 and 2 in eight columns each."""
    return np.repeat(np.arange(3), 8)[None].repeat(24, axis=0)


def test_a_span_shows_the_class_of_more_than_half_of_its_mask(model: GroundedLMM) -> None:
    columns = np.arange(24)[None].repeat(24, axis=0)
    # On the grid of 16: 3 columns of class 1 and 5 of class 2; 5 of each; background alone.
    shown = (columns >= 12, columns >= 9, columns < 8)
    batch = _batch(model, _thirds(), num_phrases=3, shown=shown)
    assert span_classes(batch, NUM_CLASSES).tolist() == [2, IGNORE_INDEX, IGNORE_INDEX]
    assert span_classes(_batch(model, None, num_phrases=1), NUM_CLASSES).tolist() == [IGNORE_INDEX]
    assert span_classes(_batch(model, _thirds()), NUM_CLASSES).tolist() == []


def test_phrases_are_drawn_to_the_queries_of_their_classes(model: GroundedLMM) -> None:
    columns = np.arange(24)[None].repeat(24, axis=0)
    pretext = PartPretext(model.prompt_dim, 32, EQUAL_SHARES)
    batch = _batch(model, _thirds(), num_phrases=2, shown=(columns >= 16, columns >= 9))
    queries = torch.zeros(2, model.prompt_dim, requires_grad=True)
    loss = pretext.phrase_loss(queries, batch)
    target = pretext.part_queries.weight[2].detach()
    assert float(loss.detach()) == pytest.approx(float(target.square().mean()))
    loss.backward()
    assert queries.grad is not None
    torch.testing.assert_close(queries.grad, torch.stack([-2 * target / len(target), torch.zeros_like(target)]))
    assert pretext.part_queries.weight.grad is None
    assert float(pretext.phrase_loss(queries, _batch(model, None, num_phrases=2))) == 0


def test_phrase_weight_counts_in_the_warm_up_alone(model: GroundedLMM) -> None:
    set_trainable(model, FULL)
    pretext = PartPretext(model.prompt_dim, 32, EQUAL_SHARES)
    batch = _batch(model, _half_map(), num_phrases=2)
    found = {}
    for weight in (0.0, 3.0):
        config = PretextConfig(queries_per_image=2, phrase_weight=weight)
        objective = Objective(model, LossConfig(kl=0.0), pretext, config)
        found[weight] = objective(batch, is_warmup=True), objective(batch)
    (without, later), (weighted, later_weighted) = found[0.0], found[3.0]
    assert weighted.part_pretext is not None
    assert without.part_pretext is not None
    output = model(batch, with_teacher=False)
    distance = pretext.phrase_loss(model.query_projection(output.hidden_states, batch.spans), batch)
    assert float(distance.detach()) > 0
    torch.testing.assert_close(weighted.part_pretext, without.part_pretext + 3 * distance)
    torch.testing.assert_close(later.part_pretext, later_weighted.part_pretext)
    weighted.total.backward()
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.query_projection.parameters())
