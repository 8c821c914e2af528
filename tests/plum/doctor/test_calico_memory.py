"""The formulas for CALICO's activations against the bytes that torch saves."""

from dataclasses import replace

import pytest
import torch

from plum.config import (
    AdaptationConfig,
    CalicoConfig,
    CorrespondenceConfig,
    DinoConfig,
    LoraConfig,
    QFormerConfig,
)
from plum.doctor.activations import (
    adaptation_bytes,
    correspondence_bytes,
    final_norm_bytes,
    image_token_bytes,
    layers_bytes,
)
from plum.doctor.memory import describe_estimate, estimate_activations, estimate_memory
from plum.doctor.workload import Assumptions, Workload, build_workload
from plum.losses.losses import compute_losses
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_calico_config
from plum.models.trainable import set_trainable
from plum.structures import ConversationImages, ImageFrame, ImageTokens
from plum.train_config import EngineConfig, LossConfig, SourceConfig, TrainableConfig
from tests.plum.doctor.runs import shipped, tiny_run
from tests.plum.doctor.saved_tensors import measure_saved

TOLERANCE = 0.02
LORA = LoraConfig(rank=2, dropout=0.0)
DTYPES = (torch.float32, torch.bfloat16)
SIZES = CalicoConfig(
    embedding_size=40,
    qformer=QFormerConfig(num_layers=3, num_heads=2, intermediate_size=72),
    dino=DinoConfig(32, 4, 24, 2, 2, use_swiglu=False),
    correspondence=CorrespondenceConfig(num_heads=2),
    adaptation=AdaptationConfig(num_modules=1),
)
TWO = AdaptationConfig(num_modules=2, init="zero_guide")
VARIANTS = {
    "dino": SIZES,
    "registers": replace(SIZES, dino=DinoConfig(32, 4, 24, 2, 2, use_swiglu=True, num_register_tokens=4)),
    "literal": replace(SIZES, correspondence=CorrespondenceConfig(num_heads=4, residual=False)),
    "eva": replace(SIZES, dino=None, correspondence=CorrespondenceConfig("eva", 2)),
    "vpg-c": replace(SIZES, dino=None, correspondence=CorrespondenceConfig("none")),
    "no q-former": replace(SIZES, qformer=None),
    "no q-former, vpg-c": replace(SIZES, qformer=None, dino=None, correspondence=CorrespondenceConfig("none")),
    "two": replace(SIZES, adaptation=TWO),
    "unguided": replace(SIZES, adaptation=replace(TWO, follows_prompt=False)),
    "every layer crossed": replace(SIZES, qformer=QFormerConfig(5, 2, 72, 1)),
    "no modules": replace(SIZES, adaptation=None, dino=None),
}


class World:
    """A tiny CALICO in training, three images, and conversations of 20 tokens about two of them each."""

    def __init__(
        self,
        calico: CalicoConfig,
        dtype: torch.dtype,
        projector: bool = False,
        is_checkpointed: bool = False,
        conversations: int = 3,
    ) -> None:
        config = tiny_calico_config(60, TINY_TOKENS, LORA, calico)
        language = replace(config.llava.language, num_layers=4)
        # 65 tokens of EVA-CLIP, so that they outweigh the queries as at full size.
        vision = replace(config.llava.vision, image_size=64)
        if calico.qformer is None:
            vision = replace(vision, image_size=32)
        self.config = replace(config, llava=replace(config.llava, language=language, vision=vision))
        torch.manual_seed(0)
        self.model: GroundedLMM = build_model(self.config).train()
        self.trainable = TrainableConfig(query_projection=False, projector=projector)
        set_trainable(self.model, self.trainable)
        self.model.to(dtype)
        if is_checkpointed:
            self.model.enable_gradient_checkpointing()
        num_tokens = vision.num_image_tokens
        self.pixels = torch.randn(6, 3, vision.image_size, vision.image_size)
        self.ids = torch.randint(10, 60, (conversations, 20 + 2 * num_tokens))
        self.ids[:, 1 : 1 + num_tokens] = TINY_TOKENS.image
        self.ids[:, 3 + num_tokens : 3 + 2 * num_tokens] = TINY_TOKENS.image
        shown = torch.arange(2 * conversations).view(-1, 2) % 6
        self.shown = ConversationImages(shown, (num_tokens,) * 6, torch.full((conversations,), 10 + 2 * num_tokens))
        self.work = Workload(
            images=6,
            conversations=conversations,
            tokens=self.ids.shape[1],
            common=2 * num_tokens,
            supervised=0,
            spans=0,
            span_tokens=1,
            image_pixels=1,
            element_bytes=dtype.itemsize,
            dropout_mask_bytes=dtype.itemsize,
            images_per_conversation=2,
            can_share=False,
        )

    def encode(self) -> ImageTokens:
        return self.model.llava.encode_images(self.pixels)

    def known(self) -> list[torch.Tensor]:
        assert self.shown.prompt_ends is not None
        kept = [self.pixels, self.ids, self.shown.rows, self.shown.prompt_ends]
        return [*self.model.parameters(), *self.model.buffers(), *kept]


@pytest.mark.parametrize(("projector", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
@pytest.mark.parametrize("name", VARIANTS)
def test_encoding_images(name: str, projector: bool, dtype: torch.dtype) -> None:
    calico = VARIANTS[name]
    world = World(calico, dtype, projector)
    measured, _ = measure_saved(world.encode, world.known())
    llava = world.config.llava
    expected = correspondence_bytes(llava, calico, world.work)
    expected += image_token_bytes(llava, calico, world.work, is_trained=projector)
    assert expected == pytest.approx(measured, rel=TOLERANCE)
    assert (measured > 0) == (projector or name not in ("vpg-c", "no modules"))


@pytest.mark.parametrize(("is_checkpointed", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
@pytest.mark.parametrize("name", VARIANTS)
def test_layers_that_read_images_again(name: str, is_checkpointed: bool, dtype: torch.dtype) -> None:
    calico = VARIANTS[name]
    world = World(calico, dtype, is_checkpointed=is_checkpointed)
    tokens = world.encode()
    known = [*world.known(), tokens.values, *(() if tokens.details is None else (tokens.details,))]
    mask = torch.ones_like(world.ids)
    measured, _ = measure_saved(lambda: world.model.hidden_states(world.ids, mask, world.shown, tokens), [*known, mask])
    language = world.config.llava.language
    of_layers = layers_bytes(
        language,
        LORA,
        world.work,
        is_trained=False,
        are_embeddings_trained=calico.qformer is None,
        is_checkpointed=is_checkpointed,
    )
    expected = of_layers + final_norm_bytes(language, world.work, is_trained=False)
    added = adaptation_bytes(world.config.llava, calico, world.work)
    assert expected + added == pytest.approx(measured, rel=TOLERANCE)
    if calico.adaptation is not None:  # what is tested is not lost in what the other formulas count
        assert added > (5 if is_checkpointed else 1) * TOLERANCE * measured


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_training_step(dtype: torch.dtype, is_checkpointed: bool) -> None:
    """The sum that the estimate uses, within the tenth that the page states, for one image a conversation."""
    world = World(SIZES, dtype, is_checkpointed=is_checkpointed)
    batch = tiny_batch(world.config, (3, 3, 3), torch.Generator().manual_seed(1))
    batch = replace(
        batch,
        frames=(ImageFrame((20, 32), (20, 32)),) * 3,
        masks=tuple(torch.ones(20, 32, dtype=torch.bool) for _ in range(9)),
    )
    work = replace(
        world.work,
        images=3,
        tokens=batch.input_ids.shape[1],
        supervised=int((batch.labels[:, 1:] >= 0).sum()),
        spans=3,
        image_pixels=20 * 32,
        images_per_conversation=1,
    )
    engine = EngineConfig(gradient_checkpointing=is_checkpointed)
    run = replace(tiny_run(world.config, engine), trainable=world.trainable)
    expected = estimate_activations(run, work)
    assert batch.shown.prompt_ends is not None
    spans = (batch.spans.conversation, batch.spans.start, batch.spans.end, batch.spans.image)
    texts = (batch.input_ids, batch.labels, batch.tags, batch.attention_mask, batch.shown.rows, batch.shown.prompt_ends)
    known = [*world.known(), *spans, *texts, batch.clip_pixels, batch.sam_pixels]
    losses = LossConfig(kl=0.0, bio=0.0)
    measured, _ = measure_saved(lambda: compute_losses(world.model(batch, with_teacher=False), batch, losses), known)
    embeddings = 3 * 16 * 16 * dtype.itemsize  # SAM's, which are inputs of what is counted
    assert expected.total == pytest.approx(measured - embeddings, rel=0.1)
    assert expected.images > 0.15 * measured


def test_pairs_are_two_images_of_a_conversation_and_share_no_beginning() -> None:
    config = shipped("calico_7b")
    work = build_workload(config, Assumptions())
    # 4 conversations about 2 images of 32 tokens each.
    assert (work.images, work.conversations, work.samples, work.pairs) == (8, 4, 4, 8)
    assert (work.tokens, work.common, work.is_shared, work.places) == (1088, 64, False, 4 * 1088)
    several = replace(config, data=replace(config.data, conversations_per_image=3))
    work = build_workload(several, Assumptions())
    assert (work.conversations, work.pairs, work.is_shared, work.places) == (12, 24, False, 12 * 1088)
    assert config.model.calico is not None
    assert config.model.calico.adaptation is not None
    adaptation = replace(config.model.calico.adaptation, follows_prompt=False)
    unguided = replace(several.model, calico=replace(config.model.calico, adaptation=adaptation))
    work = build_workload(replace(several, model=unguided), Assumptions())
    assert (work.is_shared, work.places) == (True, 4 * (64 + 3 * 1024))
    one = replace(config, data=replace(config.data, sources=(SourceConfig("part_vqa", "x"),)))
    assert build_workload(one, Assumptions()).images == 4
    assert build_workload(one, Assumptions(images_per_conversation=3)).tokens == 3 * 32 + 1024


def test_the_estimate_of_the_shipped_configuration() -> None:
    config = shipped("calico_7b")
    estimate = estimate_memory(config, 4)
    # Per module and image of a conversation: the Q-Former's 12 layers in float32, 6 of them over 257 tokens.
    attention = 4 * 32 * 768 + 32 * 12 + 32 * 770
    layers = 12 * (attention + 32 * 3072 + 32 * 770) + 6 * (attention + 2 * (257 - 32) * 768) + 32 * 770
    per_pair = 4 * layers + 2 * (4096 + 32 * (768 + 4096))
    assert adaptation_bytes(config.model.llava, config.model.calico, estimate.workload) == 2 * 8 * per_pair  # type: ignore[arg-type]
    assert 0.3e9 < estimate.activations.images < 0.5e9
    assert estimate.static.num_trained == 29_171_684
    assert "activations: CALICO's correspondences and adaptation" in describe_estimate(config, estimate)
    more = estimate_memory(config, 4, Assumptions(images_per_conversation=3))
    assert more.activations.images == pytest.approx(1.5 * estimate.activations.images, rel=1e-6)
    assert more.peak > estimate.peak
