"""Hand-worked goldens, limits and switches of every loss."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from plum.config import SpecialTokensConfig
from plum.losses import losses
from plum.losses.losses import (
    bio_accuracy,
    bio_loss,
    compute_losses,
    crf_loss,
    language_loss,
    span_kl_loss,
    weighted_sum,
    with_tags_in_scope,
)
from plum.models.heads.crf import number_runs
from plum.models.tiny import tiny_batch, tiny_model_config
from plum.structures import (
    IGNORE_INDEX,
    TEXT_ONLY,
    Batch,
    GroundedOutput,
    ImageFeatures,
    ImageTokens,
    LossTerms,
    SpanBounds,
    TagChain,
)
from plum.train_config import LossConfig

LOG_3 = math.log(3.0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_many_logits_are_taken_in_pieces(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 50, (23,), generator=generator)
    values = (3 * torch.randn(23, 50, generator=generator)).to(dtype)
    values[:, 7] = float("-inf")  # a token that is never text
    labels[labels == 7] = 8

    def run() -> tuple[Tensor, Tensor, int]:
        logits = values.clone().requires_grad_()
        loss, kept = language_loss(logits, labels), 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes if tensor.dtype == torch.float32 and tensor.numel() >= 50 else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            language_loss(logits, labels)
        loss.backward()
        assert logits.grad is not None
        return loss.detach(), logits.grad, kept

    whole, gradient, kept_whole = run()
    monkeypatch.setattr(losses, "MAX_WHOLE_LOGITS", 23 * 50 - 1)
    monkeypatch.setattr(losses, "LOGITS_OF_A_PIECE", 4 * 50)
    pieces, gradient_of_pieces, kept = run()
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient_of_pieces, gradient, rtol=tolerance, atol=1e-8)
    assert kept_whole >= 23 * 50 * 4
    assert kept == (0 if dtype == torch.bfloat16 else 23 * 50 * 4), "only the logits themselves"


def test_language_golden() -> None:
    # Uniform over 4 tokens: ln 4; logits (ln 3, 0) of 2: -ln 3/4.
    assert float(language_loss(torch.zeros(2, 4), torch.tensor([1, 3]))) == pytest.approx(math.log(4))
    assert float(language_loss(torch.tensor([[LOG_3, 0.0]]), torch.tensor([0]))) == pytest.approx(-math.log(0.75))
    assert float(language_loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))) == 0.0


def test_bio_golden() -> None:
    # Logits (ln 2, 0, 0): p = (1/2, 1/4, 1/4). Tags O, B.
    # (.1 x ln 2 + 1 x ln 4) / (.1 + 1) = (0.069315 + 1.386294) / 1.1 = 1.323281.
    logits = torch.tensor([math.log(2.0), 0.0, 0.0]).expand(2, 3)
    assert float(bio_loss(logits, torch.tensor([0, 1]), (0.1, 1.0, 1.0))) == pytest.approx(1.323281, abs=1e-5)


def test_the_default_class_weights_are_the_authors() -> None:
    """O counts a tenth of B and I (the authors' code; no configuration file sets the weights): the value above."""
    logits = torch.tensor([math.log(2.0), 0.0, 0.0]).expand(2, 3)
    default = LossConfig().bio_class_weights
    assert float(bio_loss(logits, torch.tensor([0, 1]), default)) == pytest.approx(1.323281, abs=1e-5)
    # Tags O, I: the same weights for I as for B.
    assert float(bio_loss(logits, torch.tensor([0, 2]), default)) == pytest.approx(1.323281, abs=1e-5)


def test_bio_without_tagged_tokens_is_zero_with_finite_gradient() -> None:
    states = torch.zeros(5, 3, requires_grad=True)
    logits = states[:0]
    loss = bio_loss(logits, torch.zeros(0, dtype=torch.long), (0.1, 1.0, 1.0))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert states.grad is not None
    assert not states.grad.any()


def test_bio_accuracy_counts_by_true_class() -> None:
    # Predictions O B I; truth O B B: O 1 of 1, B 1 of 2, I none.
    hits, totals = bio_accuracy(torch.eye(3), torch.tensor([0, 1, 1]))
    assert hits.tolist() == [1, 1, 0]
    assert totals.tolist() == [1, 2, 0]


def test_bio_accuracy_reads_the_classes_of_a_token() -> None:
    # Two tokens, three classes: predictions I and O, truth I and B.
    hits, totals = bio_accuracy(torch.tensor([[0.0, 1.0, 2.0], [3.0, 2.0, 1.0]]), torch.tensor([2, 1]))
    assert hits.tolist() == [0, 0, 1]
    assert totals.tolist() == [0, 1, 1]


def test_every_term_is_multiplied_by_its_weight() -> None:
    terms = LossTerms(*(torch.tensor(value) for value in (2.0, 3.0, 5.0, 7.0, 11.0)))
    total = {"language": 2.0, "bio": 3.0, "mask_overlap": 5.0, "mask_bce": 7.0, "kl": 11.0}
    assert all(float(getattr(terms, name)) == value for name, value in total.items())
    # 1 x 2 + 2 x 3 + 8 x 5 + 2 x 7 + .1 x 11
    assert float(weighted_sum(terms, LossConfig())) == pytest.approx(63.1)


SPANS = SpanBounds(*torch.tensor([[0, 0], [0, 2], [2, 3], [0, 0]]))


def test_kl_golden_of_every_reduction() -> None:
    # Differences of D = 2: tokens (2, 0) and (0, 4), then token (3, 3), then one outside of the spans.
    # Pooled: (1, 2), squared norm 5, and (3, 3), 18. sum: (5 + 18) / 2 spans / 2 = 5.75; mean: divided by D, 2.875.
    # authors: not pooled, (4 + 0 + 0 + 16) / 4 = 5 and (9 + 9) / 2 = 9; (5 + 9) / 2 spans / 2 = 3.5.
    student = torch.tensor([[[2.0, 0.0], [0.0, 4.0], [3.0, 3.0], [9.0, 9.0]]])
    teacher = torch.zeros_like(student)
    assert float(span_kl_loss(student, teacher, SPANS, 1.0, "sum")) == pytest.approx(5.75)
    assert float(span_kl_loss(student, teacher, SPANS, 1.0, "mean")) == pytest.approx(2.875)
    assert float(span_kl_loss(student, teacher, SPANS, 1.0, "authors")) == pytest.approx(3.5)
    # sigma 2: a quarter.
    assert float(span_kl_loss(student, teacher, SPANS, 2.0, "sum")) == pytest.approx(1.4375)
    assert float(span_kl_loss(student, teacher, SPANS, 2.0, "authors")) == pytest.approx(0.875)


@pytest.mark.parametrize("reduction", ["mean", "sum", "authors"])
def test_the_configured_reduction_is_the_one_computed(reduction: Literal["mean", "sum", "authors"]) -> None:
    batch = make_batch((2, 1))
    output = make_output(batch)
    assert output.teacher_states is not None
    expected = span_kl_loss(output.hidden_states, output.teacher_states, batch.spans, 1.0, reduction)
    found = compute_losses(output, batch, LossConfig(kl_reduction=reduction)).kl
    assert found is not None
    assert float(found) == float(expected)


def test_the_scope_of_the_bio_loss_golden() -> None:
    """Row 0 has a phrase (O B I in its answer), row 1 a tagged answer without one, row 2 no tagged answer (VQA)."""
    x = IGNORE_INDEX
    tags = torch.tensor([[x, x, 0, 1, 2, x], [x, 0, 0, 0, x, x], [x] * 6])
    batch = replace(make_batch((1, 0, 0)), tags=tags)
    assert with_tags_in_scope(batch, "answer") is batch
    scoped = with_tags_in_scope(batch, "all").tags
    assert scoped.tolist() == [[0, 0, 0, 1, 2, 0], [x] * 6, [x] * 6]
    # Uniform logits but for O, p(O) = 1/2: answer of row 0: (.1 ln 2 + 2 ln 4) / 2.1; all: (.4 ln 2 + 2 ln 4) / 2.4.
    logits = torch.tensor([math.log(2.0), 0.0, 0.0])
    answer, everything = tags[0, 2:5], scoped[scoped != x]
    found = [float(bio_loss(logits.expand(len(one), 3), one, (0.1, 1.0, 1.0))) for one in (answer, everything)]
    assert found == pytest.approx([(0.1 + 4) * math.log(2) / 2.1, (0.4 + 4) * math.log(2) / 2.4])


def test_kl_constrains_span_tokens_alone() -> None:
    student = torch.ones(1, 4, 2, requires_grad=True)
    span_kl_loss(student, torch.zeros(1, 4, 2), SPANS, 1.0, "mean").backward()
    assert student.grad is not None
    assert student.grad[0, :3].all()
    assert not student.grad[0, 3].any()


def test_kl_without_spans_is_zero() -> None:
    none = SpanBounds.none()
    assert float(span_kl_loss(torch.ones(1, 4, 2), torch.zeros(1, 4, 2), none, 1.0, "mean")) == 0.0


def make_batch(spans: tuple[int, ...]) -> Batch:
    config = tiny_model_config(40, SpecialTokensConfig(image=3, pad=0, eos=2))
    return tiny_batch(config, spans, torch.Generator().manual_seed(0))


def make_output(batch: Batch, kl: bool = True) -> GroundedOutput:
    generator = torch.Generator().manual_seed(1)
    num_rows, length = batch.input_ids.shape
    states = torch.randn(num_rows, length, 32, generator=generator)
    return GroundedOutput(
        hidden_states=states,
        token_logits=torch.randn(6, 40, generator=generator),
        token_labels=torch.arange(6),
        tag_logits=torch.randn(int((batch.tags != IGNORE_INDEX).sum()), 3, generator=generator),
        tag_labels=batch.tags[batch.tags != IGNORE_INDEX],
        images=ImageFeatures(ImageTokens(torch.zeros(0)), torch.zeros(0)),
        mask_logits=torch.randn(len(batch.masks), 16, 16, generator=generator),
        teacher_states=torch.zeros_like(states) if kl else None,
    )


def test_nothing_to_supervise_gives_zeros() -> None:
    batch = make_batch((TEXT_ONLY,))
    batch = replace(batch, tags=torch.full_like(batch.tags, IGNORE_INDEX))
    output = replace(make_output(batch), token_logits=torch.zeros(0, 40), token_labels=torch.zeros(0, dtype=torch.long))
    terms = compute_losses(output, batch, LossConfig())
    assert terms.kl is not None
    assert [float(t) for t in (terms.language, terms.bio, terms.mask_overlap, terms.mask_bce, terms.kl)] == [0.0] * 5


def test_terms_are_unweighted_and_weighted_once() -> None:
    batch = make_batch((2, 0))
    output = make_output(batch)
    heavy = LossConfig(language=10, bio=10, kl=10, mask_overlap=10, mask_bce=10)
    assert compute_losses(output, batch, heavy) == compute_losses(output, batch, LossConfig())
    one = [torch.tensor(1.0)] * 4
    # 1 + 2 + 8 + 2 = 13, and .1 with the KL term.
    assert float(weighted_sum(LossTerms(*one), LossConfig())) == 13.0
    assert float(weighted_sum(LossTerms(*one, kl=torch.tensor(1.0)), LossConfig())) == pytest.approx(13.1)


def test_kl_is_off_without_a_teacher() -> None:
    batch = make_batch((2, 0))
    assert compute_losses(make_output(batch, kl=False), batch, LossConfig()).kl is None


def test_bfloat16_inputs_give_float32_losses() -> None:
    batch = make_batch((2, 1))
    output = make_output(batch)
    half = replace(
        output,
        hidden_states=output.hidden_states.bfloat16(),
        token_logits=output.token_logits.bfloat16(),
        tag_logits=output.tag_logits.bfloat16(),
        mask_logits=output.mask_logits.bfloat16(),
        teacher_states=torch.zeros_like(output.hidden_states.bfloat16()),
    )
    terms = compute_losses(half, batch, LossConfig())
    assert terms.kl is not None
    losses = (terms.language, terms.bio, terms.mask_overlap, terms.mask_bce, terms.kl)
    assert {loss.dtype for loss in losses} == {torch.float32}


def test_hinge_golden() -> None:
    # Logits (1, .5, -1), margin 1. True O: max(0, 1 - 1 + .5) = .5, max(0, 1 - 1 - 1) = 0; .5 / 3.
    # True B: max(0, 1 - .5 + 1) = 1.5, max(0, 1 - .5 - 1) = 0; 1.5 / 3.
    # Weighted: (.1 x .5 / 3 + 1 x 1.5 / 3) / 1.1 = .469697.
    logits = torch.tensor([1.0, 0.5, -1.0]).expand(2, 3)
    tags, weights = torch.tensor([0, 1]), (0.1, 1.0, 1.0)
    assert float(bio_loss(logits, tags, weights, "hinge")) == pytest.approx(0.469697, abs=1e-5)
    # Margin 2: O: 1.5 + 0; B: 2.5 + .5; (.1 x 1.5 / 3 + 3 / 3) / 1.1.
    assert float(bio_loss(logits, tags, weights, "hinge", 2.0)) == pytest.approx((0.05 + 1.0) / 1.1, abs=1e-5)
    # Weights alike: torch's own mean.
    expected = torch.nn.MultiMarginLoss()(logits, tags)
    torch.testing.assert_close(bio_loss(logits, tags, (1.0, 1.0, 1.0), "hinge"), expected)


def test_hinge_without_tagged_tokens_is_zero() -> None:
    states = torch.zeros(5, 3, requires_grad=True)
    bio_loss(states[:0], torch.zeros(0, dtype=torch.long), (0.1, 1.0, 1.0), "hinge").backward()
    assert states.grad is not None
    assert not states.grad.any()


@pytest.mark.parametrize("form", ["cross_entropy", "hinge"])
def test_the_binary_loss_merges_b_and_i_and_weighs_them_as_b(form: Literal["cross_entropy", "hinge"]) -> None:
    # p = (2/3, 1/3); O, B, I: cross-entropy (.1 ln 1.5 + 2 x .8 ln 3) / 1.7.
    logits = torch.tensor([math.log(2.0), 0.0]).expand(3, 2)
    tags, weights = torch.tensor([0, 1, 2]), (0.1, 0.8, 7.0)
    expected = (0.1 * math.log(1.5) + 1.6 * math.log(3.0)) / 1.7
    if form == "hinge":  # O: max(0, 1 - ln 2) / 2; B, I: (1 + ln 2) / 2
        expected = (0.1 * (1 - math.log(2)) / 2 + 1.6 * (1 + math.log(2)) / 2) / 1.7
    assert float(bio_loss(logits, tags, weights, form)) == pytest.approx(expected, rel=1e-5)


def test_the_configured_form_and_margin_are_the_ones_computed() -> None:
    batch = make_batch((2, 1))
    output = make_output(batch)
    assert output.tag_logits is not None
    for margin in (0.5, 2.0):
        found = compute_losses(output, batch, LossConfig(bio_form="hinge", bio_margin=margin)).bio
        expected = bio_loss(output.tag_logits, output.tag_labels, (0.1, 1.0, 1.0), "hinge", margin)
        assert found is not None
        assert float(found) == float(expected)


def test_a_chain_gives_the_likelihood_of_the_tags() -> None:
    batch = make_batch((2, 1))
    output = make_output(batch)
    assert output.tag_logits is not None
    runs = number_runs(batch.tags != IGNORE_INDEX)[batch.tags != IGNORE_INDEX]
    chain = TagChain(runs, torch.tensor([0.5, 0.0, -9.0]), torch.eye(3), torch.zeros(3))
    found = compute_losses(replace(output, tag_chain=chain), batch, LossConfig()).bio
    assert found is not None
    assert float(found) == float(crf_loss(output.tag_logits, output.tag_labels, chain))


def test_bio_accuracy_of_the_binary_scheme_and_under_a_chain() -> None:
    # Predictions in, out, in, in; truth O B B I.
    logits = torch.eye(2)[[1, 0, 1, 1]]
    hits, totals = bio_accuracy(logits, torch.tensor([0, 1, 1, 2]))
    assert (hits.tolist(), totals.tolist()) == ([0, 1, 1], [1, 2, 1])
    # Token by token B B; as a sequence B I. The first token is not counted in the end.
    logits, tags = torch.tensor([[0.0, 2.0, 0.0], [0.0, 1.0, 0.5]]), torch.tensor([1, 2])
    transitions = torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(-5.0))
    chain = TagChain(torch.zeros(2, dtype=torch.long), torch.zeros(3), transitions, torch.zeros(3))
    assert bio_accuracy(logits, tags)[0].tolist() == [0, 1, 0]
    assert bio_accuracy(logits, tags, chain)[0].tolist() == [0, 1, 1]
    counted = bio_accuracy(logits, tags, chain, torch.tensor([False, True]))
    assert [one.tolist() for one in counted] == [[0, 0, 1], [0, 0, 1]]
