"""SAM 2 under PLUM and LISA from YAML to exported model: training, resuming, cached embeddings, inference."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.store import load_pretrained
from plum.config import FeedbackConfig, LoraConfig, ModelConfig, Sam2Config, SamConfig, SegTokenConfig
from plum.data.sam_feature_cache import SamFeatureCache, open_cache
from plum.doctor import sam2_costs
from plum.doctor.costs import count_costs
from plum.doctor.kept import saved_bytes
from plum.doctor.memory import estimate_activations, estimate_memory
from plum.doctor.step_flops import StepCounter
from plum.doctor.workload import training_dtype
from plum.export.merged import ExportRequest, export_merged
from plum.inference.image_store import ImageStore
from plum.inference.predictor import Predictor
from plum.inputs.image_transforms import segmenter_input
from plum.losses.losses import compute_losses
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.build import build_segmenter, complete_sizes
from plum.models.segmenters.sam2 import Sam2
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_calico_config, tiny_model_config, tiny_sam2_config
from plum.models.trainable import set_trainable
from plum.structures import GroundedOutput, ImageEmbeddings
from plum.train_config import (
    DataConfig,
    LossConfig,
    PretextConfig,
    SourceConfig,
    TrainableConfig,
    TrainConfig,
    ValidationConfig,
)
from plum.training.config_file import load_train_config
from plum.training.initialise import require_same_backbone
from plum.training.run import build_objective, train
from plum.training.sam_features import complete_embeddings, describe_feature_cache, open_feature_cache
from tests.plum.data.part_world import write_world
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.inference.test_question_batch import IMAGES, QUESTION, check_generations, open_batch, segmented
from tests.plum.inference.test_question_batch import OWN as OWN_ANSWERS
from tests.plum.models.segmenters.test_sam import randomise
from tests.plum.models.segmenters.test_sam2 import HIERA_LARGE
from tests.plum.training.launching import train_forked
from tests.plum.training.test_run import _train_to_the_sixth_micro_batch
from tests.plum.training.training_world import largest_difference, make_config, moved, write_inputs


def with_sam2(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, sam=tiny_sam2_config()))


def make_model(feedback: FeedbackConfig | None = None) -> GroundedLMM:
    torch.manual_seed(0)
    config = tiny_model_config(60, TINY_TOKENS, feedback=feedback)
    model = build_model(replace(config, sam=tiny_sam2_config()))
    randomise(model.sam)  # masks of a fresh SAM 2 are nearly zero
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam2")
    write_inputs(folder)
    write_world(folder / "held_out")
    for path in sorted((folder / "held_out" / "images").iterdir()):  # other photographs of the same objects
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, 0] = 255
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def stage_0(folder: Path) -> TrainConfig:
    """Everything from scratch, the image encoder included."""
    config = with_sam2(make_config(folder, "stage_0"))
    train(config)
    return config


def stage_1(folder: Path, name: str, trainable: TrainableConfig, cache: str | None = None) -> TrainConfig:
    config = with_sam2(make_config(folder, name, num_updates=3))
    return replace(
        config,
        model=replace(config.model, lora=LoraConfig()),
        trainable=trainable,
        losses=replace(config.losses, kl=0.1),
        init_from=str(folder / "stage_0" / "model"),
        tokenizer=None,
        data=replace(config.data, sam_feature_cache=cache),
    )


def fail_to_encode(encode: Callable[[Sam2, Tensor], ImageEmbeddings]) -> Callable[[Sam2, Tensor], ImageEmbeddings]:
    """An encoder that fails on images; its sizes are tried without."""

    def run(sam: Sam2, pixels: Tensor) -> ImageEmbeddings:
        if not pixels.is_meta:
            pytest.fail("an image was encoded again")
        return encode(sam, pixels)

    return run


def read_losses(config: TrainConfig) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key.startswith("loss_")} for line in lines]


# Model and losses.


@pytest.mark.parametrize("has_feedback", [True, False])
def test_losses_reach_the_heads_and_the_segmenter(has_feedback: bool) -> None:
    model = make_model(FeedbackConfig(is_enabled=has_feedback, num_heads=4))
    set_trainable(model, TrainableConfig(language_model="full", sam_image_encoder=True))
    batch = tiny_batch(model.config, (3, 1, -1, 2), torch.Generator().manual_seed(0))
    assert batch.frames[0].resized == (64, 64)
    output: GroundedOutput = model(batch, with_teacher=False)
    assert output.mask_logits.shape == (6, 16, 16)
    terms = compute_losses(output, batch, LossConfig(kl=0.0))
    (terms.mask_bce + terms.mask_overlap).backward()
    grads = {name for name, one in model.named_parameters() if one.grad is not None and bool(one.grad.any())}
    assert {"sam.mask_decoder.conv_s0.weight", "sam.vision_encoder.backbone.patch_embed.projection.weight"} <= grads
    assert ("feedback.encoder.modulations.0.bias" in grads) == has_feedback
    assert ("sam.prompt_encoder.mask_embed.conv1.weight" in grads) == has_feedback


def test_batch_of_n_equals_n_singles() -> None:
    model = make_model().eval()
    together = tiny_batch(model.config, (3, 1), torch.Generator().manual_seed(0))
    output = model(together, with_teacher=False)
    queries = model.query_projection(output.hidden_states, together.spans)
    image = output.images.embeddings[1:2]
    alone = model.decode_step(queries[3:4], image, [], model.sam.dense_position())
    torch.testing.assert_close(output.mask_logits[3:], alone, atol=1e-5, rtol=1e-5)


def test_feedback_conditions_later_masks_of_the_same_image_only() -> None:
    model = make_model().eval()
    batch = tiny_batch(model.config, (2, 2), torch.Generator().manual_seed(0))
    output = model(batch, with_teacher=False)
    queries = model.query_projection(output.hidden_states, batch.spans)
    context = model.prepare_feedback()
    for first in (0, 2):
        image = output.images.embeddings[first // 2 : first // 2 + 1]
        earlier = model.encode_masks(output.mask_logits[first : first + 1], queries[first : first + 1], 0, context)
        second = model.decode_step(queries[first + 1 : first + 2], image, [earlier], context.position)
        torch.testing.assert_close(second, output.mask_logits[first + 1 : first + 2], atol=1e-5, rtol=1e-5)
        without = model.decode_step(queries[first + 1 : first + 2], image, [], context.position)
        assert not torch.allclose(without, second, atol=1e-3)


def test_images_without_targets_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().eval()
    batch = tiny_batch(model.config, (1, 1, 1), torch.Generator().manual_seed(0))
    whole = model.encode_images(batch.clip_pixels, batch.sam_pixels).embeddings
    rows = torch.tensor([2])
    some = model.encode_images(batch.clip_pixels, batch.sam_pixels[2:], sam_rows=rows).embeddings
    for ours, theirs in zip(some.maps, whole.maps, strict=True):
        torch.testing.assert_close(ours[2], theirs[2], atol=1e-5, rtol=1e-5)
        assert not ours[:2].any()
    monkeypatch.setattr(model.sam, "encode_images", pytest.fail)
    nothing = model.encode_images(batch.clip_pixels, batch.sam_pixels[:0]).embeddings
    assert [one.shape for one in nothing.maps] == [one.shape for one in whole.maps]


def test_calico_segments_several_images_with_it() -> None:
    torch.manual_seed(0)
    model = build_model(replace(tiny_calico_config(60, TINY_TOKENS), sam=tiny_sam2_config()))
    randomise(model.sam)
    batch = tiny_batch(model.config, (2, 1), torch.Generator().manual_seed(0))
    masks = model(batch, with_teacher=False).mask_logits
    assert masks.shape == (3, 16, 16)
    assert not torch.allclose(masks[0], masks[1], atol=1e-3)


def test_switches_name_the_stock_modules() -> None:
    model = make_model()
    for switch, prefixes in (
        ("sam_image_encoder", ("sam.vision_encoder.", "sam.no_memory_embedding")),
        ("sam_mask_decoder", ("sam.mask_decoder.",)),
        ("sam_prompt_encoder", ("sam.prompt_encoder.",)),
    ):
        off = {"sam_image_encoder": False, "sam_mask_decoder": False, "sam_prompt_encoder": False}
        rows = set_trainable(model, TrainableConfig(language_model="full", **{**off, switch: True}))  # type: ignore[arg-type]
        trained = {name for name, one in model.named_parameters() if name.startswith("sam.") and one.requires_grad}
        assert trained == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
        table = {row.module: row.trainable for row in rows if row.module.startswith("sam.")}
        assert sum(count > 0 for count in table.values()) == 1
        assert table[switch.replace("sam_", "sam.", 1)] > 0


def test_half_precision_keeps_the_positional_table() -> None:
    model = make_model()
    before = model.sam.shared_image_embedding.positional_embedding.clone()
    model.sam.vision_encoder.norm = nn.BatchNorm2d(3)  # EdgeTAM's encoder has some, whose weights are rounded
    model.to(torch.bfloat16)
    assert model.sam.vision_encoder.norm(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert torch.equal(model.sam.shared_image_embedding.positional_embedding, before)
    batch = tiny_batch(model.config, (2,), torch.Generator().manual_seed(0))
    output = model(batch, with_teacher=False)
    assert output.mask_logits.dtype == torch.float32
    assert output.images.embeddings.main.dtype == torch.bfloat16


# Runs.


def test_a_run_trains_saves_and_resumes(folder: Path, stage_0: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_sam2(make_config(folder, "interrupted"))
    _train_to_the_sixth_micro_batch(config, monkeypatch)
    train(config)
    assert largest_difference(Path(stage_0.run_dir) / "model", Path(config.run_dir) / "model") == 0.0
    assert read_losses(config) == read_losses(stage_0)
    torch.manual_seed(stage_0.seed)
    fresh = build_model(with_special_tokens(stage_0.model, byte_level())).state_dict()
    assert moved(fresh, Path(stage_0.run_dir) / "model") > 1e-3


def test_a_saved_model_names_all_sizes(stage_0: TrainConfig) -> None:
    config = read_model_config(Path(stage_0.run_dir) / "model")
    assert isinstance(config.sam, Sam2Config)
    assert config.sam.vision["backbone_config"]["mlp_ratio"] == 4.0
    loaded = load_pretrained(Path(stage_0.run_dir) / "model")
    assert isinstance(loaded.model.sam, Sam2)
    assert loaded.config.sam == config.sam


def test_a_run_may_leave_sizes_out_that_its_start_names(stage_0: TrainConfig) -> None:
    folder = Path(stage_0.run_dir) / "model"
    own = replace(read_model_config(folder), sam=tiny_sam2_config())
    require_same_backbone(own, str(folder))
    backbone = {**tiny_sam2_config().vision["backbone_config"], "blocks_per_stage": [1, 1, 3, 1]}
    other = replace(tiny_sam2_config(), vision={**tiny_sam2_config().vision, "backbone_config": backbone})
    with pytest.raises(
        ValueError, match=r"sam\.vision\.backbone_config\.blocks_per_stage: \[1, 1, 2, 1\], \[1, 1, 3, 1\]"
    ):
        require_same_backbone(replace(own, sam=other), str(folder))
    with pytest.raises(ValueError, match=r"sam\.model_type: sam2, \(absent\)"):
        require_same_backbone(replace(own, sam=tiny_model_config(40).sam), str(folder))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"prompt_dim": 32}, r"sam\.prompt_dim is 32 in config\.json, 16 in the weights"),
        ({"mask_in_channels": 10**9}, r"sam\.mask_in_channels is 1000000000"),
        ({"vision": {"backbone_config": {"blocks_per_stage": [1, 1, 10**9, 1]}}}, "blocks_per_stage .*5 layers in the"),
        ({"vision": {"backbone_config": {"embed_dim_per_stage": [8, 10**9]}}}, "embed_dim_per_stage is 1000000000"),
        ({"model_type": "sam4"}, r"sam\.model_type is 'sam4', not one of"),
        ({"vision": []}, r"sam\.vision is \[\], not of type dict"),
        ({"vision": {"backbone_config": {"depth": 3}}}, r"backbone_config\.depth is not a size"),
    ],
)
def test_a_damaged_configuration_is_named(
    stage_0: TrainConfig, tmp_path: Path, edit: dict[str, Any], message: str
) -> None:
    """Before anything of an absurd size is built."""
    folder = shutil.copytree(Path(stage_0.run_dir) / "model", tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    vision = edit.get("vision")
    if isinstance(vision, dict):
        content["sam"]["vision"]["backbone_config"].update(vision["backbone_config"])
    else:
        content["sam"].update(edit)
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize("is_decoder_trained", [True, False])
def test_losses_with_cached_embeddings_are_the_same_to_the_bit(
    folder: Path, stage_0: TrainConfig, monkeypatch: pytest.MonkeyPatch, is_decoder_trained: bool
) -> None:
    """Trained decoder convolutions: maps before them are kept; frozen ones: maps after them, a fifth of the size."""
    assert stage_0.run_dir
    trainable = TrainableConfig(sam_mask_decoder=is_decoder_trained)
    name, cache = f"cached_{is_decoder_trained}", folder / f"cache_{is_decoder_trained}"
    plain = stage_1(folder, f"{name}_plain", trainable)
    cold, warm = (stage_1(folder, f"{name}_{kind}", trainable, str(cache)) for kind in ("cold", "warm"))
    train(plain)
    train(cold)
    with monkeypatch.context() as patch:
        patch.setattr(Sam2, "_encode", fail_to_encode(Sam2._encode))
        train(warm)
    assert read_losses(plain) == read_losses(cold) == read_losses(warm)
    assert read_losses(plain)[0]["loss_mask_bce"] > 0
    for config in (cold, warm):
        assert largest_difference(Path(plain.run_dir) / "model", Path(config.run_dir) / "model") == 0.0
    file = next(cache.rglob("*.safetensors"))
    widths = {True: (16, 16, 16), False: (16, 2, 4)}[is_decoder_trained]
    floats = widths[0] * 4 * 4 + widths[1] * 16 * 16 + widths[2] * 8 * 8
    assert file.stat().st_size == pytest.approx(4 * floats, rel=0.05, abs=400)


def test_the_cache_states_the_bytes_that_it_keeps(folder: Path, stage_0: TrainConfig) -> None:
    assert stage_0.run_dir
    for is_trained in (True, False):
        config = stage_1(folder, "stated", TrainableConfig(sam_mask_decoder=is_trained), str(folder / "stated"))
        model = make_model()
        set_trainable(model, replace(config.trainable, language_model="full"))
        cache = open_feature_cache(config, model)
        assert cache is not None
        batch = tiny_batch(model.config, (1,), torch.Generator().manual_seed(0))
        batch = replace(batch, sam_rows=torch.tensor([0]), image_hashes=("ab" * 32,), cached_embeddings=(None,))
        found = complete_embeddings(batch, model.sam, cache)
        assert found is not None
        stated = describe_feature_cache(cache, model.sam, "fp32")
        assert f"{found.embeddings.nbytes / 1e6:.1f} MB per image" in stated
        assert ("trained convolutions" in stated) == is_trained
        (kept,) = (cache.get("ab" * 32),)
        assert kept is not None
        assert (
            kept.nbytes
            == found.embeddings.nbytes
            == model.sam.bytes_per_image(torch.float32, is_prepared=not is_trained)
        )


def test_another_decoder_finds_no_prepared_embeddings(folder: Path) -> None:
    model = make_model()
    given = segmenter_input(model.config.sam)

    def open_it(is_prepared: bool) -> SamFeatureCache:
        return open_cache(folder / "keys", model.sam, given, torch.float32, is_prepared=is_prepared)

    prepared, raw = open_it(True).folder, open_it(False).folder
    with torch.no_grad():
        model.sam.mask_decoder.conv_s0.bias += 1
    assert open_it(True).folder != prepared
    assert open_it(False).folder == raw
    with torch.no_grad():
        model.sam.no_memory_embedding += 1
    assert open_it(False).folder != raw


def test_lisa_trains_with_sam_2_and_held_out_images_are_scored(folder: Path) -> None:
    config = with_sam2(make_config(folder, "lisa", num_updates=2))
    language = replace(config.model.llava.language, vocab_size=config.model.llava.language.vocab_size + 1)  # [SEG]
    model = replace(config.model, system="lisa", tagger=None, seg_token=SegTokenConfig())
    model = replace(model, llava=replace(model.llava, language=language))
    config = replace(
        config,
        model=replace(model, feedback=FeedbackConfig(is_enabled=False)),
        losses=replace(config.losses, bio=0.0),
        validation=ValidationConfig((SourceConfig("part_referring", str(folder / "held_out")),), every=2, limit=3),
    )
    train(config)
    assert read_losses(config)[0]["loss_mask_bce"] > 0
    (_, last) = [json.loads(line) for line in (Path(config.run_dir) / "validations.jsonl").read_text().splitlines()]
    assert 0 <= last["micro_giou"] <= 1
    assert load_pretrained(Path(config.run_dir) / "model").model.feedback is None


def test_an_adapted_model_is_exported_merged(folder: Path, stage_0: TrainConfig, tmp_path: Path) -> None:
    assert stage_0.run_dir
    config = stage_1(folder, "exported", TrainableConfig())
    train(config)
    export_merged(ExportRequest(Path(config.run_dir), tmp_path / "merged"))
    merged = load_pretrained(tmp_path / "merged").model
    saved = load_pretrained(Path(config.run_dir) / "model").model
    for name, tensor in saved.sam.state_dict().items():
        assert torch.equal(merged.sam.state_dict()[name], tensor), name
    stage = load_pretrained(Path(stage_0.run_dir) / "model").model.sam.state_dict()
    assert torch.equal(stage["vision_encoder.backbone.pos_embed"], saved.sam.vision_encoder.backbone.pos_embed)
    assert not torch.equal(stage["mask_decoder.conv_s0.weight"], saved.sam.mask_decoder.conv_s0.weight)


@pytest.mark.distributed
def test_tensors_without_a_gradient_do_no_harm_on_two_ranks(folder: Path, stage_0: TrainConfig) -> None:
    """The quality heads and point embeddings are trained by name, but no loss depends on them."""
    assert stage_0.run_dir
    config = stage_1(folder, "two_ranks", TrainableConfig())
    engine = replace(config.engine, kind="deepspeed", micro_batch_size=2, accumulation=1, zero_stage=2)
    config = replace(config, engine=engine, optimizer=replace(config.optimizer, weight_decay=0.0))
    after = load_pretrained(train_forked(config, 2)).model.sam.state_dict()
    before = load_pretrained(Path(stage_0.run_dir) / "model").model.sam.state_dict()
    moved_names = {name for name in before if not torch.equal(before[name], after[name])}
    assert "mask_decoder.conv_s0.weight" in moved_names
    idle = {name for name in before if name.startswith(("mask_decoder.", "prompt_encoder."))} - moved_names
    assert {"prompt_encoder.point_embed.weight", "mask_decoder.iou_prediction_head.proj_in.weight"} <= idle


# Inference.


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    tokenizer = byte_level()
    config = with_special_tokens(replace(tiny_model_config(len(tokenizer)), sam=tiny_sam2_config()), tokenizer)
    model = build_model(config)
    randomise(model.sam)
    return Predictor(model, tokenizer, model.config)


def test_questions_together_equal_questions_one_by_one(predictor: Predictor) -> None:
    batch = open_batch(predictor)
    requests = [segmented(image, QUESTION) for image in (0, 1)]
    for request, masks in zip(requests, batch.segment(requests), strict=True):
        one = predictor.segment(IMAGES[request.image], request.turns, request.answer, request.spans)
        assert np.array_equal(masks, one.masks)
        assert masks.shape[1:] == IMAGES[request.image].shape[:2]
    check_generations(predictor, batch, OWN_ANSWERS)


def test_masks_are_stretched_back(predictor: Predictor) -> None:
    """The left half of the square input is the left half of the image, whatever its proportions."""
    from plum.models.segmenters.mask_resize import resize_to_original

    image = np.zeros((20, 28, 3), dtype=np.uint8)
    frame = predictor.transform(image).frame
    logits = torch.full((1, 16, 16), -1.0)
    logits[:, :, :8] = 1.0
    found = resize_to_original(logits, frame, 64)[0] > 0
    assert found.shape == (20, 28)
    assert found[:, :14].all()
    assert not found[:, 14:].any()


def test_kept_embeddings_are_used(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = segmenter_input(predictor.model.config.sam)
    cache = open_cache(tmp_path, predictor.model.sam, given, torch.float32)
    stores = [ImageStore(predictor.model, predictor.transform, cache) for _ in range(2)]
    with torch.inference_mode():
        first = stores[0].embeddings([stores[0].find(IMAGES[0])])
        monkeypatch.setattr(Sam2, "_encode", fail_to_encode(Sam2._encode))
        again = stores[1].embeddings([stores[1].find(IMAGES[0])])
    assert [tuple(one.shape[1:]) for one in again.maps] == list(predictor.model.sam.map_shapes())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.maps, again.maps, strict=True))


# Costs.


def run_of(model: ModelConfig) -> TrainConfig:
    data = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))
    return TrainConfig(run_dir="unused", model=model, data=data)


def test_memory_is_estimated_with_the_segmenter_s_own_sizes() -> None:
    plain = tiny_model_config(60, TINY_TOKENS, lora=LoraConfig())
    sam_2 = run_of(replace(plain, sam=tiny_sam2_config()))
    estimate = estimate_memory(sam_2, num_gpus=1)
    assert estimate.peak > 0
    model = make_model()
    counted = {one.component: one.num_parameters for one in estimate.static.components}
    own = {name: one.numel() for name, one in model.named_parameters()}
    assert counted["sam.image_encoder"] == sum(
        count for name, count in own.items() if name.startswith(("sam.vision_encoder.", "sam.no_memory_embedding"))
    )
    per_mask = sam2_costs.decoder_bytes(tiny_sam2_config(), training_dtype(sam_2))
    twice = estimate_activations(sam_2, replace(estimate.workload, conversations=2 * estimate.workload.conversations))
    more = twice.masks - estimate.activations.masks
    assert more >= per_mask * estimate.workload.masks


def test_the_decoder_s_bytes_are_those_that_autograd_keeps() -> None:
    """Attention is fused on a CPU, as in the estimate."""
    sam = make_model().sam
    maps = {rows: [torch.zeros(rows, *shape) for shape in sam.map_shapes()] for rows in (1, 2)}

    def decode(rows: int) -> Tensor:
        queries, dense = torch.zeros(rows, 16, requires_grad=True), torch.zeros(rows, 16, 4, 4, requires_grad=True)
        return sam.decode_masks(ImageEmbeddings.of_maps(maps[rows]), queries, dense, sam.dense_position())

    one, two = (saved_bytes(lambda n=n: decode(n), sam.parameters()) for n in (1, 2))
    assert sam2_costs.decoder_bytes(tiny_sam2_config(), torch.float32) == pytest.approx(two - one, rel=0.01)
    assert sam2_costs.decoder_bytes(tiny_sam2_config(), torch.bfloat16) < two - one


def test_flops_and_elements_of_hiera_large() -> None:
    """SAM 2's paper counts the large encoder at 0.81 T multiplications and additions of 1024 px (Table 7)."""
    assert sam2_costs.encoder_flops(HIERA_LARGE) / 1e12 == pytest.approx(1.8, abs=0.1)
    trained = sam2_costs.embedding_elements(HIERA_LARGE, is_decoder_trained=True)
    frozen = sam2_costs.embedding_elements(HIERA_LARGE, is_decoder_trained=False)
    assert frozen == 256 * 64**2 + 64 * 128**2 + 32 * 256**2
    assert trained - frozen == 256 * (128**2 + 256**2)
    assert sam2_costs.encoder_elements(HIERA_LARGE) > 10 * 144 * 256**2


def test_a_step_s_flops_and_costs_are_counted() -> None:
    run = run_of(replace(tiny_model_config(60, TINY_TOKENS, lora=LoraConfig()), sam=tiny_sam2_config()))
    batch = tiny_batch(run.model, (2, 1), torch.Generator().manual_seed(0))
    step = StepCounter(run, TINY_TOKENS).count(batch)
    assert step.sam_encoder == 2 * sam2_costs.encoder_flops(tiny_sam2_config())
    assert step.masks > 3 * 3 * sam2_costs.decoder_flops(tiny_sam2_config())
    costs = count_costs(run, num_gpus=1, num_tokens=20, num_masks=2)
    assert costs.forward_flops is not None
    assert costs.forward_flops > sam2_costs.encoder_flops(tiny_sam2_config())


# Configurations.


def write_yaml(folder: Path, sam: dict[str, Any]) -> str:
    config = yaml.safe_load(Path("configs/plum_tiny_stage1.yaml").read_text())
    config["model"]["sam"] = sam
    config["part_pretext"] = None
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


SAM_2_YAML: dict[str, Any] = {"model_type": "sam2", "image_size": 64, "vision": {"fpn_stride": 1}}


def test_a_model_type_selects_sam_2(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, SAM_2_YAML)
    found = load_train_config(["--config", path]).model
    assert type(found) is ModelConfig
    assert found.sam == Sam2Config(model_type="sam2", image_size=64, vision={"fpn_stride": 1})
    changed = load_train_config(["--config", path, "--model.sam.image_size", "128"]).model.sam
    assert changed == replace(found.sam, image_size=128)
    on_the_line = ["--config", str(tmp_path / "other.yaml"), "--model.sam.model_type", "sam2"]
    (tmp_path / "other.yaml").write_text(Path(path).read_text().replace("    model_type: sam2\n", ""))
    assert load_train_config(on_the_line).model.sam == found.sam
    plain = load_train_config(["--config", "configs/plum_tiny_stage1.yaml", "--model.sam.decoder_heads", "2"])
    assert isinstance(plain.model.sam, SamConfig)


def test_the_page_s_configuration_is_hiera_large() -> None:
    page = Path("docs/segmenters.md").read_text()
    block = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert Sam2Config(**block["model"]["sam"]) == HIERA_LARGE
    config = complete_sizes(HIERA_LARGE)
    with torch.device("meta"):
        sam, vit_h = build_segmenter(config), build_segmenter(SamConfig())
    assert sum(one.numel() for one in sam.parameters()) == 216_924_865
    for segmenter in (sam, vit_h):
        for prepared in (True, False):
            sizes = (segmenter.bytes_per_image(dtype, prepared) / 1e6 for dtype in (torch.float32, torch.bfloat16))
            assert " / ".join(f"{size:.1f}" for size in sizes) + " MB" in page


@pytest.mark.parametrize(
    ("sam", "message"),
    [
        (
            {**SAM_2_YAML, "encoder_dim": 32},
            r"model\.sam\.encoder_dim of .*run\.yaml is a size of SAM's, but .*run\.yaml",
        ),
        ({**SAM_2_YAML, "image_sise": 32}, "image_sise"),
        ({**SAM_2_YAML, "model_type": "sam4"}, "sam4"),
        ({**SAM_2_YAML, "image_size": 1.5}, "image_size"),
        ({"image_size": 64, "vision": {"fpn_stride": 1}}, "vision"),
    ],
)
def test_wrong_keys_are_named_against_one_kind_of_segmenter(tmp_path: Path, sam: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_train_config(["--config", write_yaml(tmp_path, sam)])
    assert "Union" not in str(error.value)
    assert "class_path" not in str(error.value)


@pytest.mark.parametrize("giver", ["file", "line"])
def test_the_two_kinds_of_segmenter_cannot_be_mixed(tmp_path: Path, giver: str) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {sam: {model_type: sam2}}")
    flags = ["--config", str(overlay)] if giver == "file" else ["--model.sam.model_type=sam2"]
    by = "overlay.yaml" if giver == "file" else "the command line"
    with pytest.raises(ValueError, match=rf"encoder_dim of configs/plum_tiny_stage1\.yaml is .* but .*{by} gives"):
        load_train_config(["--config", "configs/plum_tiny_stage1.yaml", *flags])


def test_what_needs_sam_says_so(tmp_path: Path) -> None:
    m2sa = replace(
        tiny_model_config(40, TINY_TOKENS),
        system="m2sa",
        tagger=None,
        seg_token=SegTokenConfig(),
        sam=tiny_sam2_config(),
    )
    with pytest.raises(ValueError, match="m2sa adds features of SAM's first global block, which sam2 does not have"):
        build_model(m2sa)
    path = write_yaml(tmp_path, SAM_2_YAML)
    with pytest.raises(ValueError, match="set part_pretext to null"):
        load_train_config(["--config", path, "--part_pretext.weight", "1"])
    config = replace(with_sam2(make_config(tmp_path, "pretext")), part_pretext=PretextConfig())
    with pytest.raises(ValueError, match="set part_pretext to null"):
        build_objective(make_model(), config, (1, 1))
