"""The held LLaVA against the stock class, its adapters and its teacher."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from plum.config import LoraConfig, ModelConfig
from plum.models.backbones.backbone import pad_left
from plum.models.backbones.lora import add_adapters
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.teacher import span_teacher_states, teacher_states
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import TEXT_ONLY, Batch, SpanBounds
from plum.train_config import TrainableConfig

VOCAB = 40


def make(config: ModelConfig) -> tuple[GroundedLMM, Batch]:
    torch.manual_seed(0)
    model = build_model(config).eval()
    return model, tiny_batch(config, (1, 2), torch.Generator().manual_seed(1))


def states_of(model: GroundedLMM, batch: Batch) -> Tensor:
    tokens = model.encode_images(batch.clip_pixels, batch.sam_pixels).tokens
    return model.hidden_states(batch.input_ids, batch.attention_mask, batch.shown, tokens)


def teacher_of(model: GroundedLMM, batch: Batch) -> Tensor:
    tokens = model.encode_images(batch.clip_pixels, batch.sam_pixels).tokens
    return teacher_states(model.llava, batch.input_ids, batch.attention_mask, batch.shown, tokens)


def train_a_little(model: GroundedLMM, batch: Batch) -> None:
    parameters = [parameter for parameter in model.llava.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        output = model(batch, with_teacher=True)
        torch.nn.functional.cross_entropy(output.token_logits, output.token_labels).backward()
        optimizer.step()


@torch.no_grad()
@pytest.mark.parametrize("select_layer", [-1, -2, 1])
@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
def test_equals_the_stock_forward(select_layer: int, projector: str) -> None:
    config = tiny_model_config(VOCAB, replace(TINY_TOKENS, suppressed=()))
    vision = replace(config.llava.vision, select_layer=select_layer)
    llava = replace(config.llava, vision=vision, projector=projector)  # type: ignore[arg-type]
    model, batch = make(replace(config, llava=llava))
    stock = model.llava.stock(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.clip_pixels
    )
    logits = model.token_logits(states_of(model, batch))
    torch.testing.assert_close(logits, stock.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_linear_projector_is_one_linear_layer() -> None:
    config = tiny_model_config(VOCAB, TINY_TOKENS)
    model, batch = make(replace(config, llava=replace(config.llava, projector="linear")))
    projector = model.llava.stock.model.multi_modal_projector
    features = torch.randn(2, 4, 24)
    torch.testing.assert_close(projector(features), projector.linear_1(features))
    rows = {row.module: row for row in set_trainable(model, TrainableConfig("full", projector=True))}
    assert rows["llava.projector"].trainable == sum(p.numel() for p in projector.linear_1.parameters())


def test_adapters_sit_on_the_language_model_alone() -> None:
    model, _ = make(tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2)))
    adapted = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapted) == 4  # q and v in each of 2 layers
    assert all("language_model.layers" in name for name in adapted)
    assert all(".q_proj." in name or ".v_proj." in name for name in adapted)


@pytest.mark.parametrize("train_embeddings", [False, True])
def test_teacher_equals_the_untouched_llava_after_training(train_embeddings: bool) -> None:
    lora = LoraConfig(rank=2, train_embeddings=train_embeddings)
    model, batch = make(tiny_model_config(VOCAB, TINY_TOKENS, lora))
    # An untouched copy made before anything is trained, with adapters that are still zero.
    with torch.no_grad():
        untouched = states_of(copy.deepcopy(model), batch)
    set_trainable(model, TrainableConfig(embeddings=train_embeddings))
    flags = [parameter.requires_grad for parameter in model.parameters()]
    train_a_little(model, batch)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    torch.testing.assert_close(teacher_of(model, batch), untouched, atol=0, rtol=0)
    assert float((states_of(model, batch) - untouched).detach().abs().max()) > 1e-3


def test_teacher_equals_a_model_built_without_adapters() -> None:
    model, batch = make(tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2)))
    plain, _ = make(replace(model.config, lora=None))
    set_trainable(model, TrainableConfig())
    plain.llava.stock.load_state_dict(
        {
            name.replace(".base_layer", ""): tensor
            for name, tensor in model.llava.stock.state_dict().items()
            if "lora_" not in name
        },
        strict=True,
    )
    train_a_little(model, batch)
    with torch.no_grad():
        torch.testing.assert_close(teacher_of(model, batch), states_of(plain, batch), atol=0, rtol=0)


def test_teacher_needs_adapters() -> None:
    model, batch = make(tiny_model_config(VOCAB, TINY_TOKENS))
    with pytest.raises(ValueError, match=r"no adapters.*losses\.kl"):
        model(batch, with_teacher=True)


def test_tied_head_is_refused_when_embeddings_train() -> None:
    model, _ = make(tiny_model_config(VOCAB, TINY_TOKENS))
    stock = model.llava.stock
    stock.lm_head.weight = stock.get_input_embeddings().weight
    with pytest.raises(ValueError, match="tied"):
        add_adapters(stock, LoraConfig(rank=2, train_embeddings=True))


def test_pad_left_keeps_order() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [0, 0, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]])
    order, padded_mask = pad_left(mask)
    assert ids.gather(1, order).tolist() == [[0, 5, 6, 7], [0, 0, 8, 9]]
    assert padded_mask.tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]


def test_attention_is_fused() -> None:
    model, _ = make(tiny_model_config(VOCAB, TINY_TOKENS))
    stock = model.llava.stock.model
    assert isinstance(stock, nn.Module)
    assert stock.language_model.config._attn_implementation == "sdpa"
    assert stock.vision_tower.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_teacher_runs_only_where_spans_are() -> None:
    config = tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2))
    torch.manual_seed(0)
    model = build_model(config).eval()
    batch = tiny_batch(config, (0, 2, TEXT_ONLY, 1), torch.Generator().manual_seed(1))
    tokens = model.encode_images(batch.clip_pixels, batch.sam_pixels).tokens
    found = span_teacher_states(model.llava, batch, tokens)
    for row in (1, 3):  # up to the conversation's last span
        end = int(batch.spans.end[batch.spans.conversation == row].max())
        torch.testing.assert_close(found[row, :end], teacher_of(model, batch)[row, :end], atol=1e-5, rtol=1e-5)
    assert not found[[0, 2]].any()
    nothing = SpanBounds.none()
    assert not span_teacher_states(model.llava, replace(batch, spans=nothing), tokens).any()


@torch.no_grad()
def test_teacher_has_no_dropout_noise_in_training() -> None:
    config = tiny_model_config(VOCAB, TINY_TOKENS, LoraConfig(rank=2, dropout=0.5))
    model, batch = make(config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.add_(0.3)
    quiet = teacher_of(model, batch)
    model.train()
    assert float((states_of(model, batch) - states_of(model, batch)).abs().max()) > 1e-4, "the student has it"
    torch.testing.assert_close(teacher_of(model, batch), quiet, atol=0, rtol=0)
