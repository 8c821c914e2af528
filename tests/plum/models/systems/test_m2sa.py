"""Sisters as models: LISA's builder, M2SA's early fusion, what is trained, and combinations that make no sense."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from plum.config import FeedbackConfig, ModelConfig, SamConfig, TaggerConfig
from plum.losses.losses import compute_losses, weighted_sum
from plum.losses.mask_losses import losses_by_mask, sum_pixels
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.m2sa import EarlyFusion, EarlyFusionSam
from plum.models.systems.registry import build_model
from plum.models.tiny import tiny_batch
from plum.models.trainable import set_trainable
from plum.structures import Batch
from plum.train_config import TrainableConfig
from plum.training.config_file import load_train_config
from plum.training.optimizer import learning_rate_factor
from tests.plum.models.systems.sisters_world import make_sister, sister_config

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
SISTERS = CONFIGS / "sisters"
SPANS = (2, -1, 0, 3)
"""Targets of four conversations; the second has no image."""


def _batch(model: GroundedLMM) -> Batch:
    config = model.config
    tokens = config.llava.special_tokens
    assert tokens is not None
    batch = tiny_batch(config, SPANS, torch.Generator().manual_seed(2))
    # tiny_batch writes its own image id and two-token phrases; a [SEG] is one token.
    ids = batch.input_ids.masked_fill(batch.input_ids == tokens.image, 5)
    ids[batch.shown.rows[:, 0] >= 0, 1 : 1 + model.llava.num_image_tokens] = tokens.image
    spans = replace(batch.spans, end=batch.spans.start + 1)
    return replace(batch, input_ids=ids, spans=spans)


def _twin_of(lisa: GroundedLMM) -> GroundedLMM:
    """M2SA with LISA's weights; only the fusion's are its own."""
    m2sa = make_sister(sister_config("m2sa"), seed=1)
    found = m2sa.load_state_dict(lisa.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert {name.rsplit(".", 2)[0] for name in found.missing_keys} == {"sam.early_fusion.layers"}
    return m2sa


@torch.no_grad()
def test_without_its_fusion_m2sa_is_lisa_bit_for_bit() -> None:
    lisa = make_sister(sister_config("lisa"))
    m2sa, batch = _twin_of(lisa), _batch(lisa)
    ours, theirs = m2sa(batch, with_teacher=False), lisa(batch, with_teacher=False)
    assert not torch.equal(ours.mask_logits, theirs.mask_logits), "the fusion has an effect"
    assert isinstance(m2sa.sam, EarlyFusionSam)
    last = m2sa.sam.early_fusion.layers[3]
    last.weight.zero_()
    last.bias.zero_()
    ours = m2sa(batch, with_teacher=False)
    assert theirs.mask_logits.abs().max() > 0
    for name in ("hidden_states", "token_logits", "mask_logits"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    losses = load_train_config(["--config", str(SISTERS.parent / "lisa_7b.yaml")]).losses
    assert torch.equal(
        weighted_sum(compute_losses(ours, batch, losses), losses),
        weighted_sum(compute_losses(theirs, batch, losses), losses),
    )


@pytest.mark.parametrize(("global_blocks", "first"), [((1,), 1), ((1, 3), 1), ((3, 2), 2)])
@torch.no_grad()
def test_the_fusion_reads_the_first_global_block_once_per_image(global_blocks: tuple[int, ...], first: int) -> None:
    config = sister_config("m2sa")
    sizes = replace(config.sam, encoder_depth=4, encoder_global_blocks=global_blocks)
    sam = make_sister(replace(config, sam=sizes)).sam
    assert isinstance(sam, EarlyFusionSam)
    assert sam.block == first
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # The encoder step by step, as segment_anything's own forward does it.
    encoder = sam.image_encoder
    states = encoder.patch_embed(pixels) + encoder.pos_embed
    for block in encoder.blocks[: first + 1]:
        states = block(states)
    early = states
    for block in encoder.blocks[first + 1 :]:
        states = block(states)
    expected = encoder.neck(states.permute(0, 3, 1, 2)) + sam.early_fusion(early)
    torch.testing.assert_close(sam.encode_images(pixels).main, expected)


def test_a_frozen_encoder_still_trains_the_fusion() -> None:
    model = make_sister(sister_config("m2sa"))
    rows = {row.module: row for row in set_trainable(model, TrainableConfig(embeddings=True))}
    assert rows["sam.early_fusion"].trainable == rows["sam.early_fusion"].total > 0
    assert rows["sam.image_encoder"].trainable == 0
    batch = _batch(model)
    output = model(batch, with_teacher=False)
    output.mask_logits.square().mean().backward()
    gradients = [parameter.grad for parameter in model.sam.early_fusion.parameters()]
    assert all(gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients)
    assert all(parameter.grad is None for parameter in model.sam.image_encoder.parameters())


def test_parameters_of_the_fusion_at_vit_h() -> None:
    with torch.device("meta"):
        fusion = EarlyFusion(SamConfig().encoder_dim, SamConfig().prompt_dim)
    # 1280 x 256 x 9 + 256, norm 2 x 256, 256 x 256 x 9 + 256
    assert sum(parameter.numel() for parameter in fusion.parameters()) == 3_539_968


def test_what_lisa_and_m2sa_train_at_full_size() -> None:
    trained = {}
    for name in ("lisa_7b", "m2sa_7b"):
        config = load_train_config(["--config", str(CONFIGS / f"{name}.yaml")])
        with torch.device("meta"):
            model = build_model(config.model)
        rows = set_trainable(model, config.trainable)
        trained[name] = {row.module: row.trainable for row in rows if row.trainable}
        adapters = [key for key, _ in model.named_parameters() if "lora_A" in key]
        assert len(adapters) == 2 * config.model.llava.language.num_layers
        assert all("language_model.layers" in key for key in adapters), "none under CLIP or SAM"
    # D = 4096, 32 layers: adapters; embed_tokens' trained copy and lm_head; 4096^2 + 4096 + 4096 x 256 + 256.
    assert trained["lisa_7b"] == {
        "llava.lora": 32 * 2 * 8 * 2 * 4096,
        "llava.embeddings": 2 * 32064 * 4096,
        "query_projection": 17_830_144,
        "sam.mask_decoder": 4_058_340,
    }
    assert trained["m2sa_7b"] == trained["lisa_7b"] | {"sam.early_fusion": 3_539_968}


def test_lisa_has_no_tagger_and_feedback_only_on_request() -> None:
    plain, fed = make_sister(sister_config()), make_sister(sister_config(has_feedback=True))
    assert plain.tagger is None
    assert plain.feedback is None
    assert fed.feedback is not None
    batch = _batch(plain)
    with torch.no_grad():
        output = plain(batch, with_teacher=False)
    assert output.tag_logits is None
    terms = compute_losses(output, batch, load_train_config(["--config", str(CONFIGS / "lisa_7b.yaml")]).losses)
    assert terms.bio is None
    assert terms.kl is None
    assert float(terms.mask_overlap) > 0


@pytest.mark.parametrize(
    ("system", "changes", "message"),
    [
        ("lisa", {"seg_token": None}, "model.system lisa needs model.seg_token and no model.tagger"),
        ("lisa", {"tagger": TaggerConfig()}, "model.system lisa needs model.seg_token and no model.tagger"),
        ("m2sa", {"seg_token": None}, "model.system m2sa needs model.seg_token"),
        ("plum", {"tagger": None}, "model.system plum needs model.tagger and no model.seg_token"),
    ],
)
def test_a_configuration_of_another_system_is_refused(
    system: Literal["plum", "lisa", "m2sa"], changes: dict[str, object], message: str
) -> None:
    config: ModelConfig = replace(sister_config(system), **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        build_model(config)


def test_m2sa_needs_a_global_block() -> None:
    config = sister_config("m2sa")
    with pytest.raises(ValueError, match="encoder_global_blocks is empty"):
        build_model(replace(config, sam=replace(config.sam, encoder_global_blocks=())))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--losses.bio", "2"], "losses.bio is 2.0, but model.tagger is null"),
        (["--losses.kl", "0.1"], "losses.kl is 0.1: the KL term"),
        (["--trainable.embeddings", "false"], "set trainable.embeddings to true"),
    ],
)
def test_losses_that_a_sister_has_not_are_refused(flags: list[str], message: str) -> None:
    base, overlay = CONFIGS / "ablations" / "base.yaml", SISTERS / "lisa_many.yaml"
    with pytest.raises(ValueError, match=message):
        load_train_config(["--config", str(base), "--config", str(overlay), *flags])


@pytest.mark.parametrize(
    ("overlay", "differs_from_lisa_many"),
    [
        ("lisa_single", {"targets"}),
        ("lisa_feedback", {"feedback", "sam_prompt_encoder"}),
        ("m2sa", {"system"}),
    ],
)
def test_sisters_are_one_switch_apart(overlay: str, differs_from_lisa_many: set[str]) -> None:
    base = CONFIGS / "ablations" / "base.yaml"
    many, other = (
        load_train_config(["--config", str(base), "--config", str(SISTERS / f"{name}.yaml")])
        for name in ("lisa_many", overlay)
    )
    found = set()
    assert many.model.seg_token is not None
    assert other.model.seg_token is not None
    if many.model.seg_token.targets != other.model.seg_token.targets:
        found.add("targets")
    if many.model.system != other.model.system:
        found.add("system")
    if replace(many.model.feedback, is_enabled=True) == other.model.feedback:
        found.add("feedback")
    if many.trainable != other.trainable:
        found.add("sam_prompt_encoder")
        assert replace(many.trainable, sam_prompt_encoder=True) == other.trainable
    assert found == differs_from_lisa_many
    assert many.losses == other.losses
    assert (many.losses.mask_overlap, many.losses.overlap, many.losses.mask_bce, many.losses.language) == (
        0.5,
        "dice",
        2.0,
        1.0,
    )


def test_overlays_also_make_a_stage_0() -> None:
    flags = ["--config", str(CONFIGS / "plum_tiny_stage0.yaml"), "--config", str(SISTERS / "m2sa.yaml")]
    config = load_train_config([*flags, "--model.lora", "null"])
    assert config.model.lora is None
    assert config.model.feedback == replace(FeedbackConfig(), is_enabled=False, num_heads=8)
    with torch.device("meta"):
        model = build_model(config.model)
    set_trainable(model, config.trainable)


def test_mask_losses_of_the_shipped_recipe() -> None:
    """LISA's Dice has an effective smoothing of a thousandth of a pixel: an empty target costs 1, not 0."""
    losses = load_train_config(["--config", str(CONFIGS / "lisa_13b.yaml")]).losses
    half, never = torch.zeros(1, 10, 10), torch.full((1, 10, 10), -1e4)
    empty = torch.zeros(1, 10, 10, dtype=torch.bool)

    def found(logits: Tensor, targets: Tensor) -> list[float]:
        return [float(loss) for loss in losses_by_mask(sum_pixels(logits, targets, None), losses)]

    assert found(never, empty)[0] == pytest.approx(0.0, abs=1e-6)
    # p = .5 on 100 pixels: sum 50, / 1000 = .05; 1 - 1e-6 / (.05 + 1e-6) = .99998
    assert found(half, empty)[0] == pytest.approx(0.99998, abs=1e-6)
    right = torch.where(torch.arange(100).view(1, 10, 10) < 30, 1e4, -1e4)
    assert found(right, right > 0)[0] == pytest.approx(0.0, abs=1e-6)
    for size, target in ((4, False), (4, True), (9, True)):
        everywhere = torch.full((1, size, size), target)
        assert found(torch.zeros(1, size, size), everywhere)[1] == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize(("update", "rate"), [(50, 1.5e-4), (100, 3e-4), (2550, 1.5e-4), (5000, 0.0)])
def test_schedule_of_the_shipped_recipe(update: int, rate: float) -> None:
    """WarmupDecayLR over 100 of 5,000 updates, up to one step of indexing."""
    config = load_train_config(["--config", str(CONFIGS / "lisa_13b.yaml")])
    factor = learning_rate_factor(update, config.num_updates, config.optimizer)
    assert factor * config.optimizer.learning_rate == pytest.approx(rate, abs=3e-4 / 100 + 1e-9)
