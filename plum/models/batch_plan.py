"""What the host knows about a batch before the device sees it: places of tokens, decoding steps, lengths.

A forward pass depends on these numbers, and a GPU stands still whenever the host asks it for one. The collator
therefore finds them in advance, in its loader processes. For batches made otherwise they are found when they are
needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plum.config import SpecialTokensConfig
from plum.models.backbones.shared_beginnings import SequenceLayout, lay_out
from plum.structures import IGNORE_INDEX, Batch, BatchPlan, SpanBounds, SpanPlan, TokenPlaces


@dataclass(frozen=True)
class LaidOutPlan(BatchPlan):
    """A plan with the sequences of the conversations, laid out once.

    input_ids, attention_mask, rows: the tensors of the batch that it describes; a plan of others is ignored
    student: of all conversations
    teacher: of those with spans, each up to its last one; None without spans, or where no teacher runs
    """

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor
    student: SequenceLayout
    teacher: SequenceLayout | None


def plan_batch(
    batch: Batch,
    special_tokens: SpecialTokensConfig | None = None,
    *,
    by_prompt: bool = False,
    has_teacher: bool = False,
) -> Batch:
    """Return the batch, on the host, with its plan.

    Args:
        batch: right-padded, with as many `<image>` tokens as its images need: the collator's.
        special_tokens: ids of the model; None: not known, and the sequences are not laid out.
        by_prompt: see `plum.models.backbones.shared_beginnings.lay_out`.
        has_teacher: whether a teacher may run, for the KL term.
    """
    spans = replace(batch.spans, plan=plan_spans(batch.spans)) if len(batch.spans) else batch.spans
    plan = BatchPlan(
        labels=batch.labels,
        tags=batch.tags,
        supervised=find_supervised(batch.labels),
        tagged=find_places(batch.tags != IGNORE_INDEX),
        num_tokens=int(batch.attention_mask.sum()),
    )
    if special_tokens is None:
        return replace(batch, spans=spans, plan=plan)
    tokens, by_prompt = (special_tokens.image, special_tokens.pad), by_prompt and len(batch.clip_pixels) > 0
    teacher = None
    if has_teacher and spans.plan is not None:
        rows, is_needed = spans.plan.constrained, spans.plan.is_constrained
        text = (batch.input_ids[rows, : is_needed.shape[1]], is_needed.long(), batch.shown[rows])
        teacher = lay_out(*text, *tokens, by_prompt=by_prompt)
    laid_out = LaidOutPlan(
        **vars(plan),
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        rows=batch.shown.rows,
        student=lay_out(batch.input_ids, batch.attention_mask, batch.shown, *tokens, by_prompt=by_prompt),
        teacher=teacher,
    )
    return replace(batch, spans=spans, plan=laid_out)


def student_layout(batch: Batch) -> SequenceLayout | None:
    """Return the sequences of all conversations; None: they are not laid out."""
    plan = _laid_out(batch)
    return None if plan is None else plan.student


def teacher_layout(batch: Batch) -> SequenceLayout | None:
    """Return the sequences that the teacher processes; None: they are not laid out."""
    plan = _laid_out(batch)
    is_own = batch.spans.plan is not None and _is_of(batch.spans.plan.made_for, batch.spans.fields)
    return plan.teacher if plan is not None and is_own else None


def _laid_out(batch: Batch) -> LaidOutPlan | None:
    plan = batch.plan
    if not isinstance(plan, LaidOutPlan):
        return None
    own = (batch.input_ids, batch.attention_mask, batch.shown.rows)
    return plan if _is_of((plan.input_ids, plan.attention_mask, plan.rows), own) else None


def _is_of(made_for: Sequence[Tensor], own: Sequence[Tensor]) -> bool:
    """Return whether a plan was made for these very tensors."""
    return all(one is other for one, other in zip(made_for, own, strict=True))


def supervised_places(batch: Batch) -> Tensor:
    """Return the places n * T + t of the states that predict a supervised token, LongTensor [K]; see `BatchPlan`."""
    plan = batch.plan
    return plan.supervised if plan is not None and plan.labels is batch.labels else find_supervised(batch.labels)


def tagged_places(batch: Batch) -> TokenPlaces:
    """Return the places of the tokens that have a tag."""
    plan = batch.plan
    if plan is not None and plan.tags is batch.tags:
        return plan.tagged
    return find_places(batch.tags != IGNORE_INDEX)


def span_plan(spans: SpanBounds) -> SpanPlan:
    """Return the plan of spans, one or more; their own if they have it.

    Raises:
        ValueError: a span is empty.
    """
    if spans.plan is not None and _is_of(spans.plan.made_for, spans.fields):
        return spans.plan
    return plan_spans(spans)


def count_tokens(batch: Batch) -> int:
    """Return the number of tokens of a batch, padding left out."""
    return int(batch.attention_mask.sum()) if batch.plan is None else batch.plan.num_tokens


def take_places(values: Tensor, places: Tensor) -> Tensor:
    """Return values [N, T, ...] at places n * T + t, [A, ...]."""
    return values.flatten(0, 1).index_select(0, places)


def find_supervised(labels: Tensor) -> Tensor:
    """Find the states that predict a supervised token; the host waits for the device of `labels`, [N, T]."""
    is_supervised = torch.zeros_like(labels, dtype=torch.bool)
    is_supervised[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return _places_of(is_supervised)


def find_places(is_chosen: Tensor) -> TokenPlaces:
    """Find tokens; the host waits for the device of `is_chosen`, bool [N, T]."""
    counts = is_chosen.sum(1)  # [N]
    most = int(counts.max()) if len(counts) else 0
    # Chosen tokens come first, in order.
    queries = is_chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    is_query = torch.arange(most, device=counts.device) < counts[:, None]
    return TokenPlaces(_places_of(is_chosen), queries, _places_of(is_query))


def plan_spans(spans: SpanBounds) -> SpanPlan:
    """Plan spans, one or more; the host waits for their device, once.

    Raises:
        ValueError: a span is empty.
    """
    device = spans.conversation.device
    host = SpanBounds(*torch.stack(spans.fields).cpu().unbind())
    lengths = host.end - host.start
    if int(lengths.min()) < 1:
        row = int(lengths.argmin())
        raise ValueError(f"span {row} of the batch is empty: [{int(host.start[row])}, {int(host.end[row])})")
    steps = decoding_steps(host)
    order = torch.cat(steps)
    rows, is_needed = find_constrained(host)
    return SpanPlan(
        made_for=spans.fields,
        longest=int(lengths.max()),
        images=tuple(host.image.tolist()),
        conversations=tuple(host.conversation.tolist()),
        step_sizes=tuple(len(step) for step in steps),
        order=order.to(device),
        ranks=order.argsort().to(device),
        constrained=rows.to(device),
        is_constrained=is_needed.to(device),
    )


def _places_of(is_chosen: Tensor) -> Tensor:
    return is_chosen.flatten().nonzero()[:, 0]


def find_constrained(spans: SpanBounds) -> tuple[Tensor, Tensor]:
    """Return which tokens the teacher has to process.

    Args:
        spans: one or more.

    Returns:
        Conversations with spans [R], and which of their tokens lie before the end of their last span, bool
        [R, longest].
    """
    rows, row_of_span = spans.conversation.unique(return_inverse=True)
    ends = torch.zeros_like(rows).scatter_reduce(0, row_of_span, spans.end, "amax")
    return rows, torch.arange(int(ends.max()), device=ends.device) < ends[:, None]


def decoding_steps(spans: SpanBounds) -> list[Tensor]:
    """Plan the decode loop.

    Args:
        spans: M token ranges, sorted by conversation, then reading order.

    Returns:
        For each step s, the indices of the s-th spans of each conversation and image, those with the most spans first.
        The rows of a step are a prefix of the previous step's rows, so earlier masks are selected by slicing.
    """
    loops = spans.conversation * (spans.image.max() + 1) + spans.image
    order = loops.argsort(stable=True)  # spans of one loop together, in reading order
    counts = torch.unique_consecutive(loops[order], return_counts=True)[1]
    first_span = counts.cumsum(0) - counts
    by_length = counts.argsort(descending=True, stable=True)
    counts, first_span = counts[by_length], first_span[by_length]
    return [order[first_span[counts > step] + step] for step in range(int(counts[0]))]
