"""Span tagger and query projection."""

import pytest
import torch
from torch import Tensor

from plum.models.heads.query_projection import QueryProjection, gather_span_tokens, mean_over_tokens
from plum.models.heads.span_tagger import SpanTagger
from plum.structures import SpanBounds

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


SPANS = SpanBounds(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 5]), torch.tensor([2, 3, 7]))


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
    none = SpanBounds(*(torch.zeros(0, dtype=torch.long),) * 3)
    assert QueryProjection(WIDTH, 8)(random_states(), none).shape == (0, 8)
