"""Feedback loop: what it is at the start, and what it may not depend on."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from plum.models.heads.mask_feedback import FeedbackContext, FilmMaskEncoder, MaskFeedback, TemporalMaskPooler
from plum.models.segmenters.sam_modules import PromptEncoder

ROWS, WIDTH, GRID, HEADS = 3, 16, (4, 4), 4


def make_prompt_encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(WIDTH, GRID, (32, 32), 16)


def make_feedback(
    use_order_embedding: bool = False,
    detach: bool = False,
    position_in: Literal["keys", "keys_and_values"] = "keys",
) -> MaskFeedback:
    torch.manual_seed(1)
    pooler = TemporalMaskPooler(WIDTH, GRID, HEADS, use_order_embedding, max_order=3, position_in=position_in)
    return MaskFeedback(FilmMaskEncoder(WIDTH, 16), pooler, detach)


def random_masks(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [10 * torch.randn(ROWS, 16, 16, generator=generator) for _ in range(count)]


def random_queries() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3))


def run(feedback: MaskFeedback, masks: list[Tensor], orders: list[int] | None = None) -> Tensor:
    prompt_encoder = make_prompt_encoder()
    context = feedback.prepare(prompt_encoder.get_dense_pe())
    numbered = zip(orders or range(len(masks)), masks, strict=True)
    return feedback.pool(
        [feedback.encode(mask, random_queries(), i, prompt_encoder.mask_downscaling, context) for i, mask in numbered]
    )


def test_one_earlier_mask_is_sams_own_encoding_at_the_start() -> None:
    mask = random_masks(1)[0]
    expected = make_prompt_encoder().mask_downscaling(mask[:, None])
    torch.testing.assert_close(run(make_feedback(), [mask]), expected, atol=1e-5, rtol=1e-5)


def test_how_the_pooler_starts() -> None:
    """Small random location queries and order embeddings (std .02), no bias, values passed on unchanged."""
    torch.manual_seed(0)
    pooler = TemporalMaskPooler(64, (16, 16), HEADS, use_order_embedding=True, max_order=64)
    assert pooler.order_embedding is not None
    for drawn in (pooler.location_queries, pooler.order_embedding.weight):
        assert float(drawn.detach().std()) == pytest.approx(0.02, rel=0.05)
    layers = (pooler.query_projection, pooler.key_projection, pooler.value_projection, pooler.output_projection)
    assert all(not layer.bias.any() for layer in layers)
    assert all(torch.equal(layer.weight, torch.eye(64)) for layer in layers[2:])
    assert all(not torch.equal(layer.weight, torch.eye(64)) for layer in layers[:2])


def test_film_scales_and_shifts_each_channel() -> None:
    """With identity convolutions the first FiLM layer's output is read directly: norm(x) * (1 + scale) + shift."""
    encoder = FilmMaskEncoder(WIDTH, 4)
    identity = nn.Identity()
    downscaling = nn.Sequential(identity, identity, identity, identity, identity, identity, identity)
    with torch.no_grad():
        encoder.modulations[0].bias.copy_(torch.tensor([0.5, 2.0]))  # scale 0.5, shift 2
    # Constant 4: first layer 4 * 1.5 + 2 = 8; second layer (zero) leaves 8 in each of its 4 channels.
    output = encoder(torch.full((ROWS, 2, 2), 4.0), random_queries(), downscaling)
    torch.testing.assert_close(output, torch.full((ROWS, 4, 2, 2), 8.0))


@pytest.mark.parametrize("position_in", ["keys", "keys_and_values"])
def test_attention_equals_multihead_attention(position_in: Literal["keys", "keys_and_values"]) -> None:
    """Same parameters in torch's own module, location by location; the authors' code has the position in the values."""
    feedback = make_feedback(position_in=position_in)
    pooler = feedback.pooler
    with torch.no_grad():
        for parameter in pooler.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    inward = (pooler.query_projection, pooler.key_projection, pooler.value_projection)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([layer.weight for layer in inward]))
        reference.in_proj_bias.copy_(torch.cat([layer.bias for layer in inward]))
    reference.out_proj.load_state_dict(pooler.output_projection.state_dict())
    prompt_encoder = make_prompt_encoder()
    position = prompt_encoder.get_dense_pe()
    maps = torch.stack([prompt_encoder.mask_downscaling(mask[:, None]) for mask in random_masks(3)])  # [s, R, C, h, w]
    for row in range(ROWS):
        in_values = maps[:, row] + position if position_in == "keys_and_values" else maps[:, row]
        values = in_values.flatten(2).permute(2, 0, 1)  # [h * w, s, C]
        keys = (maps[:, row] + position).flatten(2).permute(2, 0, 1)
        expected, _ = reference(pooler.location_queries, keys, values)
        pooled = run(feedback, random_masks(3))[row].flatten(1).T
        torch.testing.assert_close(pooled, expected[:, 0], atol=1e-5, rtol=1e-5)


def test_number_of_parameters_is_that_of_multihead_attention_and_queries() -> None:
    reference = nn.MultiheadAttention(WIDTH, HEADS)
    expected = sum(p.numel() for p in reference.parameters()) + GRID[0] * GRID[1] * WIDTH
    assert sum(p.numel() for p in make_feedback().pooler.parameters()) == expected


def test_order_is_invisible_without_an_order_embedding() -> None:
    masks = random_masks(3)
    torch.testing.assert_close(run(make_feedback(), masks), run(make_feedback(), masks[::-1]), atol=1e-5, rtol=1e-5)


def test_order_embedding_tells_order_and_shares_its_last_entry() -> None:
    masks = random_masks(2)
    feedback = make_feedback(use_order_embedding=True)
    with torch.no_grad():
        feedback.pooler.order_embedding.weight.mul_(200)
        feedback.pooler.location_queries.mul_(200)
    assert float((run(feedback, masks, [0, 1]) - run(feedback, masks, [1, 0])).detach().abs().max()) > 1e-3
    torch.testing.assert_close(run(feedback, masks, [0, 2]), run(feedback, masks, [0, 9]))


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_reach_earlier_masks_unless_detached(detach: bool) -> None:
    mask = random_masks(1)[0].requires_grad_()
    run(make_feedback(detach=detach), [mask]).square().sum().backward()
    assert (mask.grad is None) == detach


def test_queries_are_projected_with_the_head_scale() -> None:
    pooler = make_feedback().pooler
    projected = pooler.project_queries()
    expected = pooler.query_projection(pooler.location_queries)[3, 0].view(HEADS, -1) / 2.0  # sqrt(16 / 4) = 2
    torch.testing.assert_close(projected[3], expected)


def test_rows_can_be_dropped() -> None:
    feedback = make_feedback()
    prompt_encoder = make_prompt_encoder()
    context = feedback.prepare(prompt_encoder.get_dense_pe())
    assert isinstance(context, FeedbackContext)
    encoded = feedback.encode(random_masks(1)[0], random_queries(), 0, prompt_encoder.mask_downscaling, context)
    torch.testing.assert_close(feedback.pool([encoded.take_first(2)]), feedback.pool([encoded])[:2])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"feedback\.num_heads: 3"):
        TemporalMaskPooler(WIDTH, GRID, 3, use_order_embedding=False, max_order=1)
