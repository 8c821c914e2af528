"""The recipes over Qwen3-VL: sizes, memory, and one switch between what the paper compares."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from plum.cli.main import main
from plum.config import SpecialTokensConfig
from plum.doctor.memory import count_static_memory, estimate_memory
from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import count_components
from plum.models.systems.registry import build_model
from plum.models.trainable import set_trainable
from plum.train_config import TrainConfig
from tests.test_configs import CONFIGS, STOCK, flatten, load

LORA, QLORA, EIGHT = (CONFIGS / f"qwen3_vl_{name}.yaml" for name in ("4b_sam2_lora", "4b_sam2_qlora", "8b_sam2_8gpu"))
SEG, NO_FEEDBACK = CONFIGS / "sisters" / "lisa_many.yaml", CONFIGS / "ablations" / "no_feedback.yaml"
PARTONOMY = CONFIGS / "overlays" / "partonomy_ft.yaml"
PAGE = CONFIGS.parent / "docs" / "train" / "stock_backbones.md"


def build_on_meta(config: TrainConfig) -> GroundedLMM:
    """The model without memory for its weights."""
    backbone = config.model.backbone
    tokens = SpecialTokensConfig(image=151655, pad=151643, eos=151645)
    with torch.device("meta"):
        return build_model(config.model.with_backbone(replace(backbone, special_tokens=tokens)))


def changed_keys(*paths: Path) -> set[str]:
    """Keys in which the first file with the others on top differs from it alone."""
    base, changed = flatten(asdict(load(paths[0]))), flatten(asdict(load(*paths)))
    return {key for key in base.keys() | changed.keys() if base.get(key) != changed.get(key)}


def test_every_recipe_is_here() -> None:
    assert set(STOCK) == {LORA, QLORA, EIGHT}


@pytest.mark.parametrize("path", STOCK, ids=lambda path: path.stem)
def test_a_recipe_says_where_it_runs_and_from_what(path: Path) -> None:
    config = load(path)
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any("Hardware:" in line for line in header)
    assert any("plum adopt weights/Qwen3-VL-" in line and f" {config.init_from} " in line for line in header)
    assert config.run_dir == f"runs/{path.stem}"


@pytest.mark.parametrize(
    ("path", "language", "embeddings", "whole"),
    [
        # Qwen3-4B has 4,022,468,096 parameters, with one matrix for embed_tokens and lm_head; Qwen3-8B 8,190,735,360.
        (LORA, 4_022_468_096 - 151_936 * 2560, 151_936 * 2560, 4_437_815_808),
        (EIGHT, 8_190_735_360 - 2 * 151_936 * 4096, 2 * 151_936 * 4096, 8_767_123_696),
    ],
    ids=["4b", "8b"],
)
def test_sizes_are_the_published_ones(path: Path, language: int, embeddings: int, whole: int) -> None:
    config = load(path)
    counts = {one.component: one.num_parameters for one in count_components(build_on_meta(config))}
    assert counts["qwen3_vl.language_model"] == language
    assert counts["qwen3_vl.embeddings"] == embeddings
    # Of every layer q and v: from D to 32 heads and to 8, each of 128.
    width = config.model.language.hidden_size
    assert counts["qwen3_vl.lora"] == 36 * 8 * ((width + 32 * 128) + (width + 8 * 128))
    assert counts["qwen3_vl.vision_tower"] + counts["qwen3_vl.projector"] == whole - language - embeddings
    sam = sum(number for name, number in counts.items() if name.startswith("sam."))
    assert sam / 1e6 == pytest.approx(216.9, abs=0.1)  # SAM 2.1 large has 224.4 M with the memory of videos


def test_the_page_s_table_is_what_doctor_computes_and_every_recipe_fits_its_gpus(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--table", *map(str, (LORA, QLORA, EIGHT)), "--gpus", "1"]) == 0
    table = capsys.readouterr().out.strip()
    found = re.search(r"<!-- memory table -->\n(.*?)\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == table, "run the command above the page's memory table and paste what it prints"
    peaks = [float(line.rsplit("|", 2)[1]) for line in table.splitlines()[2:]]
    # A share of each GPU is left for what no GPU has confirmed.
    for peak, gpu, share in zip(peaks, (48, 24, 80), (0.7, 0.8, 0.7), strict=True):
        assert peak < share * gpu


def test_the_page_s_peaks_with_seg_tokens_are_those_that_doctor_computes() -> None:
    config = load(EIGHT, SEG)
    sharded = replace(config, engine=replace(config.engine, kind="deepspeed"))
    peaks = [f"{estimate_memory(one, 8).peak / 1e9:.1f} GB" for one in (config, sharded)]
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{peaks[0]} (8B), or {peaks[1]} with `--engine.kind deepspeed`" in text


def test_the_packed_recipe_packs_the_decoder_alone() -> None:
    config = load(QLORA)
    assert config.engine.base_quantization == "nf4"
    before = {one.component: one.weight_bytes for one in count_static_memory(load(LORA), 1).components}
    after = {one.component: one.weight_bytes for one in count_static_memory(config, 1).components}
    assert {name for name in before if before[name] != after[name]} == {"qwen3_vl.language_model"}


def test_recipes_differ_in_what_they_are_named_for() -> None:
    lora, qlora, eight = (load(path) for path in (LORA, QLORA, EIGHT))
    assert replace(qlora, engine=lora.engine, run_dir=lora.run_dir) == lora
    model = replace(eight.model, hf=lora.model.hf)
    same = replace(eight, engine=lora.engine, run_dir=lora.run_dir, init_from=lora.init_from, model=model)
    assert same == lora
    for config in (lora, qlora, eight):
        assert config.engine.micro_batch_size * config.engine.accumulation == 60, "Table 6: 10 x 6 for each GPU"


@pytest.mark.parametrize("path", STOCK, ids=lambda path: path.stem)
def test_data_losses_and_schedule_are_those_of_plum_7b(path: Path) -> None:
    own, plum = load(path), load(CONFIGS / "plum_7b_0shot.yaml")
    assert (own.data, own.losses, own.optimizer, own.num_updates) == (
        plum.data,
        plum.losses,
        plum.optimizer,
        plum.num_updates,
    )
    second, plum_ft = load(path, PARTONOMY), load(CONFIGS / "plum_7b_ft.yaml")
    assert (second.data, second.num_updates) == (plum_ft.data, plum_ft.num_updates)
    assert replace(second, data=own.data, num_updates=own.num_updates) == own


@pytest.mark.parametrize("path", STOCK, ids=lambda path: path.stem)
def test_claims_are_one_switch_apart(path: Path) -> None:
    """Mask feedback on or off; the tagger, or [SEG] with LISA's losses (PLUM paper, Table 6)."""
    assert changed_keys(path, NO_FEEDBACK) == {"model.feedback.is_enabled"}
    changed = changed_keys(path, SEG)
    own = {"model.system", "model.feedback.is_enabled", "model.lora.train_embeddings", "trainable.embeddings"}
    own |= {"trainable.sam_prompt_encoder", "losses.bio", "losses.kl", "losses.mask_overlap", "losses.overlap"}
    assert {key for key in changed if not key.startswith(("model.tagger", "model.seg_token"))} == own
    with_seg = load(path, SEG)
    assert with_seg.model.tagger is None
    assert with_seg.model.seg_token is not None
    assert with_seg.model.seg_token.targets == "many"


def test_models_of_the_switches_build() -> None:
    without = load(LORA, NO_FEEDBACK)
    assert build_on_meta(without).feedback is None
    config = load(EIGHT, SEG)
    model = build_on_meta(config)
    rows = {row.module: row for row in set_trainable(model, config.trainable)}
    assert (model.tagger, model.feedback) == (None, None)
    # embed_tokens (peft's copy beside the teacher's) and lm_head.
    assert rows["qwen3_vl.embeddings"].trainable == 2 * 151_936 * 4096
    assert rows["qwen3_vl.lora"].trainable == rows["qwen3_vl.lora"].total
