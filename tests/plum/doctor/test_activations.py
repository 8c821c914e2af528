"""The formulas for activations against the bytes that torch saves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from plum.config import FeedbackConfig, LoraConfig, TaggerConfig
from plum.doctor import activations
from plum.doctor.activations import (
    decoder_bytes,
    feedback_bytes,
    final_norm_bytes,
    layers_bytes,
    loss_bytes,
    query_bytes,
    tagger_bytes,
    token_loss_bytes,
)
from plum.doctor.workload import Workload
from plum.losses import losses
from plum.losses.losses import bio_loss, compute_losses, crf_loss, language_loss, span_kl_loss, with_tags_in_scope
from plum.losses.mask_losses import losses_by_mask, sum_pixels
from plum.models.batch_plan import find_places, plan_batch, supervised_places
from plum.models.grounded_lmm import GroundedLMM, supervised_states
from plum.models.segmenters.mask_resize import resize_matrices, resize_matrix
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import IGNORE_INDEX, Batch, BatchPlan, ImageFeatures, ImageFrame
from plum.train_config import EngineConfig, LossConfig, TrainableConfig
from tests.plum.doctor.saved_tensors import measure_saved

TOLERANCE = 0.02
"""Stated in the README. At these sizes what is per mask or per batch weighs more than at full size."""
DTYPES = (torch.float32, torch.bfloat16)
SPANS = (3, 3, 3)
PLAIN = LoraConfig(rank=2, dropout=0.0)
WITH_EMBEDDINGS = LoraConfig(rank=2, dropout=0.0, train_embeddings=True)


class World:
    """A tiny model in training, its batch, and what is not counted: parameters, buffers, inputs, frozen features."""

    def __init__(
        self,
        dtype: torch.dtype,
        lora: LoraConfig | None = PLAIN,
        *,
        is_checkpointed: bool = False,
        heads: int = 2,
        width: int = 16,
        per_image: int = 1,
        key_value_heads: int = 4,
        tagger: TaggerConfig | None = None,
        feedback: FeedbackConfig | None = None,
    ) -> None:
        # Without dropout in the tagger: the CPU has no fused attention with it.
        tagger = tagger or TaggerConfig("bidirectional", 4, 64, 0.0)
        config = tiny_model_config(40, TINY_TOKENS, lora, feedback, tagger)
        language = replace(config.llava.language, num_layers=5, num_key_value_heads=key_value_heads)
        config = replace(config, llava=replace(config.llava, language=language))
        # A grid of 16 x 16, so that maps outweigh tokens as they do at full size.
        self.config = replace(config, sam=replace(config.sam, image_size=128, decoder_heads=heads, prompt_dim=width))
        torch.manual_seed(0)
        self.model: GroundedLMM = build_model(self.config).train()
        self.is_full = lora is None
        self.has_trained_embeddings = lora is None or lora.train_embeddings
        trained = TrainableConfig(
            language_model="full" if self.is_full else "lora", embeddings=self.has_trained_embeddings
        )
        set_trainable(self.model, trained)
        self.model.to(dtype)
        if is_checkpointed:
            self.model.enable_gradient_checkpointing()
        self.batch = plan_batch(tiny_batch(self.config, SPANS, torch.Generator().manual_seed(1), per_image))
        assert self.batch.plan is not None
        self.plan: BatchPlan = self.batch.plan
        self.images: ImageFeatures = self.model.encode_images(self.batch.clip_pixels, self.batch.sam_pixels)
        self.states = torch.randn(*self.batch.input_ids.shape, 32, dtype=dtype, requires_grad=True)
        size = dtype.itemsize
        self.work = Workload(
            images=3 // per_image,
            conversations=3,
            tokens=self.batch.input_ids.shape[1],
            common=1 + 4,  # a first token and the image
            supervised=int((self.batch.labels[:, 1:] != -100).sum()),
            spans=3,
            span_tokens=2,
            image_pixels=20 * 32,
            element_bytes=size,
            dropout_mask_bytes=size,
        )

    def measure(self, run: Callable[[], object]) -> int:
        return measure_saved(run, [*self.model.parameters(), *self.model.buffers(), *self._inputs()])[0]

    def _inputs(self) -> list[Tensor]:
        batch: Batch = self.batch
        plan = batch.spans.plan
        assert plan is not None
        texts = (batch.input_ids, batch.labels, batch.tags, batch.attention_mask, batch.shown.rows)
        places = (self.plan.supervised, plan.order, plan.ranks)
        images = (batch.clip_pixels, batch.sam_pixels, self.images.tokens.values, self.images.embeddings.main)
        return [*batch.spans.fields, *texts, *places, *images]

    def run_language_model(self) -> Tensor:
        batch = self.batch
        return self.model.llava.shared_hidden_states(
            batch.input_ids, batch.attention_mask, batch.shown, self.images.tokens
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "lora",
    [
        PLAIN,
        LoraConfig(rank=2, dropout=0.05),
        LoraConfig(rank=2, dropout=0.0, target_modules=("q_proj", "k_proj", "o_proj", "up_proj", "down_proj")),
        LoraConfig(rank=2, dropout=0.05, target_modules=("q_proj", "gate_proj", "down_proj")),
        WITH_EMBEDDINGS,
        LoraConfig(rank=2, dropout=0.05, train_embeddings=True),
        None,
    ],
    ids=["q_v", "q_v_dropout", "many", "mlp_dropout", "embeddings", "embeddings_dropout", "full"],
)
@pytest.mark.parametrize("per_image", [1, 3])
def test_language_model(dtype: torch.dtype, lora: LoraConfig | None, per_image: int) -> None:
    world = World(dtype, lora, per_image=per_image)
    language = world.config.llava.language
    expected = layers_bytes(
        language,
        lora,
        world.work,
        is_trained=world.is_full,
        are_embeddings_trained=world.has_trained_embeddings,
        is_checkpointed=False,
    )
    expected += final_norm_bytes(language, world.work, is_trained=world.is_full)
    assert expected == pytest.approx(world.measure(world.run_language_model), rel=0.001)


@pytest.mark.parametrize("per_image", [1, 3])
@pytest.mark.parametrize("key_value_heads", [1, 2])
def test_grouped_key_value_heads(key_value_heads: int, per_image: int) -> None:
    world = World(torch.float32, per_image=per_image, key_value_heads=key_value_heads)
    language = world.config.llava.language
    expected = layers_bytes(
        language, PLAIN, world.work, is_trained=False, are_embeddings_trained=False, is_checkpointed=False
    )
    expected += final_norm_bytes(language, world.work, is_trained=False)
    assert expected == pytest.approx(world.measure(world.run_language_model), rel=0.001)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("per_image", "places"), [(1, 69), (3, 5 + 3 * 18)])
def test_checkpointed_language_model(dtype: torch.dtype, per_image: int, places: int) -> None:
    world = World(dtype, is_checkpointed=True, per_image=per_image)
    language = world.config.llava.language
    expected = layers_bytes(
        language, PLAIN, world.work, is_trained=False, are_embeddings_trained=False, is_checkpointed=True
    )
    # The inputs of five layers, of 32 numbers each token.
    assert expected == 5 * places * 32 * dtype.itemsize
    expected += final_norm_bytes(language, world.work, is_trained=False)
    assert expected == pytest.approx(world.measure(world.run_language_model), rel=TOLERANCE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lora", [PLAIN, WITH_EMBEDDINGS, None], ids=["frozen", "embeddings", "trained"])
@pytest.mark.parametrize("is_large", [False, True])
def test_token_loss(
    dtype: torch.dtype, lora: LoraConfig | None, is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        for module in (losses, activations):
            monkeypatch.setattr(module, "MAX_WHOLE_LOGITS", 100)
        monkeypatch.setattr(losses, "LOGITS_OF_A_PIECE", 200)
    world = World(dtype, lora)
    batch = world.batch

    def run() -> Tensor:
        states, labels = supervised_states(world.states, batch.labels, supervised_places(batch))
        return language_loss(world.model.token_logits(states), labels)

    expected = token_loss_bytes(world.config.llava.language, world.work, is_trained=world.has_trained_embeddings)
    assert expected == pytest.approx(world.measure(run), rel=TOLERANCE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("context", ["bidirectional", "none"])
@pytest.mark.parametrize("order", ["mlp_first", "block_first"])
@pytest.mark.parametrize("scope", ["answer", "all"])
def test_tagger(dtype: torch.dtype, context: str, order: str, scope: str) -> None:
    tagger = TaggerConfig(context, 4, 64, 0.0, order)  # type: ignore[arg-type]
    world = World(dtype, tagger=tagger)
    batch = with_tags_in_scope(world.batch, scope)  # type: ignore[arg-type]
    is_read = batch.tags != IGNORE_INDEX

    places = find_places(is_read)

    def run() -> Tensor:
        logits = world.model.tag(world.states, batch.attention_mask, places)
        assert logits is not None
        return bio_loss(logits, batch.tags[is_read], (0.1, 1.0, 1.0))

    known = [batch.attention_mask, batch.tags, is_read, *vars(places).values()]
    measured = measure_saved(run, [*world.model.parameters(), *known])[0]
    assert tagger_bytes(32, tagger, world.work, int(is_read.sum()), 4) == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("context", ["bidirectional", "none"])
@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({"scheme": "binary"}, "cross_entropy"),
        ({}, "hinge"),
        ({"use_crf": True}, "cross_entropy"),
        ({"use_crf": True, "scheme": "binary"}, "cross_entropy"),
        ({"use_cross_attention": True}, "cross_entropy"),
        ({"use_cross_attention": True, "order": "block_first", "use_crf": True}, "cross_entropy"),
    ],
    ids=["binary", "hinge", "crf", "binary_crf", "cross_attention", "block_first_cross_attention_crf"],
)
def test_ablation_taggers(dtype: torch.dtype, context: str, changes: dict[str, Any], form: str) -> None:
    tagger = TaggerConfig(context, 4, 64, 0.0, **changes)  # type: ignore[arg-type]
    world = World(dtype, tagger=tagger)
    batch, image_tokens = world.batch, world.images.tokens.values.detach()
    is_read = batch.tags != IGNORE_INDEX
    losses, places = LossConfig(kl=0.0, bio_form=form), find_places(is_read)  # type: ignore[arg-type]

    def run() -> Tensor:
        logits = world.model.tag(world.states, batch.attention_mask, places, batch.shown, image_tokens)
        chain, tags = world.model.tag_chain(is_read), batch.tags[is_read]
        assert logits is not None
        if chain is not None:
            return crf_loss(logits, tags, chain)
        return bio_loss(logits, tags, losses.bio_class_weights, losses.bio_form)

    known = [batch.attention_mask, batch.tags, batch.shown.rows, is_read, image_tokens, *vars(places).values()]
    measured = measure_saved(run, [*world.model.parameters(), *known])[0]
    assert tagger_bytes(32, tagger, world.work, int(is_read.sum()), 4) == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "authors"])
def test_queries_and_kl(dtype: torch.dtype, reduction: str) -> None:
    world = World(dtype)
    teacher = torch.zeros_like(world.states)
    measured = world.measure(
        lambda: (
            world.model.query_projection(world.states, world.batch.spans),
            span_kl_loss(world.states, teacher, world.batch.spans, 1.0, reduction),  # type: ignore[arg-type]
        )
    )
    expected = query_bytes(32, world.work, is_kl_pooled=reduction != "authors")
    assert expected == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize(("heads", "width"), [(2, 16), (1, 16), (1, 32)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_decoder(dtype: torch.dtype, heads: int, width: int) -> None:
    """The image is projected for attention in both directions, in one, in none."""
    world = World(dtype, heads=heads, width=width)
    rows = world.batch.spans.image
    queries = torch.randn(9, width, dtype=dtype, requires_grad=True)
    measured = world.measure(
        lambda: world.model.decode_step(queries, world.images.embeddings[rows], [], world.model.sam.dense_position())
    )
    assert 9 * decoder_bytes(world.config.sam, world.work) == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("position_in", ["keys", "keys_and_values"])
@pytest.mark.parametrize("has_order", [False, True])
def test_masks_with_feedback(dtype: torch.dtype, position_in: str, has_order: bool) -> None:
    """Nine masks in three conversations: six are fed back."""
    feedback = FeedbackConfig(use_order_embedding=has_order, num_heads=4, position_in=position_in)  # type: ignore[arg-type]
    world = World(dtype, feedback=feedback)
    measured = world.measure(lambda: world.model.decode_masks(world.states, world.batch.spans, world.images.embeddings))
    sam = world.config.sam
    expected = 9 * decoder_bytes(sam, world.work) + query_bytes(32, world.work, is_kl_pooled=True)
    expected += 6 * feedback_bytes(sam, feedback, world.work)
    assert expected == pytest.approx(measured, rel=TOLERANCE)


def test_mask_losses_at_original_resolution() -> None:
    world = World(torch.float32)
    frame = ImageFrame((48, 64), (96, 128))
    # Matrices of the resize are shared by all masks of a size, and kept from step to step.
    matrices = [resize_matrix(64, 128, *sizes, torch.device("cpu")) for sizes in ((96, 48), (128, 64))]
    logits, targets = torch.randn(5, 64, 64, requires_grad=True), torch.ones(5, 48, 64, dtype=torch.bool)
    resize = resize_matrices(64, frame, 128, torch.device("cpu"))
    measured, _ = measure_saved(
        lambda: losses_by_mask(sum_pixels(logits, targets, None, resize), LossConfig()), matrices
    )
    expected = 5 * loss_bytes(world.config.sam, replace(world.work, image_pixels=48 * 64))
    assert expected == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_image", [1, 3])
def test_a_whole_training_step(dtype: torch.dtype, is_checkpointed: bool, per_image: int) -> None:
    """The sum that the estimate uses, against one forward pass with all losses and the teacher."""
    from plum.doctor.memory import estimate_activations
    from tests.plum.doctor.runs import tiny_run

    world = World(dtype, is_checkpointed=is_checkpointed, per_image=per_image)
    # One size for all images: three losses of one size each.
    frames = (ImageFrame((20, 32), (80, 128)),) * world.work.images
    masks = tuple(torch.ones(20, 32, dtype=torch.bool) for _ in range(9))
    batch = replace(world.batch, frames=frames, masks=masks)
    engine = EngineConfig(gradient_checkpointing=is_checkpointed)
    expected = estimate_activations(replace(tiny_run(world.config), engine=engine), world.work).total
    measured = world.measure(lambda: compute_losses(world.model(batch, with_teacher=True), batch, LossConfig()))
    assert expected == pytest.approx(measured, rel=0.05)
