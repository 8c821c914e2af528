"""Launched on two or four ranks: every rank holds another kind of batch, and the reduced gradient is read.

For PLUM, LISA and M2SA, large and small buckets, one micro-batch and ten, ZeRO-2, ZeRO-1 and DistributedDataParallel,
float32 and bfloat16: the gradient that reaches the optimizer is the mean of the ranks' own, which plain autograd
computes on a copy of the model and which are added here in float64. The learning rate is 0, so that the weights stay
and a rank's own gradient of a batch is computed once.
"""

import copy
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed
from torch import Tensor, nn

from partonomy.masks import encode_mask
from partonomy.structures import CharSpan
from plum.config import LoraConfig, ModelConfig, TaggerConfig
from plum.data.collate import Collator
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import Batch, Exchange, Sample
from plum.train_config import DataConfig, EngineConfig, LossConfig, OptimizerConfig, SourceConfig, TrainableConfig
from plum.training.engine import DdpEngine, DeepSpeedEngine, build_engine
from plum.training.objective import Objective
from plum.training.ranks import Ranks, start_ranks
from tests.plum.data.part_world import box_mask
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.models.systems.sisters_world import seg_tokenizer, sister_config
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
    """A model with losses, and this rank's batch of every kind."""

    name: str
    objective: Objective
    batches: dict[str, Batch]


@dataclass(frozen=True)
class OwnGradients:
    """What plain autograd computes for a batch: float64 [ranks, trained numbers], the gradient of loss / accumulation.

    `arrival`: the order in which the backward pass on this rank completes the gradients of its trained tensors.
    """

    by_rank: Tensor
    arrival: tuple[str, ...]


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


def one_layer(sizes: ModelConfig) -> ModelConfig:
    """Every stack with one layer: the number of tensors is what this test takes its time for."""
    llava, sam = sizes.llava, sizes.sam
    vision, language = replace(llava.vision, num_layers=1), replace(llava.language, num_layers=1)
    sam = replace(sam, encoder_depth=1, encoder_global_blocks=(0,))
    return replace(sizes, llava=replace(llava, vision=vision, language=language), sam=sam)


def make_system(name: str, ranks: Ranks) -> System:
    """Build a tiny system."""
    torch.manual_seed(0)
    if name == "plum":
        tokenizer, trainable, losses = byte_level(), TrainableConfig(), LossConfig()
        # Every module that a tagger can have; a batch of text alone does not run its cross-attention.
        tagger = TaggerConfig(num_heads=4, feedforward_dim=64, use_crf=True, use_cross_attention=True)
        sizes = tiny_model_config(len(tokenizer), lora=LoraConfig(rank=2), tagger=tagger)
    else:
        tokenizer, sizes = seg_tokenizer(), sister_config(name)  # type: ignore[arg-type]
        trainable, losses = TrainableConfig(embeddings=True), LossConfig(bio=0.0, kl=0.0, overlap="dice")
    sizes = with_special_tokens(one_layer(sizes), tokenizer)
    model = build_model(sizes)
    set_trainable(model, trainable)
    for parameter in model.parameters():  # no zeros, behind which gradients vanish
        if parameter.requires_grad:
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    collator = Collator(tokenizer, sizes, DataConfig(sources=(SourceConfig("part_vqa", "unused"),)))
    objective = Objective(model, losses)
    return System(name, objective, {kind: collator(make_samples(kind, ranks.rank)) for kind in KINDS})


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trained tensors by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def record_arrivals(parameters: dict[str, nn.Parameter]) -> list[str]:
    """Return a list to which the names of tensors are added as a backward pass completes their gradients."""
    names: list[str] = []
    for name, parameter in parameters.items():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: names.append(name))
    return names


def own_gradients(system: System, precision: str, accumulation: int, ranks: Ranks) -> dict[str, OwnGradients]:
    """Return the gradients of every kind of batch, by plain autograd on a copy of the model."""
    twin = copy.deepcopy(system.objective).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    parameters = trained(twin)
    arrival = record_arrivals(parameters)
    own = {}
    for kind, batch in system.batches.items():
        arrival.clear()
        twin.zero_grad(set_to_none=True)
        torch.manual_seed(DROPOUT_SEED)
        (twin(batch).total / accumulation).backward()
        gradient = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double() for p in parameters.values()]
        )
        gathered = [torch.zeros_like(gradient) for _ in range(ranks.world_size)]
        torch.distributed.all_gather(gathered, gradient)
        own[kind] = OwnGradients(torch.stack(gathered), tuple(arrival))
    return own


def mixtures(num_ranks: int) -> Iterator[tuple[str, ...]]:
    """Kinds of batches side by side: every pair on two ranks; on four, every kind beside every other."""
    if num_ranks == 2:
        yield from itertools.combinations_with_replacement(KINDS, 2)
        return
    for shift, step in itertools.product(range(len(KINDS)), (0, 1)):
        yield tuple(KINDS[(shift + step * rank) % len(KINDS)] for rank in range(num_ranks))


def read_gradients(parameters: dict[str, nn.Parameter]) -> Tensor:
    """Return what the optimizer is about to use, [trained numbers], put together from the ranks' shares.

    `deepspeed.utils.safe_get_full_grad` does so too, in one all-reduce a tensor, which is slow on the CPU.
    """
    whole = torch.zeros(sum(parameter.numel() for parameter in parameters.values()))
    for part, parameter in zip(whole.split([p.numel() for p in parameters.values()]), parameters.values(), strict=True):
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]  # None: another rank has all of it
        if mapping is not None:
            address = mapping.lp_fragment_address
            own = slice(address.start, address.start + address.numel)
            share = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()  # type: ignore[attr-defined]
            # DeepSpeed's ZeRO-1 in bfloat16 keeps whole gradients on every rank.
            part[own] = share[own] if share.numel() == parameter.numel() else share
    torch.distributed.all_reduce(whole)
    return whole


def reduced_gradients(
    engine: DdpEngine | DeepSpeedEngine, batches: dict[str, Batch], update: Sequence[tuple[str, ...]], rank: int
) -> Tensor:
    """Run one update, whose micro-batches are of the given kinds by rank; return what the optimizer was given."""
    parameters = trained(engine.objective)
    reduced = torch.zeros(())
    for number, kinds in enumerate(update):
        torch.manual_seed(DROPOUT_SEED)
        engine.backward(engine.forward(batches[kinds[rank]]).total)
        if number + 1 == len(update):
            if isinstance(engine, DdpEngine):
                reduced = torch.cat(
                    [weight.grad.flatten() for weight in engine._weights.values() if weight.grad is not None]
                )
            else:
                reduced = read_gradients(parameters)
        engine.step()
    return reduced


def wrong_tensors(
    parameters: dict[str, nn.Parameter],
    reduced: Tensor,
    own: dict[str, OwnGradients],
    update: Sequence[tuple[str, ...]],
) -> list[str]:
    """Name the tensors whose reduced gradient is not the mean over ranks of the sum over micro-batches of their own."""
    sums = [torch.stack([own[kind].by_rank[rank] for rank, kind in enumerate(kinds)]).mean(0) for kinds in update]
    sizes = [parameter.numel() for parameter in parameters.values()]
    wrong = []
    for name, mean, gradient in zip(parameters, sum(sums).split(sizes), reduced.split(sizes), strict=True):  # type: ignore[union-attr]
        error = (gradient.double() - mean).norm()
        if not error <= TOLERANCE * mean.norm() + FLOOR:
            wrong.append(f"{name} ({float(error):.1e} of {float(mean.norm()):.1e})")
    return wrong


def check(system: System, config: EngineConfig, own: dict[str, OwnGradients], ranks: Ranks) -> int:
    """Hold one setting against the mixtures; return how many updates it made.

    Raises:
        AssertionError: a gradient is not the mean, or gradients were handed over in another order.
    """
    objective = copy.deepcopy(system.objective)
    engine = build_engine(objective, config, OptimizerConfig(learning_rate=0.0), 1000, ranks)
    assert isinstance(engine, DdpEngine | DeepSpeedEngine)
    is_ddp = isinstance(engine, DdpEngine)
    arrivals = record_arrivals(engine._weights if isinstance(engine, DdpEngine) else trained(objective))
    updates = cut(list(mixtures(ranks.world_size)), config.accumulation)
    for update in updates:
        reduced = reduced_gradients(engine, system.batches, update, ranks.rank)
        wrong = wrong_tensors(trained(objective), reduced, own, update)
        assert not wrong, f"{system.name}, {config}, {update}: {len(wrong)} gradients are not the mean: {wrong[:5]}"
    order = list(trained(objective)) if is_ddp else list(reversed(trained(objective)))
    assert arrivals == order * (len(updates) * config.accumulation), f"{system.name}, {config}: another order"
    return len(updates)


def cut(kinds: list[tuple[str, ...]], accumulation: int) -> list[tuple[tuple[str, ...], ...]]:
    """Cut mixtures into updates; the last is filled up from the beginning."""
    filled = itertools.islice(itertools.cycle(kinds), -(-len(kinds) // accumulation) * accumulation)
    return [tuple(update) for update in zip(*[filled] * accumulation, strict=True)]


def settings(smallest: int, largest: int) -> list[EngineConfig]:
    """Both stages, both precisions, both sizes of buckets, one micro-batch and ten; then the same without DeepSpeed."""
    base = EngineConfig(precision="fp32", micro_batch_size=3, accumulation=10, gradient_checkpointing=False)
    stage_2 = [
        replace(base, accumulation=accumulation, reduce_bucket_size=size)
        for accumulation, size in itertools.product((1, 10), (smallest, largest))
    ]
    others = [
        replace(base, reduce_bucket_size=smallest, precision=precision, zero_stage=stage)
        for precision, stage in (("fp32", 1), ("bf16", 2), ("bf16", 1))
    ]
    without = [
        replace(base, kind="ddp", precision=precision, accumulation=accumulation)
        for precision, accumulation in (("fp32", 1), ("fp32", 10), ("bf16", 10))
    ]
    return stage_2 + others + without


def main() -> None:
    ranks = start_ranks(EngineConfig(precision="fp32"))
    num_updates = 0
    for name in SYSTEMS:
        system = make_system(name, ranks)
        sizes = [parameter.numel() for parameter in trained(system.objective).values()]
        own: dict[tuple[str, int], dict[str, OwnGradients]] = {}
        for config in settings(max(sizes) // 2, 2 * sum(sizes)):
            key = config.precision, config.accumulation
            if key not in own:
                own[key] = own_gradients(system, *key, ranks)
            num_updates += check(system, config, own[key], ranks)
        arrivals = {gradients.arrival for gradients in own["fp32", 1].values()}
        assert len(arrivals) > 1, f"{name}: plain backward passes complete gradients in one order, which tests nothing"
    torch.distributed.barrier()
    if ranks.is_main:
        sys.stdout.write(f"{num_updates} updates of unlike batches: every gradient is the mean\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
