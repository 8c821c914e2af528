import math
from typing import Literal

import pytest
import torch

from plum.train_config import OptimizerConfig
from plum.training.optimizer import apply_schedule, build_optimizer, build_scheduler, learning_rate_factor


def test_linear_schedule_golden() -> None:
    # 10 updates, 4 of warm-up: 1/4, 2/4, 3/4, 4/4, then (10 - u) / 6: 6/6, 5/6, ..., 1/6, and 0 after the last.
    config = OptimizerConfig(warmup_updates=4, decay="linear")
    factors = [learning_rate_factor(update, 10, config) for update in range(11)]
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0]
    assert factors == pytest.approx(expected)


def test_cosine_schedule_golden() -> None:
    # Half-way down the decay the cosine gives exactly one half: update 8 of 4 + 8, remaining 4/8,
    # (1 - cos(pi/2)) / 2 = .5
    config = OptimizerConfig(warmup_updates=4, decay="cosine")
    assert learning_rate_factor(8, 12, config) == pytest.approx(0.5)
    assert learning_rate_factor(4, 12, config) == pytest.approx(1.0)
    assert learning_rate_factor(11, 12, config) == pytest.approx(0.5 * (1 - math.cos(math.pi / 8)))


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (3, [1 / 3, 2 / 3, 1.0, 1.0, 0.0, 0.0]),  # one update of decay: (4 - 3) / (4 - 3) at update 3, 0 after the last
        (4, [1 / 4, 2 / 4, 3 / 4, 1.0, 0.0, 0.0]),  # no decay; the scheduler still asks for update 4, after the last
        (6, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0]),  # the run of four updates ends during its warm-up
    ],
)
def test_schedules_with_little_or_no_decay(
    warmup: int, expected: list[float], decay: Literal["linear", "cosine"]
) -> None:
    config = OptimizerConfig(warmup_updates=warmup, decay=decay)
    assert [learning_rate_factor(update, 4, config) for update in range(6)] == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [0, 1, 100])
def test_no_update_is_spent_at_rate_zero(warmup: int) -> None:
    config = OptimizerConfig(warmup_updates=warmup)
    assert all(learning_rate_factor(update, 200, config) > 0 for update in range(200))


def test_decay_skips_vectors() -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(layer.parameters(), OptimizerConfig(weight_decay=0.1))
    decays = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {(2, 3): 0.1, (2,): 0.0}


def test_scheduler_starts_at_the_first_warmup_rate() -> None:
    layer = torch.nn.Linear(3, 2)
    config = OptimizerConfig(learning_rate=1.0, warmup_updates=4)
    optimizer = build_optimizer(layer.parameters(), config)
    scheduler = build_scheduler(optimizer, 10, config)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.25)


def test_a_schedule_for_another_number_of_groups_is_refused() -> None:
    config = OptimizerConfig()
    of_one = build_optimizer([torch.nn.Parameter(torch.ones(2, 3))], config)  # no vector: one group
    of_two = build_optimizer(torch.nn.Linear(3, 2).parameters(), config)
    assert (len(of_one.param_groups), len(of_two.param_groups)) == (1, 2)
    with pytest.raises(ValueError, match="zip"):
        apply_schedule(of_two, build_scheduler(of_one, 10, config), config, 0)


def test_the_schedule_of_this_run_replaces_a_loaded_one() -> None:
    # The checkpoint's run had the peak rate 1 over 10 updates, this one has 2 over 20, both with 4 of warm-up: update
    # 12 has the rate 2 * (20 - 12) / (20 - 4) = 1 instead of 0.
    optimizer = build_optimizer(torch.nn.Linear(3, 2).parameters(), OptimizerConfig())
    config = OptimizerConfig(learning_rate=2.0, warmup_updates=4, decay="linear")
    scheduler = build_scheduler(optimizer, 20, config)
    scheduler.load_state_dict(scheduler.state_dict() | {"base_lrs": [1.0, 1.0], "last_epoch": 12})
    apply_schedule(optimizer, scheduler, config, 12)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 1.0])
    assert scheduler.get_last_lr() == pytest.approx([1.0, 1.0])
    scheduler.step()  # update 13: 2 * 7 / 16
    assert scheduler.get_last_lr() == pytest.approx([0.875, 0.875])
