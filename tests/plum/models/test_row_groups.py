"""Passes of similar length: what they save, and that states and gradients stay what they are."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from plum.config import LoraConfig
from plum.models import row_groups
from plum.models.registry import build_model
from plum.models.row_groups import group_rows
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import IGNORE_INDEX, Batch
from plum.train_config import LossConfig, TrainableConfig
from plum.training.objective import Objective

SPANS = (1, 0, 3, 2)
LENGTH, SHORT = 60, 23


def make_batch() -> Batch:
    """Conversations of 23 tokens, the second with 37 more in its answer."""
    config = tiny_model_config(40, TINY_TOKENS)
    batch = tiny_batch(config, SPANS, torch.Generator().manual_seed(0))

    def widen(rows: torch.Tensor, value: int) -> torch.Tensor:
        return nn.functional.pad(rows, (0, LENGTH - SHORT), value=value)

    ids, mask = widen(batch.input_ids, TINY_TOKENS.pad), widen(batch.attention_mask, 0)
    ids[1, SHORT:] = torch.arange(LENGTH - SHORT) % 30 + 5
    mask[1] = 1
    labels = widen(batch.labels, IGNORE_INDEX)
    labels[1, SHORT:] = ids[1, SHORT:]
    return replace(batch, input_ids=ids, attention_mask=mask, labels=labels, tags=widen(batch.tags, IGNORE_INDEX))


def run_step(min_saved: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[int, ...]], list[torch.Tensor]]:
    """Shapes the language model is called with, and total loss with all gradients."""
    monkeypatch.setattr(row_groups.group_rows, "__defaults__", (min_saved,))
    torch.manual_seed(0)
    model = build_model(tiny_model_config(40, TINY_TOKENS, LoraConfig(rank=2, dropout=0.0))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    set_trainable(model, TrainableConfig())
    shapes: list[tuple[int, ...]] = []
    model.llava.stock.model.language_model.register_forward_pre_hook(
        lambda module, arguments, named: shapes.append(tuple(named["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    loss = Objective(model, LossConfig(kl=0.1))(make_batch()).total
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return shapes, [loss, *torch.autograd.grad(loss, trained)]


def test_golden() -> None:
    # One pass: 4 x 10 places. Two: 10 + 3 x 4 = 22 places, 18 saved for one more pass; three of them save no more.
    assert group_rows([4, 10, 4, 3], min_saved=17) == [[1], [0, 2, 3]]
    assert group_rows([4, 10, 4, 3], min_saved=19) == [[1, 0, 2, 3]]
    assert group_rows([4, 10, 4, 3], min_saved=0) == [[1], [0, 2], [3]]
    assert group_rows([7], min_saved=0) == [[0]]


def test_every_row_once_and_never_dearer_than_one_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        lengths = torch.randint(
            1, 800, (int(torch.randint(1, 20, (), generator=generator)),), generator=generator
        ).tolist()
        groups = group_rows(lengths)
        assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
        cost = sum(len(rows) * max(lengths[row] for row in rows) + row_groups.MIN_SAVED_PLACES for rows in groups)
        assert cost <= len(lengths) * max(lengths) + row_groups.MIN_SAVED_PLACES


def test_states_losses_and_gradients_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    together, whole = run_step(10**6, monkeypatch)
    apart, parts = run_step(30, monkeypatch)
    # The teacher reads the three conversations with spans up to the last span: 11 + 6 + 2.
    assert together == [(4, LENGTH), (3, 19)]
    assert apart == [(1, LENGTH), (3, SHORT), (3, 19)]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_usual_batch_of_the_quickstart_stays_whole() -> None:
    """Eight rows of the tiny recipe, 77 tokens on average and 110 at most, save less than a pass costs."""
    assert len(group_rows([110, *[77] * 7])) == 1
