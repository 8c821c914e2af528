"""Memory of runs over stock models: what is measured without memory against the bytes that torch saves."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from partonomy.masks import encode_mask
from partonomy.structures import CharSpan
from plum.checkpoints.model_config_io import write_model_config
from plum.checkpoints.stock_folder import read_stock_checkpoint
from plum.config import HfBackboneConfig, LoraConfig, ModelConfig, TaggerConfig
from plum.data.collate import Collator
from plum.doctor import activations, memory
from plum.doctor.memory import Activations, count_static_memory, estimate_activations, estimate_memory
from plum.doctor.stock_images import read_stock_image
from plum.doctor.workload import Workload
from plum.inputs.stock_inputs import StockInputs
from plum.losses.losses import compute_losses
from plum.models.backbones.hf import FAMILIES
from plum.models.batch_plan import LaidOutPlan
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config, tiny_sam2_config
from plum.models.trainable import set_trainable
from plum.structures import Batch, Exchange, ImageFeatures, Sample
from plum.train_config import DataConfig, EngineConfig, LossConfig, TrainableConfig
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.plum.doctor.runs import tiny_run
from tests.plum.doctor.saved_tensors import measure_saved

MEASURED = sorted(name for name, family in FAMILIES.items() if not family.own_attention)
"""The others have layers of several kinds, for which there is no estimate."""
TOLERANCE = 0.05
LAYERS = 4
HEIGHT, WIDTH = 24, 40
LETTERS = "ghijkmnqrvwxyz"
"""Every answer repeats one of them, so that all have the same number of tokens and no common prefix."""
PLAIN = LoraConfig(rank=2, dropout=0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of each family."""
    root = tmp_path_factory.mktemp("stock")
    return {family: ARCHITECTURES[family](root / family) for family in FAMILIES}


def answer(letter: str) -> Exchange:
    text, spans = f"{letter * 4} ", []
    for length in (3, 6, 5):
        spans.append(CharSpan(len(text), len(text) + length))
        text += f"{letter * length} and "
    mask = encode_mask(np.ones((HEIGHT, WIDTH), dtype=bool))
    return Exchange(f"{letter} part?", text.strip(), tuple(spans), (mask,) * 3)


class StockRun:
    """A tiny model over a family's checkpoint in training, and a micro-batch of two images."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        *,
        has_sam2: bool = False,
        is_checkpointed: bool = False,
        per_image: int = 3,
        lora: LoraConfig | None = PLAIN,
        train_embeddings: bool = False,
    ) -> None:
        found = read_stock_checkpoint(folder)
        text = {**found.config.stock["text_config"], "num_hidden_layers": LAYERS}  # type: ignore[dict-item]
        text.pop("layer_types", None)  # one for each layer
        backbone = replace(found.config, stock={**found.config.stock, "text_config": text})
        tagger = TaggerConfig("bidirectional", 4, 64, 0.0)  # the CPU has no fused attention with dropout
        config = tiny_model_config(400, lora=lora, tagger=tagger)
        config = replace(config, llava=None, hf=backbone)
        # Larger grids, so that maps outweigh tokens as they do at full size.
        sam = replace(tiny_sam2_config(), image_size=128) if has_sam2 else replace(config.sam, image_size=128)
        self.config: ModelConfig = with_special_tokens(replace(config, sam=sam), found.tokenizer)
        torch.manual_seed(0)
        self.model = build_model(self.config).train()
        language = "full" if lora is None else "lora"
        trained = TrainableConfig(language_model=language, embeddings=train_embeddings or lora is None)  # type: ignore[arg-type]
        set_trainable(self.model, trained)
        self.model.to(dtype)
        if is_checkpointed:
            self.model.enable_gradient_checkpointing()
        self.batch = self._collate(found.tokenizer, per_image)
        engine = EngineConfig(
            gradient_checkpointing=is_checkpointed, precision="bf16" if dtype.itemsize == 2 else "fp32"
        )
        losses = LossConfig(kl=0.1 if lora else 0.0)
        self.run = replace(tiny_run(self.config), engine=engine, trainable=trained, losses=losses)
        self.work = self._workload(dtype, per_image)

    def _collate(self, tokenizer: object, per_image: int) -> Batch:
        rng = np.random.default_rng(0)
        samples = []
        for number in range(2):
            letters = LETTERS[number * per_image : (number + 1) * per_image]
            image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            samples.append(Sample(f"{number}", "test", image, tuple((answer(letter),) for letter in letters)))
        return Collator(tokenizer, self.config, DataConfig(sources=()))(samples)  # type: ignore[arg-type]

    def _workload(self, dtype: torch.dtype, per_image: int) -> Workload:
        batch = self.batch
        assert isinstance(self.config.hf, HfBackboneConfig)
        lengths = batch.attention_mask.sum(1)
        assert int(lengths.min()) == int(lengths.max()), "no padding"
        common = int((batch.input_ids[:per_image] == batch.input_ids[0]).all(0).int().cumprod(0).sum())
        work = Workload(
            images=2,
            conversations=2 * per_image,
            tokens=int(lengths[0]),
            common=common,
            supervised=int((batch.labels[:, 1:] >= 0).sum()),
            spans=3,
            span_tokens=int((batch.spans.end - batch.spans.start).max()),
            image_pixels=HEIGHT * WIDTH,
            element_bytes=dtype.itemsize,
            dropout_mask_bytes=dtype.itemsize,
            stock_image=read_stock_image(self.config.hf, HEIGHT, WIDTH),
        )
        assert work.places == batch.plan.student.num_places  # type: ignore[union-attr]
        return work

    def known(self) -> list[torch.Tensor]:
        """Parameters, buffers and the tensors of the batch, which the estimate counts elsewhere."""
        batch, plan = self.batch, self.batch.plan
        assert isinstance(plan, LaidOutPlan)
        inputs = [batch.input_ids, batch.labels, batch.tags, batch.attention_mask, batch.shown.rows]
        for one in plan.student.passes:
            inputs += [one.input_ids, one.positions, one.branches, one.patches]
        return [*self.model.parameters(), *self.model.buffers(), *inputs, *batch.spans.fields, plan.student.places]

    def saved(self) -> int:
        """Bytes that torch saves of one forward pass with all losses and the teacher, without the images' features."""
        batch, losses, known = self.batch, self.run.losses, self.known()
        features, _ = measure_saved(self.encode, known)
        whole, _ = measure_saved(
            lambda: compute_losses(self.model(batch, with_teacher=losses.kl > 0), batch, losses), known
        )
        return whole - features

    def encode(self) -> ImageFeatures:
        return self.model.encode_images(self.batch.clip_pixels, self.batch.sam_pixels, self.batch.sam_rows)

    def saved_by_decoder(self) -> int:
        images, batch, plan = self.encode().tokens, self.batch, self.batch.plan
        assert isinstance(plan, LaidOutPlan)
        known = [*self.known(), images.values]
        return measure_saved(
            lambda: self.model.backbone.shared_hidden_states(
                batch.input_ids, batch.attention_mask, batch.shown, images, plan.student
            ),
            known,
        )[0]

    def estimate(self) -> Activations:
        return estimate_activations(self.run, self.work)


COMBINATIONS = [
    (dtype, is_checkpointed, has_sam2)
    for dtype in (torch.float32, torch.bfloat16)
    for is_checkpointed in (False, True)
    for has_sam2 in (False, True)
]


def check_whole_step(folder: Path, dtype: torch.dtype, is_checkpointed: bool, has_sam2: bool) -> None:
    run = StockRun(folder, dtype, has_sam2=has_sam2, is_checkpointed=is_checkpointed)
    saved, expected = run.saved(), run.estimate().total
    # Shown with `pytest -rP`.
    segmenter = "SAM 2" if has_sam2 else "SAM"
    figures = f"{expected:,} estimated, {saved:,} saved, ratio {expected / saved:.3f}"
    sys.stdout.write(f"{folder.name}, {segmenter}, {dtype}, checkpointing {is_checkpointed}: {figures}\n")
    assert expected == pytest.approx(saved, rel=TOLERANCE)


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("family", MEASURED)
def test_a_whole_training_step(folders: dict[str, Path], family: str, number: int) -> None:
    """Two combinations for every family; among all families, every combination occurs."""
    place = MEASURED.index(family)
    dtype, is_checkpointed, has_sam2 = COMBINATIONS[(3 * place + 5 * number) % len(COMBINATIONS)]
    check_whole_step(folders[family], dtype, is_checkpointed, has_sam2)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "is_checkpointed", "has_sam2"), COMBINATIONS)
@pytest.mark.parametrize("family", MEASURED)
def test_every_combination(
    folders: dict[str, Path], family: str, dtype: torch.dtype, is_checkpointed: bool, has_sam2: bool
) -> None:
    check_whole_step(folders[family], dtype, is_checkpointed, has_sam2)


@pytest.mark.parametrize("family", MEASURED)
@pytest.mark.parametrize(
    ("dtype", "per_image", "is_checkpointed"),
    [(torch.float32, 1, False), (torch.bfloat16, 3, False), (torch.float32, 3, True)],
    ids=["alone", "shared", "checkpointed"],
)
def test_the_decoder_alone(
    folders: dict[str, Path], family: str, dtype: torch.dtype, per_image: int, is_checkpointed: bool
) -> None:
    run = StockRun(folders[family], dtype, per_image=per_image, is_checkpointed=is_checkpointed)
    # DeepStack's masks of image tokens are saved too; they are a thousandth at full size.
    assert run.estimate().layers == pytest.approx(run.saved_by_decoder(), rel=0.01)


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl"])
@pytest.mark.parametrize(
    ("lora", "embeddings"),
    [
        (LoraConfig(rank=2, dropout=0.05), False),
        (LoraConfig(rank=2, dropout=0.05, target_modules=("q_proj", "gate_proj", "down_proj")), False),
        (LoraConfig(rank=2, dropout=0.0, target_modules=("q_proj", "k_proj", "o_proj", "up_proj")), False),
        (LoraConfig(rank=2, dropout=0.05, train_embeddings=True), True),
        (None, True),
    ],
    ids=["dropout", "mlp_dropout", "many", "embeddings", "full"],
)
def test_adapters_and_trained_decoders(
    folders: dict[str, Path], family: str, lora: LoraConfig | None, embeddings: bool
) -> None:
    run = StockRun(folders[family], torch.bfloat16, lora=lora, train_embeddings=embeddings)
    assert run.estimate().layers == pytest.approx(run.saved_by_decoder(), rel=0.01)


def test_dropout_masks_are_booleans_on_cuda(folders: dict[str, Path]) -> None:
    """q and v of four layers: the mask of each one's input, but for the first layer's, which needs no gradient."""
    run = StockRun(folders["qwen2_5_vl"], torch.float32, lora=LoraConfig(rank=2, dropout=0.05))
    on_cuda = estimate_activations(run.run, replace(run.work, dropout_mask_bytes=1)).layers
    assert run.estimate().layers - on_cuda == 3 * 2 * run.work.places * 32 * (4 - 1)


@pytest.mark.parametrize("family", MEASURED)
@pytest.mark.parametrize("size", [(24, 40), (50, 20), (16, 16)])
def test_images_are_those_of_the_model_s_own_processor(
    folders: dict[str, Path], family: str, size: tuple[int, int]
) -> None:
    found = read_stock_checkpoint(folders[family])
    pixels, slot = StockInputs(found.config, found.tokenizer).read_image(np.zeros((*size, 3), dtype=np.uint8))
    image = read_stock_image(found.config, *size)
    assert (image.num_tokens, image.slot) == (slot.num_tokens, len(slot.ids))
    assert image.pixel_bytes == sum(tensor.nbytes for tensor in pixels.values())
    assert image.has_rectangles == (slot.grid is not None)


@pytest.mark.parametrize(
    ("stock", "num_tokens"),
    [
        ({"model_type": "qwen3_vl"}, 15 * 20),  # cells of 32 pixels
        ({"model_type": "qwen2_5_vl"}, 17 * 23),  # of 28, rounded
        ({"model_type": "qwen2_vl"}, 17 * 23),
        ({"model_type": "internvl"}, (3 * 4 + 1) * 256),  # tiles of 448 pixels, and the whole
        ({"model_type": "llava"}, 24 * 24),
        ({"model_type": "llava_onevision"}, 729 + 2 * 27 * (27 * 3 // 2)),
        ({"model_type": "idefics3", "vision_config": {"image_size": 364, "patch_size": 14}}, (3 * 4 + 1) * 169),
        ({"model_type": "smolvlm", "vision_config": {"image_size": 512, "patch_size": 16}, "scale_factor": 4}, 13 * 64),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_sizes_alone_give_the_tokens_of_a_photograph(stock: dict[str, object], num_tokens: int) -> None:
    """480 x 640 pixels, with the settings that published checkpoints of these sizes have."""
    found = read_stock_image(HfBackboneConfig(stock=stock), 480, 640)
    if stock["model_type"] == "llava_onevision":  # the whole and rows of its tiles, cut to the image's shape
        assert 2500 < found.num_tokens < 3500
    else:
        assert found.num_tokens == num_tokens


@pytest.mark.parametrize("family", MEASURED)
def test_parameters_are_those_of_the_model(folders: dict[str, Path], family: str) -> None:
    run = StockRun(folders[family], torch.float32)
    plain = replace(run.run, engine=replace(run.run.engine, kind="plain"))
    counted = count_static_memory(plain, 1)
    assert counted.weights == sum(parameter.nbytes for parameter in run.model.parameters())
    trained = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    assert counted.num_trained == trained
    assert (counted.gradients, counted.moments) == (4 * trained, 8 * trained)
    names = {one.component for one in counted.components}
    parts = ("lora", "language_model", "embeddings", "vision_tower", "projector")
    assert {f"{family}.{part}" for part in parts} <= names
    assert not any(name.startswith("llava.") for name in names) or family == "llava"


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_quantized_base_packs_the_decoder_alone(folders: dict[str, Path], is_tied: bool) -> None:
    run = StockRun(folders["qwen3_vl"], torch.bfloat16)
    assert run.config.hf is not None
    text = {**run.config.hf.stock["text_config"], "tie_word_embeddings": is_tied}  # type: ignore[dict-item]
    stock = {**run.config.hf.stock, "text_config": text, "tie_word_embeddings": is_tied}
    model = replace(run.config, hf=replace(run.config.hf, stock=stock))
    config = replace(run.run, model=model)
    before, after = (
        {
            one.component: one
            for one in count_static_memory(
                replace(config, engine=replace(config.engine, base_quantization=kind)), 1
            ).components
        }
        for kind in ("none", "nf4")
    )
    assert {name for name in before if before[name] != after[name]} == {"qwen3_vl.language_model"}
    vocabulary = model.language.vocab_size * 32
    assert before["qwen3_vl.embeddings"].num_parameters == vocabulary * (1 if is_tied else 2)
    decoder = [
        parameter
        for name, parameter in run.model.named_parameters()
        if ".language_model.layers." in name and "lora_" not in name
    ]
    matrices = [parameter.numel() for parameter in decoder if parameter.ndim == 2]
    # Half a byte, a scale per 64 weights, a float32 number per 256 scales; norms stay in 16 bits.
    packed = sum(-(-number // 2) + -(-number // 64) + 4 * -(-number // (64 * 256)) for number in matrices)
    norms = sum(parameter.numel() for parameter in decoder if parameter.ndim == 1) + 32
    assert after["qwen3_vl.language_model"].weight_bytes == packed + 2 * norms


def test_logits_beyond_the_bound_are_kept_as_they_are(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StockRun(folders["qwen3_vl"], torch.bfloat16)
    whole = estimate_memory(run.run, 1)
    for module in (activations, memory):
        monkeypatch.setattr(module, "MAX_WHOLE_LOGITS", 100)
    monkeypatch.setattr(memory, "LOGITS_OF_A_PIECE", 200)
    pieces = estimate_memory(run.run, 1)
    logits = whole.workload.supervised * run.config.language.vocab_size
    assert whole.activations.token_loss - pieces.activations.token_loss == logits * (4 - 2)
    peaks = [{phase.name: phase.num_bytes for phase in one.phases} for one in (whole, pieces)]
    # Whole: raw and masked logits and a float32 copy beside the log-probabilities. In pieces: the raw ones.
    assert peaks[0]["losses"] - peaks[1]["losses"] == logits * (4 + 2 + 2 + 4 - 2 - 2)
    # Whole: the float32 gradient and its copy in 16 bits. In pieces: two of the latter, and a piece's float32 numbers.
    difference = logits * (4 + 4 + 2 - 2 - 2 - 2) - 3 * 4 * 200
    assert peaks[0]["backward of the losses"] - peaks[1]["backward of the losses"] == difference


def test_deep_features_are_held_with_the_images_tokens(folders: dict[str, Path]) -> None:
    run = StockRun(folders["qwen3_vl"], torch.bfloat16)
    assert run.config.hf is not None
    vision = {**run.config.hf.stock["vision_config"], "deepstack_visual_indexes": []}  # type: ignore[dict-item]
    without = replace(run.config, hf=replace(run.config.hf, stock={**run.config.hf.stock, "vision_config": vision}))
    deep, shallow = (
        {phase.name: phase.num_bytes for phase in estimate_memory(one, 1).phases}
        for one in (run.run, replace(run.run, model=without))
    )
    work = estimate_memory(run.run, 1).workload
    assert work.stock_image is not None
    features = work.images * work.stock_image.num_tokens * 32 * 2  # one map, bfloat16
    assert deep["SAM's image encoder"] - shallow["SAM's image encoder"] == features
    assert deep["teacher's pass"] - shallow["teacher's pass"] == 2 * features  # and its copy among the tokens


def test_sizes_come_from_the_base_that_a_run_starts_from(folders: dict[str, Path], tmp_path: Path) -> None:
    run = StockRun(folders["internvl"], torch.float32)
    with pytest.raises(ValueError, match=r"gives no sizes.*not there \(.*base\): adopt it first"):
        estimate_memory(replace(run.run, model=replace(run.config, hf=HfBackboneConfig()), init_from="base"), 1)
    write_model_config(run.config, tmp_path)
    bare = replace(run.run, model=replace(run.config, hf=HfBackboneConfig()), init_from=str(tmp_path))
    assert estimate_memory(bare, 2) == estimate_memory(run.run, 2)
    other = replace(bare, model=replace(run.config, hf=HfBackboneConfig(stock={"downsample_ratio": 7})))
    with pytest.raises(ValueError, match=r"model\.hf\.stock\.downsample_ratio of this run and of .* differ"):
        estimate_memory(other, 1)


def test_what_has_no_estimate_is_said(folders: dict[str, Path]) -> None:
    run = StockRun(folders["smolvlm"], torch.float32).run
    trained = replace(run, trainable=replace(run.trainable, projector=True))
    with pytest.raises(ValueError, match="estimated for a frozen projector of smolvlm"):
        estimate_memory(trained, 1)
    for family in FAMILIES.keys() - set(MEASURED):
        backbone = read_stock_checkpoint(folders[family]).config
        with pytest.raises(ValueError, match=rf"^{family} has .*so that its layers differ.*not measured yet"):
            estimate_memory(replace(run, model=replace(run.model, hf=backbone)), 1)
    text = {**run.model.hf.stock["text_config"], "layer_types": ["full_attention", "sliding_attention"] * 2}  # type: ignore[dict-item,union-attr]
    stock = {**run.model.hf.stock, "text_config": {**text, "model_type": "qwen2", "sliding_window": 8}}  # type: ignore[union-attr]
    mixed = replace(run, model=replace(run.model, hf=replace(run.model.hf, stock=stock)))
    with pytest.raises(ValueError, match="several kinds .full_attention, sliding_attention., which are not measured"):
        estimate_memory(mixed, 1)
