"""The one forward: batches against singles, the decode loop, precision, the teacher, generation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plum.config import FeedbackConfig, LoraConfig, ModelConfig, TaggerConfig
from plum.models.batch_plan import decoding_steps, find_supervised
from plum.models.grounded_lmm import GroundedLMM, supervised_states
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import (
    IGNORE_INDEX,
    TEXT_ONLY,
    Batch,
    ConversationImages,
    GroundedOutput,
    ImageFeatures,
    ImageTokens,
    SpanBounds,
)
from plum.train_config import TrainableConfig

VOCAB = 40
MIXED = (2, TEXT_ONLY, 0, 4, 1)


def make_model(config: ModelConfig | None = None) -> GroundedLMM:
    torch.manual_seed(0)
    model = build_model(config or tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modulations" in name:  # zero at the start: give them an effect
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make_batch(model: GroundedLMM, spans: tuple[int, ...] = MIXED) -> Batch:
    return tiny_batch(model.config, spans, torch.Generator().manual_seed(2))


def single(batch: Batch, row: int) -> Batch:
    """Cut one conversation, with its image, out of a batch."""
    image = int(batch.shown.rows[row, 0])
    own = batch.spans.conversation == row
    images = slice(image, image + 1) if image != TEXT_ONLY else slice(0, 0)
    return replace(
        batch,
        input_ids=batch.input_ids[row : row + 1],
        attention_mask=batch.attention_mask[row : row + 1],
        labels=batch.labels[row : row + 1],
        tags=batch.tags[row : row + 1],
        spans=SpanBounds(
            batch.spans.conversation[own] * 0, batch.spans.start[own], batch.spans.end[own], batch.spans.image[own] * 0
        ),
        clip_pixels=batch.clip_pixels[images],
        sam_pixels=batch.sam_pixels[images],
        frames=batch.frames[images],
        shown=ConversationImages(torch.tensor([[TEXT_ONLY if image == TEXT_ONLY else 0]]), batch.shown.lengths[images]),
        ignore_masks=batch.ignore_masks[images],
        part_maps=batch.part_maps[images],
    )


def assert_same(ours: GroundedOutput, theirs: GroundedOutput) -> None:
    for name in ("hidden_states", "token_logits", "tag_logits", "mask_logits", "teacher_states"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-5, rtol=1e-4, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("context", ["bidirectional", "causal", "none"])
@pytest.mark.parametrize("is_ablation", [False, True])
def test_batch_of_n_equals_n_singles(context: str, is_ablation: bool) -> None:
    tagger = TaggerConfig(context=context, num_heads=4, feedforward_dim=64)  # type: ignore[arg-type]
    if is_ablation:
        tagger = replace(tagger, scheme="binary", use_crf=True, use_cross_attention=True)
    model = make_model(tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2), tagger=tagger))
    batch = make_batch(model)
    together = model(batch, with_teacher=True)
    singles = [model(single(batch, row), with_teacher=True) for row in range(len(MIXED))]
    joined = GroundedOutput(
        hidden_states=torch.cat([one.hidden_states for one in singles]),
        token_logits=torch.cat([one.token_logits for one in singles]),
        token_labels=torch.cat([one.token_labels for one in singles]),
        tag_logits=torch.cat([one.tag_logits for one in singles]),
        tag_labels=torch.cat([one.tag_labels for one in singles]),
        images=ImageFeatures(
            ImageTokens.concatenate([one.images.tokens for one in singles]),
            torch.cat([one.images.embeddings.main for one in singles]),
        ),
        mask_logits=torch.cat([one.mask_logits for one in singles]),
        teacher_states=torch.cat([one.teacher_states for one in singles if one.teacher_states is not None]),
    )
    assert_same(together, joined)


@torch.no_grad()
def test_right_padding_changes_no_real_token() -> None:
    model = make_model()
    batch = make_batch(model)
    pad = 5

    def widen(rows: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(rows, (0, pad), value=value)

    padded = replace(
        batch,
        input_ids=widen(batch.input_ids, TINY_TOKENS.pad),
        attention_mask=widen(batch.attention_mask, 0),
        labels=widen(batch.labels, IGNORE_INDEX),
        tags=widen(batch.tags, IGNORE_INDEX),
    )
    output = model(padded, with_teacher=True)
    assert output.teacher_states is not None
    cut = replace(
        output,
        hidden_states=output.hidden_states[:, :-pad],
        teacher_states=output.teacher_states[:, :-pad],
    )
    assert_same(cut, model(batch, with_teacher=True))


def test_left_padding_is_refused() -> None:
    model = make_model()
    batch = make_batch(model)
    mask = batch.attention_mask.clone()
    mask[1, 0] = 0
    with pytest.raises(ValueError, match="right-padded"):
        model(replace(batch, attention_mask=mask), with_teacher=False)


@torch.no_grad()
def test_two_conversations_share_one_image() -> None:
    model = make_model()
    batch = make_batch(model, (2, 3))
    shared = replace(batch, clip_pixels=batch.clip_pixels[:1], sam_pixels=batch.sam_pixels[:1])
    spans = replace(batch.spans, image=batch.spans.image * 0)
    shared = replace(shared, shown=ConversationImages(torch.tensor([[0], [0]]), batch.shown.lengths[:1]), spans=spans)
    repeated = replace(batch, clip_pixels=batch.clip_pixels[[0, 0]], sam_pixels=batch.sam_pixels[[0, 0]])
    ours, theirs = model(shared, with_teacher=False), model(repeated, with_teacher=False)
    torch.testing.assert_close(ours.mask_logits, theirs.mask_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.hidden_states, theirs.hidden_states, atol=1e-5, rtol=1e-4)


def test_batch_without_images_and_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    monkeypatch.setattr(model.sam.mask_decoder, "decode_rows", pytest.fail)
    output = model(make_batch(model, (TEXT_ONLY, TEXT_ONLY)), with_teacher=False)
    assert output.mask_logits.shape == (0, 16, 16)
    assert output.images.embeddings.main.shape == (0, 16, 4, 4)
    assert output.token_logits.shape == (24, VOCAB)


def test_decoder_is_called_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    rows: list[int] = []
    decode_rows = model.sam.mask_decoder.decode_rows

    def count(image_embeddings: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        rows.append(len(sparse))
        return decode_rows(image_embeddings, position, sparse, dense)

    monkeypatch.setattr(model.sam.mask_decoder, "decode_rows", count)
    model(make_batch(model), with_teacher=False)
    # Span counts 2, 0, 4, 1: three conversations have a first span, two a second, one a third and a fourth.
    assert rows == [3, 2, 1, 1]


def test_decoding_steps_are_shrinking_prefixes() -> None:
    # Conversation 0 has spans 0 and 1, conversation 3 spans 2..5, conversation 4 span 6; longest first.
    conversation = torch.tensor([0, 0, 3, 3, 3, 3, 4])
    steps = decoding_steps(SpanBounds(conversation, conversation, conversation, conversation))
    assert [step.tolist() for step in steps] == [[2, 0, 6], [3, 1], [4], [5]]


def test_each_image_of_a_conversation_has_its_own_loop() -> None:
    # Conversation 0 asks of image 1, 0, 1, 1 in turn, conversation 2 of image 0 and 2.
    conversation, image = torch.tensor([0, 0, 0, 0, 2, 2]), torch.tensor([1, 0, 1, 1, 0, 2])
    steps = decoding_steps(SpanBounds(conversation, conversation, conversation, image))
    assert [step.tolist() for step in steps] == [[0, 1, 4, 5], [2], [3]]


@torch.no_grad()
def test_feedback_loop_equals_decoding_span_by_span() -> None:
    model = make_model()
    batch = make_batch(model, (1, 3))
    output = model(batch, with_teacher=False)
    queries = model.query_projection(output.hidden_states, batch.spans)
    context = model.prepare_feedback()
    earlier, expected = [], []
    for step in range(3):
        query, image = queries[1 + step : 2 + step], output.images.embeddings[1:2]
        expected.append(model.decode_step(query, image, earlier, context.position))
        earlier.append(model.encode_masks(expected[-1], query, step, context))
    torch.testing.assert_close(output.mask_logits[1:], torch.cat(expected), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_first_mask_is_plain_sam_and_later_ones_are_not() -> None:
    model = make_model()
    without = make_model(replace(model.config, feedback=FeedbackConfig(is_enabled=False)))
    without.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("feedback.")}, strict=True)
    batch = make_batch(model, (3,))
    with_feedback = model(batch, with_teacher=False).mask_logits
    plain = without(batch, with_teacher=False).mask_logits
    torch.testing.assert_close(with_feedback[0], plain[0], atol=1e-5, rtol=1e-5)
    assert float((with_feedback[1] - plain[1]).abs().max()) > 1e-4
    with pytest.raises(ValueError, match="no mask feedback"):
        without.prepare_feedback()


def test_span_without_image_is_refused() -> None:
    model = make_model()
    batch = make_batch(model, (2, TEXT_ONLY))
    spans = replace(batch.spans, conversation=torch.tensor([0, 1]), image=torch.tensor([0, TEXT_ONLY]))
    with pytest.raises(ValueError, match="conversation 1 .* no image"):
        model(replace(batch, spans=spans), with_teacher=False)


def test_empty_span_is_refused() -> None:
    model = make_model()
    batch = make_batch(model, (2,))
    spans = replace(batch.spans, end=batch.spans.start + torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="span 1 of the batch is empty"):
        model(replace(batch, spans=spans), with_teacher=False)


def test_wrong_number_of_image_tokens_is_refused() -> None:
    model = make_model()
    batch = make_batch(model)
    batch.input_ids[3, 1] = 7
    with pytest.raises(ValueError, match="conversation 3 .* 3 <image> tokens and needs 4"):
        model(batch, with_teacher=False)


def test_special_tokens_must_be_set() -> None:
    model = make_model(tiny_model_config(VOCAB))
    with pytest.raises(ValueError, match="with_special_tokens"):
        model(tiny_batch(tiny_model_config(VOCAB), (1,), torch.Generator()), with_teacher=False)


def test_supervised_states_predict_the_next_label() -> None:
    states = torch.arange(5.0).view(1, 5, 1)
    labels = torch.tensor([[9, IGNORE_INDEX, 7, IGNORE_INDEX, 8]])
    selected, tokens = supervised_states(states, labels, find_supervised(labels))
    # Label 7 at position 2 is predicted by state 1, label 8 at 4 by state 3; label 9 at 0 has no state before it.
    assert selected[:, 0].tolist() == [1.0, 3.0]
    assert tokens.tolist() == [7, 8]


@torch.no_grad()
def test_bfloat16_keeps_masks_in_float32_and_frequencies_exact() -> None:
    model = make_model()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to(torch.bfloat16)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, before[name], atol=0, rtol=0)
    output = model(make_batch(model), with_teacher=True)
    assert output.hidden_states.dtype == torch.bfloat16
    assert output.mask_logits.dtype == torch.float32


def test_frozen_parts_build_no_graph() -> None:
    model = make_model()
    set_trainable(model, TrainableConfig())
    batch = make_batch(model)
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    assert not images.tokens.values.requires_grad
    assert not images.embeddings.main.requires_grad
    set_trainable(model, TrainableConfig(projector=True, sam_image_encoder=True))
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    assert images.tokens.values.requires_grad
    assert images.embeddings.main.requires_grad


@pytest.mark.parametrize("has_feedback", [False, True])
def test_masks_teach_the_language_model(has_feedback: bool) -> None:
    """The mask losses reach the adapters through the queries, of the first span and of every later one."""
    feedback = FeedbackConfig(num_heads=4, is_enabled=has_feedback)
    model = make_model(tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2), feedback))
    set_trainable(model, TrainableConfig())
    output = model(make_batch(model, (3,)), with_teacher=False)
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    assert adapters
    for mask in output.mask_logits:
        gradients = torch.autograd.grad(mask.square().mean(), adapters, retain_graph=True, allow_unused=True)
        assert all(gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = make_model(tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2, dropout=0.0)))
        set_trainable(model, TrainableConfig())
        if is_checkpointed:
            model.enable_gradient_checkpointing()
            model.llava.train()
        model(make_batch(model), with_teacher=True).token_logits.float().clamp(min=-1e4).square().sum().backward()
        gradients.append([p.grad for n, p in model.named_parameters() if "lora_B" in n])
    torch.testing.assert_close(gradients[0], gradients[1])


@torch.no_grad()
def test_suppressed_tokens_are_never_text() -> None:
    model = make_model()
    logits = model(make_batch(model), with_teacher=False).token_logits
    assert torch.isinf(logits[:, list(TINY_TOKENS.suppressed)]).all()
    assert torch.isfinite(logits[:, 4:]).all()


def test_generation_equals_repeated_forwards_for_left_and_right_padding() -> None:
    model = make_model()
    batch = make_batch(model, (0, TEXT_ONLY))
    images = model.encode_images(batch.clip_pixels, batch.sam_pixels)
    lengths, steps = (14, 9), 6
    expected = []
    for row, length in enumerate(lengths):
        ids = batch.input_ids[row : row + 1, :length]
        for _ in range(steps):
            states = model.hidden_states(ids, torch.ones_like(ids), batch.shown[torch.tensor([row])], images.tokens)
            ids = torch.cat([ids, model.token_logits(states[:, -1]).argmax(-1, keepdim=True)], dim=1)
        expected.append(ids[0, length:].tolist())
    ids = batch.input_ids[:, : lengths[0]].clone()
    mask = torch.ones_like(ids)
    ids[1, lengths[1] :], mask[1, lengths[1] :] = TINY_TOKENS.pad, 0
    rolled = (ids.clone(), mask.clone())
    for rows in rolled:
        rows[1] = rows[1].roll(lengths[0] - lengths[1])
    for prompt_ids, prompt_mask in ((ids, mask), rolled):
        new = model.generate_text(prompt_ids, prompt_mask, batch.shown, images.tokens, steps)
        for row, tokens in enumerate(expected):
            end = tokens.index(TINY_TOKENS.eos) + 1 if TINY_TOKENS.eos in tokens else steps
            assert new[row, :end].tolist() == tokens[:end]
