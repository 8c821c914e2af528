"""What is trained, by the flags of a configuration."""

import pytest
import torch

from plum.config import LoraConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_model_config
from plum.models.trainable import set_trainable
from plum.train_config import TrainableConfig

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
