"""What is trained, and the anchor that gives every trained parameter a gradient."""

import pytest
import torch

from plum.config import LoraConfig
from plum.losses import compute_losses, weighted_sum
from plum.models.grounded_lmm import GroundedLMM
from plum.models.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable, zero_anchor
from plum.structures import TEXT_ONLY
from plum.train_config import LossConfig, TrainableConfig

EVERYTHING = TrainableConfig("full", True, True, False, True, True, True)


def make_model(lora: LoraConfig | None) -> GroundedLMM:
    torch.manual_seed(0)
    return build_model(tiny_model_config(40, TINY_TOKENS, lora))


def test_table_counts_what_the_flags_say() -> None:
    model = make_model(LoraConfig(rank=2))
    rows = set_trainable(model, TrainableConfig())
    assert sum(row.trainable for row in rows) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(row.total for row in rows) == sum(p.numel() for p in model.parameters())


def test_everything_can_be_trained() -> None:
    model = make_model(None)
    assert all(row.trainable == row.total for row in set_trainable(model, EVERYTHING))


def test_switches_turn_parts_off() -> None:
    model = make_model(LoraConfig(rank=2))
    set_trainable(model, TrainableConfig(language_model="frozen", sam_mask_decoder=False, sam_prompt_encoder=False))
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"tagger", "query_projection", "feedback"}


def test_trained_embeddings_leave_the_teachers_copy_frozen() -> None:
    model = make_model(LoraConfig(rank=2, train_embeddings=True))
    set_trainable(model, TrainableConfig(embeddings=True))
    embeddings = model.llava.stock.get_input_embeddings()
    assert not embeddings.original_module.weight.requires_grad
    assert embeddings.modules_to_save.default.weight.requires_grad
    assert model.llava.stock.lm_head.weight.requires_grad


@pytest.mark.parametrize(
    ("lora", "config", "message"),
    [
        (None, TrainableConfig(), "'lora' but model.lora is null"),
        (LoraConfig(rank=2), TrainableConfig(language_model="full"), "set model.lora to null"),
        (LoraConfig(rank=2), TrainableConfig(embeddings=True), "lora.train_embeddings"),
    ],
)
def test_impossible_settings_are_refused(lora: LoraConfig | None, config: TrainableConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_trainable(make_model(lora), config)


@pytest.mark.parametrize("spans", [(TEXT_ONLY, TEXT_ONLY), (0, 0), (1, 3)])
def test_anchor_gives_every_trained_parameter_a_gradient(spans: tuple[int, ...]) -> None:
    model = make_model(None).eval()  # no dropout: two passes are compared
    set_trainable(model, EVERYTHING)
    batch = tiny_batch(model.config, spans, torch.Generator().manual_seed(0))
    terms = compute_losses(model(batch, with_teacher=False), batch, LossConfig())
    loss = weighted_sum(terms, LossConfig())
    (loss + zero_anchor(model)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    anchored = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    terms = compute_losses(model(batch, with_teacher=False), batch, LossConfig())
    weighted_sum(terms, LossConfig()).backward()
    for parameter, gradient in zip(model.parameters(), anchored, strict=True):
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, expected)


def test_anchor_is_zero_and_gives_zero_gradients() -> None:
    model = make_model(LoraConfig(rank=2))
    set_trainable(model, TrainableConfig())
    anchor = zero_anchor(model)
    assert float(anchor.detach()) == 0.0
    anchor.backward()
    for parameter in model.parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert not parameter.grad.any()
        else:
            assert parameter.grad is None


def test_anchor_refuses_a_frozen_model() -> None:
    model = make_model(None)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter is trainable"):
        zero_anchor(model)
