"""A batch's plan: what the collator finds is what the model would find, and a plan of other tensors is ignored."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plum.config import LoraConfig
from plum.data.packed_batch import pack_batch, unpack_batch
from plum.models.batch_plan import (
    count_tokens,
    find_places,
    find_supervised,
    plan_batch,
    plan_spans,
    span_plan,
    student_layout,
    supervised_places,
    tagged_places,
    take_places,
    teacher_layout,
)
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.structures import IGNORE_INDEX, TEXT_ONLY, Batch, SpanBounds

CONFIG = tiny_model_config(40, TINY_TOKENS, LoraConfig(rank=2))
SPANS = (2, 0, TEXT_ONLY, 3, 1, 1)


def make_batch(*, planned: bool = True) -> Batch:
    batch = tiny_batch(CONFIG, SPANS, torch.Generator().manual_seed(0), conversations_per_image=2)
    return plan_batch(batch, TINY_TOKENS, has_teacher=True) if planned else batch


def test_places_are_those_of_boolean_indices() -> None:
    batch = make_batch()
    assert batch.plan is not None
    states = torch.randn(*batch.tags.shape, 3)
    is_tagged = batch.tags != IGNORE_INDEX
    assert torch.equal(take_places(states, tagged_places(batch).index), states[is_tagged])
    queries = states.gather(1, tagged_places(batch).queries[..., None].expand(-1, -1, 3))
    assert torch.equal(take_places(queries, tagged_places(batch).query_index), states[is_tagged])
    is_supervised = batch.labels[:, 1:] != IGNORE_INDEX
    assert torch.equal(take_places(states, supervised_places(batch)), states[:, :-1][is_supervised])
    assert count_tokens(batch) == int(batch.attention_mask.sum())


def test_no_token_and_no_row_have_no_place() -> None:
    places = find_places(torch.zeros(2, 5, dtype=torch.bool))
    assert (len(places.index), tuple(places.queries.shape), len(places.query_index)) == (0, (2, 0), 0)
    assert len(find_supervised(torch.full((2, 5), IGNORE_INDEX))) == 0


def test_the_first_token_of_a_row_is_no_target_of_the_last_of_another() -> None:
    labels = torch.full((2, 3), IGNORE_INDEX)
    labels[1, 0] = labels[0, 2] = 7
    assert find_supervised(labels).tolist() == [1], "only the token before the end of the first row"


@pytest.mark.parametrize("device_of_plan", ["own", "packed", "moved"])
def test_a_planned_batch_gives_what_one_without_a_plan_gives(device_of_plan: str) -> None:
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    batch = make_batch()
    if device_of_plan == "packed":
        batch = unpack_batch(pack_batch(batch))
    if device_of_plan == "moved":
        batch = batch.to(torch.device("cpu"))
    assert student_layout(batch) is not None, "the plan is still one of these tensors"
    assert teacher_layout(batch) is not None
    assert span_plan(batch.spans) is batch.spans.plan
    assert batch.plan is not None
    assert supervised_places(batch) is batch.plan.supervised
    assert tagged_places(batch) is batch.plan.tagged
    with torch.no_grad():
        found, expected = (model(one, with_teacher=True) for one in (batch, make_batch(planned=False)))
    for name in ("hidden_states", "token_logits", "token_labels", "tag_logits", "tag_labels", "mask_logits"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.teacher_states, expected.teacher_states)


def test_a_plan_of_other_tensors_is_ignored() -> None:
    batch = make_batch()
    assert batch.plan is not None
    labels, tags = batch.labels.clone(), batch.tags.clone()
    labels[0], tags[0] = IGNORE_INDEX, IGNORE_INDEX
    assert len(supervised_places(replace(batch, labels=labels))) < len(batch.plan.supervised)
    assert len(tagged_places(replace(batch, tags=tags)).index) < len(batch.plan.tagged.index)
    assert student_layout(replace(batch, input_ids=batch.input_ids.clone())) is None
    assert student_layout(replace(batch, attention_mask=batch.attention_mask.clone())) is None
    shown = replace(batch.shown, rows=batch.shown.rows.clone())
    assert student_layout(replace(batch, shown=shown)) is None
    shorter = replace(batch.spans, end=batch.spans.start + 1)
    assert span_plan(shorter).longest == 1
    assert span_plan(batch.spans).longest == 2
    assert teacher_layout(replace(batch, spans=shorter)) is None


def test_an_empty_span_is_named() -> None:
    with pytest.raises(ValueError, match=r"span 1 of the batch is empty: \[5, 5\)"):
        plan_spans(_spans([[0, 1, 3, 0], [0, 5, 5, 0]]))


def test_steps_are_planned_by_hand() -> None:
    """Two spans of the first conversation, three of the second: most spans first, each step in that order."""
    plan = plan_spans(_spans([[0, 1, 3, 0], [0, 4, 5, 0], [1, 1, 2, 1], [1, 3, 7, 1], [1, 8, 9, 1]]))
    assert (plan.step_sizes, plan.order.tolist(), plan.ranks.tolist()) == ((2, 2, 1), [2, 0, 3, 1, 4], [1, 3, 0, 2, 4])
    assert (plan.longest, plan.images, plan.conversations) == (4, (0, 0, 1, 1, 1), (0, 0, 1, 1, 1))
    assert plan.constrained.tolist() == [0, 1]
    assert plan.is_constrained.sum(1).tolist() == [5, 9]


def _spans(rows: list[list[int]]) -> SpanBounds:
    columns: list[Tensor] = [*torch.tensor(rows).unbind(1)]
    return SpanBounds(*columns)
