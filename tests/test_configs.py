"""Every shipped YAML loads and its model builds; the paper's sizes are counted component by component."""

import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from plum.checkpoints.published.sam_weights import read_sam_config
from plum.config import ModelConfig, SpecialTokensConfig
from plum.models.backbones.calico import CalicoBackbone
from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import count_components
from plum.models.segmenters.build import build_segmenter
from plum.models.systems.registry import build_model
from plum.models.trainable import ALWAYS_TRAINED, set_trainable
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config
from scripts.smollm2_base import SAM as SMOLLM2_SAM

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ABLATION_BASE = CONFIGS / "ablations" / "base.yaml"
OVERLAYS = sorted(path for path in ABLATION_BASE.parent.glob("*.yaml") if path != ABLATION_BASE)
SISTERS = sorted((CONFIGS / "sisters").glob("*.yaml"))
CALICO_STAGE1, PLUM_PAIRS = CONFIGS / "calico_tiny_stage1.yaml", CONFIGS / "plum_tiny_pairs.yaml"
PAIRS = [
    *[(CALICO_STAGE1, path) for path in sorted((CONFIGS / "pairs").glob("calico_*.yaml"))],
    *[(PLUM_PAIRS, path) for path in sorted((CONFIGS / "pairs").glob("mi_*.yaml"))],
]
TINY = [*sorted(CONFIGS.glob("plum_tiny_*.yaml")), *sorted(CONFIGS.glob("calico_tiny_*.yaml")), ABLATION_BASE]
CALICO = CONFIGS / "calico_7b.yaml"
SMOLLM2 = CONFIGS / "smollm2_demo.yaml"
FULL_SIZE = sorted(path for path in CONFIGS.glob("*.yaml") if "tiny" not in path.name and path not in (CALICO, SMOLLM2))

CHANGED_KEYS = {
    "detach_feedback": {"model.feedback.detach_feedback"},
    "dice": {"losses.overlap"},
    "frozen_prompt_encoder": {"trainable.sam_prompt_encoder"},
    "kl_0": {"losses.kl"},
    "kl_1": {"losses.kl"},
    "kl_sum": {"losses.kl_reduction"},
    "no_feedback": {"model.feedback.is_enabled"},
    "tagger_binary": {"model.tagger.scheme"},
    "tagger_causal": {"model.tagger.context"},
    "tagger_crf": {"model.tagger.use_crf"},
    "tagger_cross_attention": {"model.tagger.use_cross_attention"},
    "tagger_hinge": {"losses.bio_form"},
    "tagger_none": {"model.tagger.context"},
}

STOCK = sorted(CONFIGS.glob("qwen3_vl_*.yaml"))
"""Recipes over stock models; tests/test_stock_configs.py."""
FULL_SIZE = [path for path in FULL_SIZE if path not in STOCK]


def load(*paths: Path) -> TrainConfig:
    """What train.py makes of `--config FILE [--config OVERLAY]`."""
    return load_train_config([argument for path in paths for argument in ("--config", str(path))])


def with_tokens(config: ModelConfig) -> ModelConfig:
    """The configuration with ids as LLaVA's tokenizer gives them: end 2, pad and image among the added ones."""
    size = config.llava.language.vocab_size
    tokens = SpecialTokensConfig(image=size - 64, pad=size - 63, eos=2, suppressed=(size - 64, size - 63))
    assert config.llava.special_tokens is None, "ids come from the tokenizer, not from the YAML"
    return replace(config, llava=replace(config.llava, special_tokens=tokens))


def flatten(values: object, prefix: str = "") -> dict[str, object]:
    """Nested dictionaries as one level of dotted keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def changed_keys(overlay: Path) -> set[str]:
    """Keys in which the base with an overlay differs from the base."""
    base, changed = flatten(asdict(load(ABLATION_BASE))), flatten(asdict(load(ABLATION_BASE, overlay)))
    return {key for key in base.keys() | changed.keys() if base.get(key) != changed.get(key)}


def test_every_overlay_of_pairs_is_tried() -> None:
    assert len(PAIRS) == len(list((CONFIGS / "pairs").glob("*.yaml"))) == 6


@pytest.mark.parametrize("path", [*TINY, *FULL_SIZE, CALICO, SMOLLM2], ids=lambda path: path.stem)
def test_yaml_says_where_it_runs(path: Path) -> None:
    config = load(path)
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any("Hardware:" in line for line in header)
    # Stages continue one another and what reports numbers is kept out of training.
    assert config.tokenizer is not None or config.init_from is not None
    # MixedParts divides images into splits before it pairs them.
    assert config.data.exclude_images or path == CALICO


@pytest.mark.parametrize(
    "paths",
    [*[(path,) for path in TINY], *[(ABLATION_BASE, path) for path in (*OVERLAYS, *SISTERS)], *PAIRS],
    ids=lambda paths: paths[-1].stem,
)
def test_tiny_model_builds_and_trains_what_it_says(paths: tuple[Path, ...]) -> None:
    config = load(*paths)
    model = build_model(with_tokens(config.model))
    rows = {row.module: row for row in set_trainable(model, config.trainable)}
    assert rows["sam.image_encoder"].trainable == config.trainable.sam_image_encoder * rows["sam.image_encoder"].total
    assert (
        rows["sam.prompt_encoder"].trainable == config.trainable.sam_prompt_encoder * rows["sam.prompt_encoder"].total
    )
    assert (model.feedback is not None) == config.model.feedback.is_enabled
    assert ("llava.lora" in rows) == (config.model.lora is not None) == (config.trainable.language_model == "lora")
    trained_heads = [module for module in ALWAYS_TRAINED if module in rows]
    assert all(rows[module].trainable == rows[module].total for module in trained_heads)
    assert sum(row.total for row in rows.values()) < 10_000_000


@pytest.mark.parametrize("path", FULL_SIZE, ids=lambda path: path.stem)
def test_full_size_model_builds_on_the_meta_device(path: Path) -> None:
    config = load(path)
    model = build_on_meta(config)
    counts = {count.component: count.num_parameters for count in count_components(model)}
    width, layers = config.model.llava.language.hidden_size, config.model.llava.language.num_layers
    assert counts["llava.lora"] == layers * 2 * 8 * (width + width)
    assert counts["sam.image_encoder"] == 637_026_048  # SAM ViT-H
    assert counts["llava.vision_tower"] == 303_179_776  # CLIP ViT-L/14
    assert config.model.lora is not None
    # embed_tokens and lm_head; the trained copy beside the teacher's.
    assert counts["llava.embeddings"] == (2 + config.model.lora.train_embeddings) * 32064 * width
    billions = {"13b": (13.0e9, 14.3e9), "7b": (6.7e9, 7.8e9)}[path.stem.split("_")[1]]
    assert billions[0] < sum(counts.values()) - counts["sam.image_encoder"] < billions[1]


def test_the_language_demo_expects_the_segmenter_that_its_base_has(tmp_path: Path) -> None:
    config = load(SMOLLM2)
    torch.save(build_segmenter(SMOLLM2_SAM).state_dict(), tmp_path / "sam.pth")
    assert config.model.sam == read_sam_config(tmp_path / "sam.pth") == SMOLLM2_SAM
    assert config.losses.mask_bce == config.losses.mask_overlap == 0, "a random SAM has nothing to teach"


def test_calico_trains_what_its_header_says() -> None:
    config = load(CALICO)
    model = build_on_meta(config)
    rows = set_trainable(model, config.trainable)
    trained = {row.module: row.trainable for row in rows if row.trainable}
    assert trained.keys() == {
        "llava.lora",
        "calico.correspondence",
        "calico.queries",
        "calico.adaptation",
        "sam.mask_decoder",
    }
    assert f"{sum(trained.values()) / 1e6:.1f} M trained parameters" in CALICO.read_text(encoding="utf-8")
    assert {row.module: row.total for row in rows}["llava.vision_tower"] == 985_952_256  # EVA-CLIP-g/14
    llava = model.llava
    assert isinstance(llava, CalicoBackbone)
    assert llava.adaptation is not None
    assert llava.adaptation.layers == (11, 22)


def test_parameters_of_the_shipped_13b_configurations() -> None:
    for name in ("plum_13b_0shot", "plum_13b_ft"):
        config = load(CONFIGS / f"{name}.yaml")
        rows = set_trainable(build_on_meta(config), config.trainable)
        # Shown with `pytest -rP`.
        sys.stdout.writelines(f"{name} {row.module:<24} {row.trainable:>12,} of {row.total:>14,}\n" for row in rows)
        # D = 5120, 40 layers. The paper trains adapters, its own heads, SAM's decoder and prompt encoder (Table 6) and
        # "all other components" but CLIP and the projector (A.1), hence the embeddings.
        assert {row.module: row.trainable for row in rows if row.trainable} == {
            "llava.embeddings": 328_335_360,  # embed_tokens (peft's copy) and lm_head: 2 x 32064 x 5120
            "llava.lora": 6_553_600,  # 40 layers x (q, v) x rank 8 x (5120 + 5120)
            "tagger.mlp": 52_439_040,  # 2 x (5120^2 + 5120)
            "tagger.block": 125_877_248,  # 4 x (5120^2 + 5120) + 2 x 5120 x 2048 + 2048 + 5120 + 4 x 5120
            "tagger.classifier": 15_363,  # 5120 x 3 + 3
            "query_projection": 27_530_496,  # 5120^2 + 5120 + 5120 x 256 + 256
            "feedback.film": 10_280,  # 256 x 8 + 8 + 256 x 32 + 32
            "feedback.pooling": 1_311_744,  # 4 x (256^2 + 256) + 4096 x 256
            "sam.mask_decoder": 4_058_340,
            "sam.prompt_encoder": 6_220,
        }
        frozen = {row.module: row.total for row in rows if not row.trainable}
        # Vicuna-13B's 13,015,864,320 without its two embeddings of 32,000 words.
        assert frozen["llava.language_model"] == 13_015_864_320 - 2 * 32000 * 5120
        assert set(frozen) == {
            "llava.language_model",
            "llava.vision_tower",
            "llava.projector",
            "sam.image_encoder",
        }


def build_on_meta(config: TrainConfig) -> GroundedLMM:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return build_model(with_tokens(config.model))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_changes_exactly_what_its_name_says(overlay: Path) -> None:
    assert changed_keys(overlay) == CHANGED_KEYS[overlay.stem]
    named = set(flatten(yaml.safe_load(overlay.read_text(encoding="utf-8"))))
    assert named == CHANGED_KEYS[overlay.stem], "no key is repeated that the base already has"


def test_every_ablation_of_the_table_is_there() -> None:
    assert {path.stem for path in OVERLAYS} == set(CHANGED_KEYS)
    values = {name: load(ABLATION_BASE, ABLATION_BASE.parent / f"{name}.yaml") for name in CHANGED_KEYS}
    assert (values["kl_0"].losses.kl, values["kl_1"].losses.kl) == (0.0, 1.0)
    taggers = [values[name].model.tagger for name in ("tagger_causal", "tagger_none")]
    assert [tagger.context for tagger in taggers if tagger is not None] == ["causal", "none"]
    tagger = values["tagger_binary"].model.tagger
    assert tagger is not None
    assert tagger.scheme == "binary"
    assert values["tagger_hinge"].losses.bio_form == "hinge"


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_overlays_of_the_mmr_paper_change_what_its_rows_name(size: str) -> None:
    """Tables 2 and 6: the system and its [SEG] tokens, on M2SA's own mixture; Table 9: MMR in ReasonSeg's place."""
    full, overlays = CONFIGS / f"m2sa_{size}.yaml", CONFIGS / "overlays"
    base = load(full)
    one, many = (load(full, overlays / f"mmr_{name}.yaml") for name in ("lisa", "many_seg"))
    assert base.model.seg_token is not None
    assert base.model.system == "m2sa"
    assert many == replace(base, model=replace(base.model, system="lisa"))
    seg_token = replace(base.model.seg_token, targets="single")
    assert one == replace(base, model=replace(base.model, system="lisa", seg_token=seg_token))
    reasoning = load(CONFIGS / f"lisa_{size}.yaml")
    swapped = load(CONFIGS / f"lisa_{size}.yaml", overlays / "mmr_for_reason_seg.yaml")
    assert [source.kind for source in swapped.data.sources if source.group == "reasoning"] == ["mmr"]
    kept = [source for source in reasoning.data.sources if source.kind != "reasoning"]
    assert [source for source in swapped.data.sources if source.kind != "mmr"] == kept
    assert swapped.data.groups == reasoning.data.groups
    assert replace(swapped, data=reasoning.data) == reasoning


def test_m2sa_differs_between_sizes_in_its_backbone_alone() -> None:
    small, large = (load(CONFIGS / f"m2sa_{size}.yaml") for size in ("7b", "13b"))
    assert large.model.llava == load(CONFIGS / "lisa_13b.yaml").model.llava
    same = replace(small, run_dir=large.run_dir, init_from=large.init_from)
    assert replace(same, model=replace(small.model, llava=large.model.llava)) == large


def test_loss_weights_are_those_of_table_14() -> None:
    """Every printed row under both readings of its headings; moved by one, the last row is the paper's Table 6."""
    from partonomy.quoted_rows import read_quoted

    full, folder = CONFIGS / "plum_13b_ft.yaml", CONFIGS / "loss_weights"
    base, names = load(full), set()
    for row in read_quoted("table14").rows:
        printed = [float(row[name]) for name in ("lambda_KL", "lambda_seg", "lambda_BCE")]
        assert float(row["LR"]) == base.optimizer.learning_rate
        for name, (kl, overlap, bce) in (("kl", printed), ("overlap", (printed[2], printed[0], printed[1]))):
            path = folder / f"{name}_{printed[0]:g}.yaml"
            names.add(path.name)
            losses = replace(base.losses, kl=kl, mask_overlap=overlap, mask_bce=bce)
            assert load(full, path) == replace(base, losses=losses)
    assert {path.name for path in folder.glob("*.yaml")} == names
    assert load(full, folder / "overlap_8.yaml") == base


def test_stages_fit_together() -> None:
    for size in ("tiny", "7b", "13b"):
        first, second = (
            load(CONFIGS / f"plum_{size}_{stage}.yaml")
            for stage in (("stage0", "stage1") if size == "tiny" else ("0shot", "ft"))
        )
        assert second.init_from == f"{first.run_dir}/model"
        assert (second.model.llava, second.model.sam) == (first.model.llava, first.model.sam)
    assert load(ABLATION_BASE).model == load(CONFIGS / "plum_tiny_stage1.yaml").model
