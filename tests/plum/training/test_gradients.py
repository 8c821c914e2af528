"""Gradients of a micro-batch: complete whatever the batch lacks, and the mean of the ranks' own on several ranks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import TEXT_ONLY
from plum.train_config import LossConfig
from plum.training.gradients import GradientSource, micro_batch_gradients, trained_parameters
from plum.training.objective import Objective
from tests.plum.training.launching import fork_ranks
from tests.plum.training.training_world import FULL


@pytest.mark.distributed
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_with_unlike_batches_reduce_to_the_mean(tmp_path: Path, num_ranks: int) -> None:
    program = str(Path(__file__).with_name("unlike_batches.py"))
    printed = fork_ranks(program, [], num_ranks, tmp_path / "printed.txt")
    assert printed.count("updates of unlike batches: every gradient is the mean") == 1


@pytest.mark.parametrize("spans", [(TEXT_ONLY, TEXT_ONLY), (0, 0), (1, 3)])
def test_what_a_batch_does_not_use_has_a_gradient_of_zeros(spans: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = tiny_model_config(40, TINY_TOKENS)
    model = build_model(config).eval()  # no dropout: two passes are compared
    set_trainable(model, FULL)
    objective = Objective(model, LossConfig(kl=0.0))
    batch = tiny_batch(config, spans, torch.Generator().manual_seed(0))
    parameters = trained_parameters(objective)
    gradients = micro_batch_gradients(objective(batch).total, parameters)
    assert all(parameter.grad is None for parameter in parameters)
    objective(batch).total.backward()
    assert any(parameter.grad is None for parameter in parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.equal(gradient, expected)


def test_a_loss_of_nothing_trained_gives_zeros() -> None:
    parameter = nn.Parameter(torch.ones(2, 3))
    (gradient,) = micro_batch_gradients(torch.tensor(2.0), [parameter])
    assert torch.equal(gradient, torch.zeros(2, 3))


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter is trainable"):
        GradientSource(nn.ModuleList([nn.Linear(2, 2).requires_grad_(False)]))


def test_the_source_gives_what_it_takes_in_one_order_under_the_same_names() -> None:
    model = nn.ModuleDict({"first": nn.Linear(2, 3), "frozen": nn.Linear(3, 3), "last": nn.Linear(3, 2)})
    model["frozen"].requires_grad_(False)
    source = GradientSource(model)
    assert [name for name, _ in source.named_parameters()] == [name for name, _ in model.named_parameters()]
    names = {parameter: name for name, parameter in model.named_parameters()}
    arrived: list[str] = []
    for parameter in source.trained:
        parameter.register_post_accumulate_grad_hook(lambda parameter: arrived.append(names[parameter]))
    shared = torch.full((3,), 2.0)  # autograd may give one tensor for two biases
    gradients = [torch.ones(3, 2), shared, torch.ones(2, 3), shared[:2]]
    (source(gradients) * 5).backward()
    assert arrived == ["last.bias", "last.weight", "first.bias", "first.weight"]
    for parameter, gradient in zip(source.trained, gradients, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient), "taken as it is"
        assert parameter.grad.data_ptr() != gradient.data_ptr(), "DeepSpeed divides it in place"


def test_a_single_trained_parameter_gets_its_gradient() -> None:
    source = GradientSource(nn.ModuleList([nn.Linear(2, 3, bias=False)]))
    source([torch.full((3, 2), 7.0)]).backward()
    assert [parameter.grad.tolist() for parameter in source.trained if parameter.grad is not None] == [[[7.0, 7.0]] * 3]


@pytest.mark.parametrize("num_gradients", [1, 3])
def test_another_number_of_gradients_is_refused(num_gradients: int) -> None:
    source = GradientSource(nn.ModuleList([nn.Linear(2, 2)]))
    with pytest.raises(ValueError, match="zip"):
        source([torch.ones(2, 2), torch.ones(2), torch.ones(2)][:num_gradients])
