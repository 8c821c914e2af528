"""Launched on two or four ranks: every rank holds another kind of batch, and the reduced gradient is read.

For PLUM, LISA and M2SA, large and small buckets, one micro-batch and ten, ZeRO-2 and ZeRO-1: the gradient that reaches
the optimizer is the mean of the ranks' own, which plain autograd computes on a copy of the model. The learning rate is
0, so that the weights stay and a rank's own gradient of a batch is computed once.
"""

import copy
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed
from deepspeed.utils import safe_get_full_grad
from torch import Tensor, nn

from partonomy.masks import encode_mask
from partonomy.structures import CharSpan
from plum.config import LoraConfig
from plum.data.collate import Collator
from plum.models.registry import build_model
from plum.models.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import Batch, Exchange, Sample
from plum.train_config import DataConfig, EngineConfig, LossConfig, OptimizerConfig, SourceConfig, TrainableConfig
from plum.training.engine import DeepSpeedEngine
from plum.training.objective import Objective
from plum.training.ranks import Ranks, start_ranks
from tests.plum.data.part_world import box_mask
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.models.sisters_world import seg_tokenizer, sister_config
from tests.plum.predictor_world import make_image

SYSTEMS = ("plum", "lisa", "m2sa")
TOLERANCE = 1e-6
"""Of a tensor's norm: what adding float32 numbers in another order may change."""
FLOOR = 1e-8
"""Norm below which a gradient counts as 0. Attention does not change when all keys move alike, so the gradient of a key
projection's bias is 0 but for rounding, and no two orders of adding round alike."""
DROPOUT_SEED = 1
ANSWERS = {
    "none": ("It is a biplane.", ()),
    "single": ("It has a wheel.", (CharSpan(9, 14),)),
    "several": ("It has a wheel and a propeller.", (CharSpan(9, 14), CharSpan(21, 30))),
}
KINDS = ("text", "none", "single", "several", "mixed")
"""`mixed`: text alone, one phrase and two phrases in one micro-batch, so another size besides."""


@dataclass(frozen=True)
class System:
    """A model with losses, what it is trained on, and the ranks' own gradients.

    `own` has, by kind of batch, float64 [ranks, trained numbers]; `arrival` the order in which a plain backward pass
    on this rank completes the gradients of its trained tensors.
    """

    objective: Objective
    batches: dict[str, Batch]
    own: dict[str, Tensor]
    arrival: dict[str, list[str]]


def make_sample(kind: str, number: int) -> Sample:
    """An image with no, one or two segmented phrases, or text alone."""
    if kind == "text":
        return Sample(f"text{number}", "test", None, ((Exchange("Hello?", "It is a wheel.", is_tagged=False),),))
    answer, spans = ANSWERS[kind]
    masks = tuple(encode_mask(box_mask(2 + number, 3 * part, 8, 7)) for part in range(len(spans)))
    exchange = Exchange("What parts?", answer, spans, masks)
    return Sample(f"{kind}{number}", "test", make_image(number, 24, 32), ((exchange,),))


def make_samples(kind: str, rank: int) -> list[Sample]:
    """A rank's batch of a kind; no two ranks have the same images."""
    kinds = ("text", "single", "several") if kind == "mixed" else (kind,)
    return [make_sample(one, 3 * rank + number) for number, one in enumerate(kinds)]


def make_system(name: str, ranks: Ranks) -> System:
    """Build a tiny system and compute the gradients that the engines are held to."""
    torch.manual_seed(0)
    if name == "plum":
        tokenizer, trainable, losses = byte_level(), TrainableConfig(), LossConfig()
        sizes = tiny_model_config(len(tokenizer), lora=LoraConfig(rank=2))
    else:
        tokenizer, sizes = seg_tokenizer(), sister_config(name)  # type: ignore[arg-type]
        trainable, losses = TrainableConfig(embeddings=True), LossConfig(bio=0.0, kl=0.0, overlap="dice")
    sizes = with_special_tokens(sizes, tokenizer)
    model = build_model(sizes)
    set_trainable(model, trainable)
    for parameter in model.parameters():  # no zeros, behind which gradients vanish
        if parameter.requires_grad:
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    collator = Collator(tokenizer, sizes, DataConfig(sources=(SourceConfig("part_vqa", "unused"),)))
    objective = Objective(model, losses)
    batches = {kind: collator(make_samples(kind, ranks.rank)) for kind in KINDS}
    own, arrival = {}, {}
    for kind, batch in batches.items():
        own[kind], arrival[kind] = own_gradients(objective, batch, ranks)
    return System(objective, batches, own, arrival)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trained tensors by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def record_arrivals(parameters: dict[str, nn.Parameter]) -> list[str]:
    """Return a list to which the names of tensors are added as a backward pass completes their gradients."""
    names: list[str] = []
    for name, parameter in parameters.items():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: names.append(name))
    return names


def own_gradients(objective: Objective, batch: Batch, ranks: Ranks) -> tuple[Tensor, list[str]]:
    """Plain autograd on a copy: every rank's gradient, [ranks, trained numbers], and the order of this rank's."""
    twin = copy.deepcopy(objective)
    parameters = trained(twin)
    arrival = record_arrivals(parameters)
    torch.manual_seed(DROPOUT_SEED)
    twin(batch).total.backward()
    gradient = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double() for p in parameters.values()]
    )
    gathered = [torch.zeros_like(gradient) for _ in range(ranks.world_size)]
    torch.distributed.all_gather(gathered, gradient)
    return torch.stack(gathered), arrival


def mixtures(num_ranks: int) -> Iterator[tuple[str, ...]]:
    """Kinds of batches side by side: every pair on two ranks; on four, every kind beside every other."""
    if num_ranks == 2:
        yield from itertools.combinations_with_replacement(KINDS, 2)
        return
    for shift, step in itertools.product(range(len(KINDS)), (0, 1)):
        yield tuple(KINDS[(shift + step * rank) % len(KINDS)] for rank in range(num_ranks))


def wrong_tensors(
    system: System, engine: DeepSpeedEngine, micro_batches: Sequence[tuple[str, ...]], rank: int
) -> list[str]:
    """Run one update and name the tensors whose reduced gradient is not the mean of the ranks' own."""
    parameters = trained(system.objective)
    for number, kinds in enumerate(micro_batches):
        torch.manual_seed(DROPOUT_SEED)
        engine.backward(engine.forward(system.batches[kinds[rank]]).total)
        if number + 1 < len(micro_batches):
            engine.step()
    reduced = {name: safe_get_full_grad(parameter) for name, parameter in parameters.items()}
    engine.step()
    means = torch.stack([system.own[kind][other] for kinds in micro_batches for other, kind in enumerate(kinds)]).mean(0)
    expected = means.split([parameter.numel() for parameter in parameters.values()])
    wrong = []
    for mean, (name, gradient) in zip(expected, reduced.items(), strict=True):
        error = (gradient.flatten().double() - mean).norm()
        if not error <= TOLERANCE * mean.norm() + FLOOR:
            wrong.append(f"{name} ({float(error):.1e} of {float(mean.norm()):.1e})")
    return wrong


def make_engine(objective: Objective, config: EngineConfig, ranks: Ranks) -> DeepSpeedEngine:
    """A float32 engine that leaves the weights as they are."""
    return DeepSpeedEngine(copy.deepcopy(objective), config, OptimizerConfig(learning_rate=0.0), 1000, ranks)


def check(name: str, system: System, config: EngineConfig, ranks: Ranks) -> int:
    """Hold one setting against every mixture; return how many updates it made.

    Raises:
        AssertionError: a gradient is not the mean, or ranks handed their gradients over in different orders.
    """
    engine = make_engine(system.objective, config, ranks)
    own = replace(system, objective=engine.objective)
    arrivals = record_arrivals(trained(own.objective))
    kinds = list(mixtures(ranks.world_size))
    updates = [(mixture,) for mixture in kinds]
    if config.accumulation > 1:
        updates = [tuple(itertools.islice(itertools.cycle(kinds), start, start + config.accumulation)) for start in (0, 5)]
    for update in updates:
        wrong = wrong_tensors(own, engine, update, ranks.rank)
        assert not wrong, f"{name}, {config}, {update}: {len(wrong)} gradients are not the mean: {wrong[:5]}"
    order = list(reversed(trained(own.objective)))
    assert arrivals == order * (len(updates) * config.accumulation), f"{name}, {config}: gradients of rank {ranks.rank} came in another order"
    return len(updates)


def main() -> None:
    ranks = start_ranks(EngineConfig(precision="fp32"))
    num_updates, are_graphs_unlike = 0, False
    for name in SYSTEMS:
        system = make_system(name, ranks)
        are_graphs_unlike |= len({tuple(arrival) for arrival in system.arrival.values()}) > 1
        largest = max(parameter.numel() for parameter in trained(system.objective).values())
        settings = itertools.product((2, 1), (largest // 2, 10**8), (1, 10))
        for stage, bucket, accumulation in settings:
            config = EngineConfig(
                precision="fp32",
                micro_batch_size=3,
                accumulation=accumulation,
                zero_stage=stage,
                reduce_bucket_size=bucket,
                gradient_checkpointing=False,
            )
            num_updates += check(name, system, config, ranks)
    assert are_graphs_unlike, "plain backward passes over these batches complete gradients in one order: no test"
    torch.distributed.barrier()
    if ranks.is_main:
        sys.stdout.write(f"{num_updates} updates of unlike batches: every gradient is the mean\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
