"""CALICO from samples to updates: several images of a sample, what is trained, and starting from another model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plum.checkpoints.store import load_pretrained, save_pretrained, save_trained
from plum.config import AdaptationConfig, CorrespondenceConfig, LoraConfig, ModelConfig
from plum.data.collate import Collator
from plum.doctor.costs import count_costs
from plum.doctor.memory import count_static_memory, estimate_memory
from plum.models.backbones.calico import CalicoBackbone
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import TINY_TOKENS, tiny_calico_config
from plum.models.trainable import set_trainable
from plum.structures import Exchange
from plum.train_config import DataConfig, LossConfig, PretextConfig, SourceConfig, TrainableConfig, TrainConfig
from plum.training.config_file import check_losses
from plum.training.initialise import initialise_from
from plum.training.objective import Objective
from plum.training.run import build_or_load
from tests.plum.models.test_several_images import TOKENIZER, sample

TRAINABLE = TrainableConfig(query_projection=False, sam_prompt_encoder=False)
DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),), max_text_tokens=300)


def make_config(adaptation: AdaptationConfig | None = None) -> ModelConfig:
    config = with_special_tokens(tiny_calico_config(len(TOKENIZER), lora=LoraConfig(rank=2, dropout=0.0)), TOKENIZER)
    assert config.calico is not None
    adaptation = adaptation or AdaptationConfig(num_modules=1, init="zero_guide")
    return replace(config, calico=replace(config.calico, adaptation=adaptation))


def make_model(config: ModelConfig, seed: int = 0) -> GroundedLMM:
    torch.manual_seed(seed)
    return build_model(config)


@pytest.fixture(scope="module")
def collator() -> Collator:
    return Collator(TOKENIZER, make_config(), DATA)


def test_batches_say_where_first_prompts_end(collator: Collator) -> None:
    pair = sample("pair", (0, 1), (1, 0))
    (exchange,) = pair.conversations[0]
    two_turns = replace(pair, conversations=((exchange, Exchange("And?", "Nothing.")), (exchange,)))
    batch = collator([two_turns, sample("one", (2,), (0,))])
    assert batch.shown.prompt_ends is not None
    for row, end in enumerate(batch.shown.prompt_ends.tolist()):
        answered = (batch.labels[row] >= 0).nonzero()[:, 0]
        assert end == int(answered[0]) - 1
    assert int(batch.shown.prompt_ends[0]) == int(batch.shown.prompt_ends[1])


def test_updates_change_what_is_trained_and_nothing_else(collator: Collator) -> None:
    model = make_model(make_config()).train()
    rows = set_trainable(model, TRAINABLE)
    batch = collator([sample("pair", (0, 1), (0, 1)), sample("three", (2, 0, 1), (2, 0))])
    objective = Objective(model, LossConfig(kl=0.0, bio=0.0), None, None)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = []
    for _ in range(6):
        result = objective(batch)
        losses.append(float(result.total.detach()))
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert changed <= trained
    assert {name.split(".")[1] for name in changed if name.startswith("llava.")} == {
        "network",
        "correspondence",
        "adaptation",
    }
    assert not any(name.startswith("query_projection") for name in trained)
    assert sum(row.trainable for row in rows) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def test_swapping_the_images_in_sams_eyes_swaps_the_masks(collator: Collator) -> None:
    model = make_model(make_config()).eval()
    batch = collator([sample("pair", (0, 1), (0, 1))])
    swapped = replace(
        batch,
        spans=replace(batch.spans, image=1 - batch.spans.image),
        sam_pixels=batch.sam_pixels.flip(0),
        frames=batch.frames[::-1],
    )
    masks, others = (model(one, with_teacher=False).mask_logits for one in (batch, swapped))
    torch.testing.assert_close(masks, others)


@torch.no_grad()
def test_swapping_the_images_in_the_text_changes_the_states(collator: Collator) -> None:
    model = make_model(make_config()).eval()
    batch = collator([sample("pair", (0, 1), (0, 1))])
    swapped = replace(batch, clip_pixels=batch.clip_pixels.flip(0))
    states = [model(one, with_teacher=False).hidden_states for one in (batch, swapped)]
    assert float((states[0] - states[1]).abs().max()) > 1e-4


def save(model: GroundedLMM, folder: Path) -> str:
    save_pretrained(model, TOKENIZER, folder, "")
    return str(folder)


def queries(model: GroundedLMM) -> tuple[Tensor, Tensor]:
    assert isinstance(model.llava, CalicoBackbone)
    assert model.llava.qformer is not None
    assert model.llava.adaptation is not None
    assert model.llava.adaptation.queries is not None
    return model.llava.adaptation.queries, model.llava.qformer.queries


def test_a_run_starts_its_own_modules_afresh_over_a_model_without_them(tmp_path: Path) -> None:
    config = make_config()
    assert config.calico is not None
    unadapted = replace(config, calico=replace(config.calico, adaptation=None, dino=None))
    other = replace(config, calico=replace(config.calico, dino=None, correspondence=CorrespondenceConfig("none")))
    folder = save(make_model(unadapted, seed=1), tmp_path / "unadapted")
    model = make_model(other)
    notes = initialise_from(model, folder)
    own, frozen = queries(model)
    assert torch.equal(own, frozen)
    assert torch.equal(frozen, load_pretrained(folder).model.state_dict()["llava.qformer.queries"])
    assert notes[1] == "Starting afresh: llava.adaptation (4 tensors)"
    with pytest.raises(ValueError, match=r"calico\.dino"):  # a frozen tower without its weights
        initialise_from(make_model(config), folder)


def test_a_run_continues_or_resets_the_modules_of_its_start(tmp_path: Path) -> None:
    config = make_config()
    start = make_model(config, seed=1)
    with torch.no_grad():
        queries(start)[0].add_(1.0)
    folder = save(start, tmp_path / "start")
    continued, reset = make_model(config), make_model(config)
    initialise_from(continued, folder)
    assert torch.equal(queries(continued)[0], queries(start)[0])
    initialise_from(reset, folder, ["llava.adaptation"])
    assert torch.equal(queries(reset)[0], queries(start)[1])
    assert config.calico is not None
    vpg_c = replace(config.calico, dino=None, correspondence=CorrespondenceConfig("none"))
    notes = initialise_from(make_model(replace(config, calico=vpg_c)), folder)
    assert notes[2].startswith("Left behind: llava.correspondence (")
    assert "llava.dino (" in notes[2]


def test_trained_weights_alone_are_saved_over_their_base(tmp_path: Path) -> None:
    base = save(make_model(make_config(), seed=1), tmp_path / "base")
    model = load_pretrained(base).model
    set_trainable(model, TRAINABLE)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    save_trained(model, TOKENIZER, tmp_path / "trained", "", base)
    loaded = load_pretrained(tmp_path / "trained").model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def make_run(config: ModelConfig, init_from: str | None, tokenizer: str | None) -> TrainConfig:
    return TrainConfig(
        run_dir="unused",
        model=config,
        data=DATA,
        init_from=init_from,
        tokenizer=tokenizer,
        losses=LossConfig(kl=0.0, bio=0.0),
        trainable=TRAINABLE,
    )


def test_a_projection_that_nothing_trains_has_to_come_from_somewhere(tmp_path: Path) -> None:
    config = make_config()
    folder = save(make_model(config, seed=1), tmp_path / "start")
    run = make_run(config, folder, None)
    check_losses(run)  # embeddings may stay frozen: the start knows [SEG]
    _, model = build_or_load(run)
    assert torch.equal(
        model.state_dict()["query_projection.layers.0.weight"].float(),
        load_pretrained(folder).model.state_dict()["query_projection.layers.0.weight"].bfloat16().float(),
    )
    for broken in (replace(run, init_from=None, tokenizer=folder), replace(run, reset_modules=("query_projection",))):
        with pytest.raises(ValueError, match="query_projection is false, and init_from holds no trained projection"):
            build_or_load(broken)


def test_the_part_pretext_needs_tokens_with_a_place() -> None:
    config = make_config()
    run = replace(make_run(config, "unused", None), part_pretext=PretextConfig())
    check_losses(run)  # it reads what the adaptation modules read
    assert config.calico is not None
    plain = replace(config.calico, adaptation=None, dino=None)
    with pytest.raises(ValueError, match="part_pretext classifies what is read of an image by its place"):
        check_losses(replace(run, model=replace(config, calico=plain)))


def test_what_has_no_formula_says_so() -> None:
    config = replace(make_config(), llava=replace(make_config().llava, special_tokens=TINY_TOKENS))
    run = make_run(config, "unused", None)
    for changed in (replace(TRAINABLE, qformer=True), replace(TRAINABLE, dino=True)):
        with pytest.raises(ValueError, match="memory is estimated for CALICO's frozen towers"):
            estimate_memory(replace(run, trainable=changed), 1)
    costs = count_costs(run, 1, 64, 1)
    assert costs.training_bytes == estimate_memory(run, 1).peak
    assert config.calico is not None
    unread = replace(run, model=replace(config, calico=replace(config.calico, adaptation=None)))
    without = count_costs(unread, 1, 64, 1).forward_flops
    assert costs.forward_flops is not None
    assert without is not None
    assert costs.forward_flops > without > 0, "layers read the image again"
    components = {one.component: one for one in count_static_memory(run, 1).components}
    assert components["calico.qformer"].weight_bytes == 4 * components["calico.qformer"].num_parameters
    assert components["calico.dino"].weight_bytes == 2 * components["calico.dino"].num_parameters
