"""FLOPs of a training step: numbers by hand, and torch's own count of real steps, for every system and family."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plum.checkpoints.stock_folder import read_stock_checkpoint
from plum.config import LanguageConfig, LoraConfig, ModelConfig
from plum.data.collate import Collator
from plum.doctor.counted_flops import BackboneFlops
from plum.doctor.step_flops import StepCounter, StepFlops, fusion_flops
from plum.models.backbones.hf import FAMILIES
from plum.models.backbones.shared_beginnings import SequenceLayout
from plum.models.batch_plan import plan_batch, student_layout, supervised_places, teacher_layout
from plum.models.grounded_lmm import GroundedLMM, supervised_states
from plum.models.heads.teacher import span_teacher_states
from plum.models.systems.m2sa import EarlyFusionSam
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_calico_config, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import TEXT_ONLY, Batch, ConversationImages
from plum.train_config import DataConfig, LossConfig, SourceConfig, TrainableConfig, TrainConfig
from plum.training.objective import Objective
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.plum.models.systems.sisters_world import make_sister, seg_tokenizer, sister_config
from tests.plum.models.test_several_images import TOKENIZER
from tests.plum.stock_world import stock_config
from tests.plum.training.test_device_waits import _sample

DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))


def run_of(model: ModelConfig, trainable: TrainableConfig | None = None, kl: float = 0.1) -> TrainConfig:
    return TrainConfig(
        run_dir="unused",
        model=model,
        data=DATA,
        trainable=trainable or TrainableConfig(),
        losses=LossConfig(kl=kl) if model.seg_token is None else LossConfig(bio=0.0, kl=0.0, overlap="dice"),
    )


def small_language(lora: LoraConfig | None) -> ModelConfig:
    """Width 2, one head, hidden 3: 4 * 2 * 2 + 3 * 2 * 3 = 34 weights."""
    config = tiny_model_config(8, TINY_TOKENS, lora)
    language = LanguageConfig(8, hidden_size=2, intermediate_size=3, num_layers=1, num_heads=1, num_key_value_heads=1)
    tagger = replace(config.tagger, num_heads=1)  # type: ignore[type-var]
    return replace(config, llava=replace(config.of_llava, language=language), tagger=tagger)


def test_language_flops_by_hand() -> None:
    # 3 tokens, frozen with a gradient passing: 4 * 34 * 3 = 408. Attention: 3 * 4 / 2 = 6 pairs, 4 * 6 * 2 = 48
    # forward, 96 backward. Without gradients: 2 * 34 * 3 + 48.
    frozen = TrainableConfig(language_model="frozen")
    flops = BackboneFlops(small_language(None), TINY_TOKENS, frozen)
    assert flops.of_tokens(3, 6) == 408 + 144
    assert flops.of_tokens(3, 5) == 408 + 120
    assert flops.of_teacher_tokens(3, 6) == 204 + 48
    # The output layer is frozen, and the gradient passes: 4 FLOPs a weight.
    assert flops.of_prediction == 4 * 2 * 8
    full = BackboneFlops(small_language(None), TINY_TOKENS, TrainableConfig(language_model="full"))
    assert full.of_tokens(3, 6) == 6 * 34 * 3 + 144
    assert full.of_prediction == 6 * 2 * 8
    # Rank 1 on q and v: 2 * (2 + 2) trained weights, 6 FLOPs each a token; the teacher has none.
    adapted = BackboneFlops(small_language(LoraConfig(rank=1)), TINY_TOKENS, TrainableConfig())
    assert adapted.of_tokens(3, 6) == 408 + 144 + 6 * 8 * 3
    assert adapted.of_teacher_tokens(3, 6) == 204 + 48
    # Forward alone, adapters included.
    assert BackboneFlops(small_language(LoraConfig(rank=1)), TINY_TOKENS, None).of_tokens(3, 6) == 252 + 48


def test_common_beginnings_count_once() -> None:
    # <image> 5 6, <image> 5 7 and <image> 5, two of them in common: 4 tokens. Two see 1 and 2, each of the others 3.
    image = TINY_TOKENS.image
    ids, mask = torch.tensor([[image, 5, 6], [image, 5, 7], [image, 5, 0]]), torch.tensor([[1, 1, 1]] * 2 + [[1, 1, 0]])
    counter = StepCounter(run_of(tiny_model_config(40, lora=LoraConfig(rank=2))), TINY_TOKENS)
    one_image = counter.count_tokens(ids, mask, ConversationImages.of_one_image(3, 1, ids.device))
    assert (one_image.tokens, one_image.pairs) == (4, 1 + 2 + 3 + 3)
    apart = counter.count_tokens(ids, mask, ConversationImages(torch.arange(3)[:, None], (1, 1, 1)))
    assert (apart.tokens, apart.pairs) == (8, 6 + 6 + 3)


def test_readings_are_those_of_different_prompts() -> None:
    config = tiny_calico_config(60, TINY_TOKENS, LoraConfig(rank=2))
    counter = StepCounter(run_of(config), TINY_TOKENS)
    image = TINY_TOKENS.image
    ids = torch.tensor([[image] * 3 + [5, 6], [image] * 3 + [5, 7], [image] * 3 + [8, 7]])
    shown = ConversationImages(torch.zeros(3, 1, dtype=torch.long), (3,), torch.tensor([3, 3, 3]))
    counts = counter.count_tokens(ids, torch.ones_like(ids), shown)
    assert (counts.tokens, counts.readings) == (6 + 5, 2)


def test_tagger_and_teacher_flops_by_hand() -> None:
    """Two conversations of 23 tokens about an image, 5 of them in common; 12 tagged each; spans end at 13 and 16."""
    config = tiny_model_config(400, TINY_TOKENS, LoraConfig(rank=2))
    counter = StepCounter(run_of(config), TINY_TOKENS)
    batch = tiny_batch(config, (1, 2), torch.Generator().manual_seed(0), conversations_per_image=2)
    # Width 32, hidden 64: keys, values and MLP of 5 + 2 x 18 = 41 tokens; queries, output, hidden layers, tags of 24.
    weights = 4 * 32 * 32 * 41 + (2 * 32 * 32 + 2 * 32 * 64 + 3 * 32) * 24
    assert counter.tagger(batch) == 6 * weights + 12 * (24 * 23) * 32
    # Cross-attention to 4 image tokens: queries and outputs of 24 tokens, keys and values of 2 x 4.
    assert config.tagger is not None
    attentive = run_of(replace(config, tagger=replace(config.tagger, use_cross_attention=True)))
    own = 6 * 2 * 32 * 32 * (24 + 8) + 12 * (24 * 4) * 32
    assert StepCounter(attentive, TINY_TOKENS).tagger(batch) == counter.tagger(batch) + own
    # The teacher reads 5 + 8 + 11 = 24 tokens: 15 pairs among the first five, then 5 x 8 + 36 and 5 x 11 + 66.
    weights = 2 * (4 * 32 * 32 + 3 * 32 * 64) * 24  # two layers
    assert counter.teacher(batch) == 2 * weights + 2 * 4 * (15 + 76 + 121) * 32


@pytest.mark.parametrize("is_encoder_trained", [False, True])
def test_fusion_flops_are_torchs_count(is_encoder_trained: bool) -> None:
    model = make_sister(sister_config("m2sa"))
    assert isinstance(model.sam, EarlyFusionSam)
    early = torch.randn(1, 4, 4, 32, requires_grad=is_encoder_trained)
    with FlopCounterMode(display=False) as counter:
        model.sam.early_fusion(early).sum().backward()
    assert fusion_flops(model.config.sam, is_encoder_trained=is_encoder_trained) == counter.get_total_flops()
    run = run_of(model.config, TrainableConfig(embeddings=True, sam_image_encoder=is_encoder_trained))
    batch = Collator(seg_tokenizer(), model.config, DATA)([_sample(0, (24, 32))])
    fused = count(run, model, batch).sam_encoder
    as_lisa = replace(run, model=replace(run.model, system="lisa"))
    assert fused - count(as_lisa, model, batch).sam_encoder == counter.get_total_flops()


# A real step, counted by torch.


def counted_step(model: GroundedLMM, run: TrainConfig, batch: Batch) -> float:
    """FLOPs of a real step as torch counts them; the unseen pairs of attention, which it counts too, taken off."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        Objective(model, run.losses)(batch).total.backward()
    return counter.get_total_flops() - unseen_flops(model, run, batch)


def unseen_flops(model: GroundedLMM, run: TrainConfig, batch: Batch) -> float:
    """FLOPs of pairs of tokens that do not attend to each other, student and teacher."""
    counter = StepCounter(run, model.backbone.special_tokens)
    seen = counter.count_tokens(batch.input_ids, batch.attention_mask, batch.shown).pairs
    unseen = counter.backbone.of_tokens(0, 1) * _unseen(seen, student_layout(batch))
    if run.losses.kl and len(batch.spans):
        plan = batch.spans.plan
        assert plan is not None
        ids = batch.input_ids[plan.constrained, : plan.is_constrained.shape[1]]
        seen = counter.count_tokens(ids, plan.is_constrained.long(), batch.shown[plan.constrained]).pairs
        unseen += counter.backbone.of_teacher_tokens(0, 1) * _unseen(seen, teacher_layout(batch))
    return unseen


def _unseen(seen: int, layout: SequenceLayout | None) -> int:
    assert layout is not None
    return sum(one.branches.shape[0] * one.branches.shape[1] ** 2 for one in layout.passes) - seen


def count(run: TrainConfig, model: GroundedLMM, batch: Batch) -> StepFlops:
    return StepCounter(run, model.backbone.special_tokens).count(batch)


@pytest.mark.parametrize(("spans", "per_image"), [((2, TEXT_ONLY, 4, 1), 1), ((2, 4, 1), 3)])
def test_flops_are_torchs_count(spans: tuple[int, ...], per_image: int) -> None:
    """The first layer passes no gradient down to frozen embeddings, which is 5% of so small a model."""
    sizes = tiny_model_config(400, TINY_TOKENS, LoraConfig(rank=2))
    run = run_of(sizes, TrainableConfig(sam_prompt_encoder=False))
    model = made(run)
    batch = tiny_batch(sizes, spans, torch.Generator().manual_seed(0), per_image)
    batch = plan_batch(batch, TINY_TOKENS, has_teacher=True)
    needed = count(run, model, batch)
    assert needed.total == pytest.approx(counted_step(model, run, batch), rel=0.06)
    assert min(needed.masks, needed.language, needed.teacher, needed.sam_encoder, needed.towers, needed.heads) > 0


def made(run: TrainConfig) -> GroundedLMM:
    torch.manual_seed(0)
    model = build_model(run.model)
    set_trainable(model, run.trainable)
    return model


@pytest.mark.parametrize("system", ["lisa", "m2sa", "calico", "calico, no prompt", "calico, no adaptation"])
def test_flops_of_the_sisters_are_torchs_count(system: str) -> None:
    tokenizer = seg_tokenizer()
    if system in ("lisa", "m2sa"):
        config = with_special_tokens(sister_config(system), tokenizer)  # type: ignore[arg-type]
        trainable = TrainableConfig(embeddings=True)
    else:
        tokenizer = TOKENIZER
        config = with_special_tokens(tiny_calico_config(len(tokenizer), lora=LoraConfig(rank=2)), tokenizer)
        assert config.calico is not None
        assert config.calico.adaptation is not None
        adaptation = None
        if system != "calico, no adaptation":
            adaptation = replace(config.calico.adaptation, init="zero_guide", follows_prompt=system == "calico")
        config = replace(config, calico=replace(config.calico, adaptation=adaptation))
        trainable = TrainableConfig(projector=True)
    run = run_of(config, replace(trainable, sam_prompt_encoder=False))
    model = made(run)
    batch = Collator(tokenizer, config, DATA)([_sample(0, (24, 32))])
    needed = count(run, model, batch)
    assert needed.towers + needed.language + needed.heads == counted_backbone(model, run, batch)
    if system == "calico":
        assert run.model.calico is not None
        unread = replace(run, model=replace(run.model, calico=replace(run.model.calico, adaptation=None)))
        plain = StepCounter(unread, model.backbone.special_tokens)
        assert needed.language > plain.count(batch).language, "layers read images again"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stock")


@pytest.mark.parametrize("towers", [False, True])
@pytest.mark.parametrize("family", sorted(name for name, family in FAMILIES.items() if not family.own_attention))
def test_flops_of_every_family_are_torchs_count(family: str, towers: bool, folder: Path) -> None:
    stock = folder / family
    if not stock.exists():
        ARCHITECTURES[family](stock)
    config, tokenizer = stock_config(stock, LoraConfig(rank=2)), read_stock_checkpoint(stock).tokenizer
    run = run_of(config, TrainableConfig(projector=True, vision_tower=towers, sam_prompt_encoder=False))
    model = made(run)
    batch = Collator(tokenizer, config, DATA)([_sample(0, (24, 40))])
    needed = count(run, model, batch)
    heads = needed.heads - StepCounter(run, model.backbone.special_tokens).tagger(batch)
    assert needed.towers + needed.language + heads + needed.teacher == counted_backbone(model, run, batch)


def counted_backbone(model: GroundedLMM, run: TrainConfig, batch: Batch) -> float:
    """As `counted_step`, of the backbone: states of all tokens, predictions of the supervised ones, and the teacher."""
    backbone, layout = model.backbone, student_layout(batch)
    assert layout is not None
    assert not any((one.branches < 0).any() for one in layout.passes), "padding costs FLOPs that are not needed"
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        images = backbone.encode_images(batch.clip_pixels)
        text = (batch.input_ids, batch.attention_mask, batch.shown, images)
        states = backbone.shared_hidden_states(*text, layout)
        predicted, _ = supervised_states(states, batch.labels, supervised_places(batch))
        (states.sum() + backbone.token_logits(predicted).clamp(min=0).sum()).backward()
        if run.losses.kl:
            span_teacher_states(backbone, batch, images)
    return counter.get_total_flops() - unseen_flops(model, run, batch)


def test_images_of_other_sizes_cost_otherwise(folder: Path) -> None:
    stock = folder / "qwen3_vl"
    if not stock.exists():
        ARCHITECTURES["qwen3_vl"](stock)
    config, tokenizer = stock_config(stock, LoraConfig(rank=2)), read_stock_checkpoint(stock).tokenizer
    counter = StepCounter(run_of(config), config.backbone.special_tokens or TINY_TOKENS)
    small, large = (Collator(tokenizer, config, DATA)([_sample(0, size)]) for size in ((8, 8), (24, 40)))
    assert counter.count(small).towers < counter.count(large).towers
    both = Collator(tokenizer, config, DATA)([_sample(0, (8, 8)), _sample(1, (24, 40))])
    assert counter.count(both).towers == counter.count(small).towers + counter.count(large).towers


@pytest.mark.parametrize("family", sorted(name for name, family in FAMILIES.items() if family.own_attention))
def test_decoders_with_an_attention_of_their_own_are_refused(family: str, folder: Path) -> None:
    config = stock_config(ARCHITECTURES[family](folder / family), LoraConfig(rank=2))
    with pytest.raises(ValueError, match="no count covers the FLOPs of decoders"):
        StepCounter(run_of(config), config.backbone.special_tokens or TINY_TOKENS)
