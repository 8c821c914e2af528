"""Conversations about one image as one sequence: the layout by hand, and states, losses and gradients as apart."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from plum.config import LoraConfig
from plum.models.backbones import shared_beginnings as row_groups
from plum.models.backbones.shared_beginnings import BEGINNING, PADDING, SequenceLayout, lay_out
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import IGNORE_INDEX, TEXT_ONLY, Batch, ConversationImages
from plum.train_config import LossConfig, TrainableConfig
from plum.training.gradients import micro_batch_gradients, trained_parameters
from plum.training.objective import Objective

IMAGE, PAD = TINY_TOKENS.image, TINY_TOKENS.pad
LENGTH = 23
"""Of a conversation of `tiny_batch`: 1 + 4 image patches + 6 of the prompt + 12 of the answer."""


def lay_out_rows(rows: list[list[int]], images: list[int]) -> SequenceLayout:
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (length - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    found = {image: row.count(IMAGE) for row, image in zip(rows, images, strict=True)}
    shown = ConversationImages(torch.tensor(images)[:, None], tuple(found.get(i, 0) for i in range(1 + max(images))))
    return lay_out(ids, mask, shown, IMAGE, PAD)


def test_layout_by_hand() -> None:
    layout = lay_out_rows(
        [[9, IMAGE, IMAGE, 5, 6], [7, 8], [9, IMAGE, IMAGE, 5, 7, 8], [9, IMAGE, IMAGE, 5]], [0, TEXT_ONLY, 0, 0]
    )
    (one,) = layout.passes
    assert one.is_branched
    # Three conversations about the image have four tokens in common; the last of them has no others.
    assert one.input_ids.tolist() == [[9, IMAGE, IMAGE, 5, 6, 7, 8], [7, 8, *[PAD] * 5]]
    assert one.positions.tolist() == [[0, 1, 2, 3, 4, 4, 5], [0, 1, 0, 0, 0, 0, 0]]
    assert one.branches.tolist() == [[BEGINNING] * 4 + [1, 2, 2], [BEGINNING] * 2 + [PADDING] * 5]
    assert one.shown.rows.tolist() == [[0], [TEXT_ONLY]]
    assert one.patches.tolist() == [[1, 2], [0, 0], [0, 1]], "places in the pass, images, places in the image"
    assert layout.places[0, :5].tolist() == [0, 1, 2, 3, 4]
    assert layout.places[1, :2].tolist() == [7, 8]
    assert layout.places[2, :6].tolist() == [0, 1, 2, 3, 5, 6]
    assert layout.places[3].tolist() == [0, 1, 2, 3, 3, 3], "padding stands where the last token does"
    assert layout.num_places == 14


def test_who_sees_whom() -> None:
    layout = lay_out_rows([[9, IMAGE, 5], [9, IMAGE, 6, 7], [8]], [0, 0, TEXT_ONLY])
    mask = layout.passes[0].attention_mask(torch.float32)
    assert mask.shape == (2, 1, 5, 5)
    seen = (mask[0, 0] == 0).int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert set(mask.unique().tolist()) == {0.0, float("-inf")}
    assert (mask == 0).any(-1).all(), "padding too sees something"
    assert all(stride % 8 == 0 for stride in mask.stride()[:-1]), "no copy on CUDA"


def test_conversations_that_differ_before_their_image_stay_alone() -> None:
    layout = lay_out_rows([[9, IMAGE, IMAGE, 5], [8, IMAGE, IMAGE, 5], [9, IMAGE, IMAGE, 6]], [0, 0, 0])
    (one,) = layout.passes
    assert not one.is_branched
    assert one.input_ids.tolist() == [[9, IMAGE, IMAGE, 5], [8, IMAGE, IMAGE, 5], [9, IMAGE, IMAGE, 6]]
    assert one.shown.rows.tolist() == [[0], [0], [0]]


def test_every_token_has_its_place() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(high: int) -> int:
        return int(torch.randint(1, high, (), generator=generator))

    for _ in range(30):
        images = sorted(draw(5) - 2 for _ in range(draw(9)))
        rows = [[9, IMAGE, *[draw(3) + 4 for _ in range(draw(300))]] if image >= 0 else [draw(9)] for image in images]
        layout = lay_out_rows(rows, images)
        ids = torch.cat([one.input_ids.flatten() for one in layout.passes])
        positions = torch.cat([one.positions.flatten() for one in layout.passes])
        for row, places in zip(rows, layout.places, strict=True):
            assert ids[places[: len(row)]].tolist() == row
            assert positions[places[: len(row)]].tolist() == list(range(len(row)))


def make_model() -> GroundedLMM:
    torch.manual_seed(0)
    model: GroundedLMM = build_model(tiny_model_config(40, TINY_TOKENS, LoraConfig(rank=2, dropout=0.0))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    set_trainable(model, TrainableConfig())
    return model


def make_batch(model: GroundedLMM, more: int = 37) -> Batch:
    """Three conversations about one image, the second `more` tokens longer; two about another; one about none."""
    spans = (1, 0, 3, 2, 4, TEXT_ONLY)
    batch = tiny_batch(model.config, spans, torch.Generator().manual_seed(0), conversations_per_image=3)

    def widen(rows: Tensor, value: int) -> Tensor:
        return nn.functional.pad(rows, (0, more), value=value)

    ids, mask = widen(batch.input_ids, PAD), widen(batch.attention_mask, 0)
    ids[1, LENGTH:], mask[1] = torch.arange(more) % 30 + 5, 1
    labels = widen(batch.labels, IGNORE_INDEX)
    labels[1, LENGTH:] = ids[1, LENGTH:]
    return replace(batch, input_ids=ids, attention_mask=mask, labels=labels, tags=widen(batch.tags, IGNORE_INDEX))


def run_step(model: GroundedLMM, batch: Batch) -> tuple[list[tuple[int, ...]], list[Tensor]]:
    """Shapes the language model is called with; total loss with all gradients."""
    shapes: list[tuple[int, ...]] = []
    handle = model.llava.stock.model.language_model.register_forward_pre_hook(
        lambda module, arguments, named: shapes.append(tuple(named["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    loss = Objective(model, LossConfig(kl=0.1))(batch).total
    handle.remove()
    return shapes, [loss, *micro_batch_gradients(loss, trained_parameters(model))]


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("min_saved", [10**6, 30])
def test_states_losses_and_gradients_are_those_of_conversations_apart(
    min_saved: int, is_checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups.group_rows, "__defaults__", (min_saved,))
    model = make_model()
    batch = make_batch(model)
    if is_checkpointed:
        model.train()  # checkpointing is of training alone; this model has no dropout but the tagger's
        model.enable_gradient_checkpointing()
        assert model.tagger is not None
        model.tagger.eval()
    shared, together = run_step(model, batch)
    # Student: 5 + 18 + 55 + 18 = 96 places, 5 + 2 x 18 = 41, 23. Teacher, up to the last span of the conversations with
    # any: 5 + 8 + 14 = 27 places (13 and 19 tokens), 5 + 11 + 17 = 33 (16 and 22).
    if min_saved == 30:
        assert shared == [(1, 96), (2, 41), (2, 33)]
    else:
        assert shared == [(3, 96), (2, 33)]
    monkeypatch.setattr(model.llava, "shared_hidden_states", lambda *given: model.llava.hidden_states(*given[:4]))
    plain, apart = run_step(model, batch)
    assert plain == [(6, 60), (4, 22)]
    assert len(together) == len(apart)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_states_are_the_plain_ones() -> None:
    model = make_model()
    batch = make_batch(model)
    tokens = model.encode_images(batch.clip_pixels, batch.sam_pixels).tokens
    text = (batch.input_ids, batch.attention_mask, batch.shown, tokens)
    is_token = batch.attention_mask.bool()
    shared, plain = model.llava.shared_hidden_states(*text), model.llava.hidden_states(*text)
    torch.testing.assert_close(shared[is_token], plain[is_token], atol=1e-5, rtol=1e-5)
    assert shared.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("method", ["hidden_states", "shared_hidden_states"])
def test_bad_rows_are_refused(method: str) -> None:
    model = make_model()
    batch = make_batch(model)
    tokens = model.encode_images(batch.clip_pixels, batch.sam_pixels).tokens
    run = getattr(model.llava, method)
    with pytest.raises(ValueError, match="right-padded"):
        run(batch.input_ids, batch.attention_mask.flip(1), batch.shown, tokens)
    hole = batch.attention_mask.clone()
    hole[1, 30] = 0
    with pytest.raises(ValueError, match="right-padded: some attention_mask has a 1 after a 0"):
        run(batch.input_ids, hole, batch.shown, tokens)
    ids = batch.input_ids.clone()
    ids[4, 2] = 7
    with pytest.raises(ValueError, match="conversation 4 of the batch has 3 <image> tokens and needs 4"):
        run(ids, batch.attention_mask, batch.shown, tokens)
