"""Span tagger and query projection."""

import pytest
import torch
from torch import Tensor

from plum.models.heads.query_projection import QueryProjection, gather_span_tokens, mean_over_tokens
from plum.models.heads.span_tagger import SpanTagger, predict_classes
from plum.structures import TEXT_ONLY, ConversationImages, SpanBounds

WIDTH = 16


def make_tagger(context: str, order: str = "mlp_first") -> SpanTagger:
    torch.manual_seed(0)
    return SpanTagger(
        WIDTH,
        context,  # type: ignore[arg-type]
        num_heads=2,
        feedforward_dim=32,
        dropout=0.1,
        order=order,  # type: ignore[arg-type]
    )


def random_states() -> Tensor:
    return torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))


def reach(context: str) -> list[int]:
    """Positions whose logits change when the state at position 3 changes."""
    tagger = make_tagger(context).eval()
    states = random_states()
    changed = states.clone()
    changed[:, 3] += 1.0
    mask = torch.ones(2, 7, dtype=torch.long)
    with torch.no_grad():
        difference = (tagger(states, mask) - tagger(changed, mask)).abs().amax((0, 2))
    return [position for position in range(7) if float(difference[position]) > 1e-6]


def test_context_switch() -> None:
    assert reach("bidirectional") == [0, 1, 2, 3, 4, 5, 6]
    assert reach("causal") == [3, 4, 5, 6]
    assert reach("none") == [3]


def test_training_and_evaluation_compute_the_same_without_dropout() -> None:
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    for context in ("bidirectional", "causal"):
        tagger = make_tagger(context)
        for module in tagger.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        tagger.block.self_attn.dropout = 0.0
        trained = tagger.train()(random_states(), mask)
        with torch.no_grad():
            evaluated = tagger.eval()(random_states(), mask)
        is_real = mask.bool()
        torch.testing.assert_close(trained[is_real], evaluated[is_real], atol=1e-5, rtol=1e-5)


def test_both_orders_equal_torchs_modules() -> None:
    """Paper: MLP (D, D, D), block, D -> 3. Authors' code: block, MLP (D, D, 3)."""
    states, mask = random_states(), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    for order, widths in (("mlp_first", (WIDTH, WIDTH)), ("block_first", (WIDTH, 3))):
        tagger = make_tagger("bidirectional", order).eval()
        mlp = torch.nn.Sequential(torch.nn.Linear(WIDTH, widths[0]), torch.nn.ReLU(), torch.nn.Linear(*widths)).eval()
        block = torch.nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.1).eval()  # sequence first, as theirs
        last = torch.nn.Linear(WIDTH, 3)
        assert tagger.block is not None
        block.load_state_dict(tagger.block.state_dict())
        last.load_state_dict(tagger.classifier.state_dict())
        names = ("0.weight", "0.bias", "2.weight", "2.bias")
        third = tagger.mlp.state_dict() if order == "mlp_first" else _renamed(tagger.classifier.state_dict())
        mlp.load_state_dict({name: (tagger.mlp.state_dict() | third)[name] for name in names})

        def attend(inputs: Tensor, block: torch.nn.Module = block) -> Tensor:
            return block(inputs.transpose(0, 1), src_key_padding_mask=mask == 0).transpose(0, 1)

        with torch.no_grad():
            expected = last(attend(mlp(states))) if order == "mlp_first" else mlp(attend(states))
            found = tagger(states, mask)
        is_real = mask.bool()
        torch.testing.assert_close(found[is_real], expected[is_real], atol=1e-5, rtol=1e-5)


def _renamed(classifier: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"2.{name}": tensor for name, tensor in classifier.items()}


@pytest.mark.parametrize("order", ["mlp_first", "block_first"])
@pytest.mark.parametrize("context", ["bidirectional", "causal", "none"])
def test_tokens_that_are_read_have_the_logits_and_gradients_of_all(context: str, order: str) -> None:
    tagger = make_tagger(context, order).eval()
    states = random_states().requires_grad_()
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    for chosen in ([[0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0]], [[0] * 7, [1] * 5 + [0] * 2], mask.tolist()):
        is_read = torch.tensor(chosen).bool()
        everywhere, some = tagger(states, mask)[is_read], tagger(states, mask, is_read)
        torch.testing.assert_close(some, everywhere, atol=1e-6, rtol=1e-5)
        inputs = [states, *tagger.parameters()]
        weights = torch.randn(some.shape, generator=torch.Generator().manual_seed(1))
        found = [torch.autograd.grad((logits * weights).sum(), inputs) for logits in (some, everywhere)]
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("which", ["self_attn", "dropout1", "dropout", "dropout2"])
def test_every_dropout_of_the_block_is_there_for_tokens_that_are_read(which: str) -> None:
    """With one of them at probability 1 nothing is random: its part of the block is gone, in both ways alike."""
    tagger = make_tagger("bidirectional").train()
    assert tagger.block is not None
    for name in ("dropout1", "dropout", "dropout2"):
        getattr(tagger.block, name).p = float(name == which)
    tagger.block.self_attn.dropout = float(which == "self_attn")
    mask = torch.ones(2, 7, dtype=torch.long)
    is_read = torch.tensor([[0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0]]).bool()
    dropped = tagger(random_states(), mask, is_read)
    torch.testing.assert_close(dropped, tagger(random_states(), mask)[is_read], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(dropped, tagger.eval()(random_states(), mask, is_read), atol=1e-3)


@pytest.mark.parametrize("context", ["bidirectional", "causal", "none"])
def test_nothing_read_gives_nothing(context: str) -> None:
    tagger, mask = make_tagger(context), torch.ones(2, 7, dtype=torch.long)
    assert tagger(random_states(), mask, torch.zeros(2, 7, dtype=torch.bool)).shape == (0, 3)


def test_none_has_no_block() -> None:
    assert make_tagger("none").block is None
    assert not any(name.startswith("block") for name in make_tagger("none").state_dict())


SPANS = SpanBounds(*torch.tensor([[0, 1, 1], [1, 0, 5], [2, 3, 7], [0, 1, 1]]))


def test_span_tokens_and_their_mean() -> None:
    """Conversation 1 holds 10..16; its span 0..3 has mean 11, its span 5..7 mean 15.5; conversation 0 holds 0..6."""
    states = torch.stack([torch.arange(7.0), torch.arange(10.0, 17.0)])[..., None]
    tokens, is_token = gather_span_tokens(states, SPANS)
    assert tokens[..., 0].tolist() == [[1, 1, 1], [10, 11, 12], [15, 16, 16]]
    assert is_token.tolist() == [[True, False, False], [True, True, True], [True, True, False]]
    assert mean_over_tokens(tokens, is_token)[:, 0].tolist() == [1.0, 11.0, 15.5]


def test_query_is_the_mean_of_projected_tokens() -> None:
    torch.manual_seed(0)
    project = QueryProjection(WIDTH, 8)
    states = random_states()
    spans = (states[0, 1:2], states[1, 0:3], states[1, 5:7])
    expected = torch.stack([project.layers(span).mean(0) for span in spans])
    torch.testing.assert_close(project(states, SPANS), expected)


def test_no_spans_give_no_queries() -> None:
    none = SpanBounds.none()
    assert QueryProjection(WIDTH, 8)(random_states(), none).shape == (0, 8)


def make_attentive(order: str = "mlp_first", context: str = "bidirectional", dropout: float = 0.0) -> SpanTagger:
    torch.manual_seed(0)
    return SpanTagger(
        WIDTH,
        context,  # type: ignore[arg-type]
        num_heads=2,
        feedforward_dim=32,
        dropout=dropout,
        order=order,  # type: ignore[arg-type]
        use_cross_attention=True,
    )


SHOWN = ConversationImages(torch.tensor([[1], [TEXT_ONLY], [0], [1]]), (5, 5))
"""Four conversations about two images, one of them without any."""


def attentive_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """States [4, 7, D], image tokens [2, 5, D], attention mask."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0], [1] * 7])
    return torch.randn(4, 7, WIDTH, generator=generator), torch.randn(2, 5, WIDTH, generator=generator), mask


@pytest.mark.parametrize("order", ["mlp_first", "block_first"])
@pytest.mark.parametrize("context", ["bidirectional", "none"])
def test_cross_attention_by_hand(order: str, context: str) -> None:
    """softmax(q k / sqrt d) v of two heads, output projection, residual, norm; after the block, before what follows."""
    tagger = make_attentive(order, context).eval()
    states, image_tokens, mask = attentive_inputs()
    cross = tagger.cross_attention
    assert cross is not None
    with torch.no_grad():
        for parameter in cross.norm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        inner = states if order == "block_first" else tagger.mlp(states)
        if tagger.block is not None:
            inner = tagger.block(inner, src_key_padding_mask=mask == 0)
        attention = cross.attention
        expected = torch.zeros_like(inner)
        for row, image in enumerate(SHOWN.rows[:, 0].tolist()):
            attended = torch.zeros(7, WIDTH)
            if image != TEXT_ONLY:
                weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
                query, key, value = (
                    source @ weight.T + bias
                    for source, weight, bias in zip(
                        (inner[row], image_tokens[image], image_tokens[image]), weights, biases, strict=True
                    )
                )
                half = WIDTH // 2
                heads = [
                    ((query[:, one] @ key[:, one].T) / half**0.5).softmax(-1) @ value[:, one]
                    for one in (slice(0, half), slice(half, WIDTH))
                ]
                attended = torch.cat(heads, 1) @ attention.out_proj.weight.T + attention.out_proj.bias
            total = inner[row] + attended
            centred = total - total.mean(-1, keepdim=True)
            normed = centred / (total.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            expected[row] = normed * cross.norm.weight + cross.norm.bias
        expected = tagger.classifier(tagger.mlp(expected) if order == "block_first" else expected)
        found = tagger(states, mask, None, SHOWN, image_tokens)
    is_real = mask.bool()
    torch.testing.assert_close(found[is_real], expected[is_real], atol=1e-5, rtol=1e-5)
    moved = tagger(states, mask, None, SHOWN, image_tokens + torch.randn(5, WIDTH))
    assert (found - moved).abs().amax((1, 2)).gt(1e-3).tolist() == [True, False, True, True]


@pytest.mark.parametrize("order", ["mlp_first", "block_first"])
@pytest.mark.parametrize("context", ["bidirectional", "causal", "none"])
def test_cross_attention_of_tokens_that_are_read_equals_that_of_all(context: str, order: str) -> None:
    tagger = make_attentive(order, context)
    states, image_tokens, mask = attentive_inputs()
    states.requires_grad_()
    image_tokens.requires_grad_()
    is_read = torch.tensor([[0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0], [0] * 7, [0, 0, 1, 0, 0, 0, 0]]).bool()
    images = (SHOWN, image_tokens)
    everywhere, some = tagger(states, mask, None, *images)[is_read], tagger(states, mask, is_read, *images)
    torch.testing.assert_close(some, everywhere, atol=1e-6, rtol=1e-5)
    inputs = [states, image_tokens, *tagger.parameters()]
    weights = torch.randn(some.shape, generator=torch.Generator().manual_seed(1))
    found = [torch.autograd.grad((logits * weights).sum(), inputs) for logits in (some, everywhere)]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_cross_attention_without_tokens_or_images() -> None:
    tagger = make_attentive(dropout=0.1)
    states, image_tokens, mask = attentive_inputs()
    nothing = torch.zeros(4, 7, dtype=torch.bool)
    assert tagger(states, mask, nothing, SHOWN, image_tokens).shape == (0, 3)
    text_only = ConversationImages.no_image(4, states.device)
    logits = tagger(states, mask, mask.bool(), text_only, image_tokens[:0])
    assert bool(logits.isfinite().all())
    assert tagger.eval().cross_attention is not None
    torch.nn.init.normal_(tagger.cross_attention.norm.weight)  # the block's states are normalised already
    alone, among = (tagger(states, mask, None, shown, image_tokens)[1] for shown in (text_only, SHOWN))
    torch.testing.assert_close(alone, among)
    with pytest.raises(AssertionError, match="cross-attention needs the images of each conversation"):
        tagger(states, mask)


@pytest.mark.parametrize("which", ["attention", "dropout"])
def test_dropout_of_cross_attention(which: str) -> None:
    """At probability 1 what the image adds is gone: all images give the same."""
    tagger = make_attentive().train()
    cross = tagger.cross_attention
    assert cross is not None
    if which == "attention":
        cross.attention.dropout = 1.0
        torch.nn.init.normal_(cross.attention.in_proj_bias)
    else:
        cross.dropout.p = 1.0
    states, image_tokens, mask = attentive_inputs()
    first, second = (tagger(states, mask, None, SHOWN, tokens) for tokens in (image_tokens, -image_tokens))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, tagger.eval()(states, mask, None, SHOWN, image_tokens), atol=1e-3)


def test_the_configured_dropout_and_heads_reach_cross_attention() -> None:
    cross = make_attentive(dropout=0.25).cross_attention
    assert cross is not None
    assert (cross.attention.dropout, cross.dropout.p, cross.attention.num_heads) == (0.25, 0.25, 2)


def test_the_binary_scheme_has_two_classes() -> None:
    tagger = SpanTagger(WIDTH, "none", num_heads=2, feedforward_dim=32, dropout=0.0, scheme="binary", use_crf=True)
    assert tagger(random_states(), torch.ones(2, 7)).shape == (2, 7, 2)
    assert tagger.crf is not None
    assert [tuple(one.shape) for one in tagger.crf.parameters()] == [(2,), (2, 2), (2,)]


def test_predicted_classes_without_a_crf() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    predicted = predict_classes(logits, None)
    assert predicted.classes.tolist() == [1, 0]
    torch.testing.assert_close(predicted.probabilities, logits.softmax(-1).max(-1).values)
