"""Full-size parameter counts on the meta device, against the paper's components."""

import pytest
import torch

from plum.config import (
    CalicoConfig,
    FeedbackConfig,
    HfBackboneConfig,
    LanguageConfig,
    LlavaConfig,
    LoraConfig,
    ModelConfig,
    SamConfig,
    SegTokenConfig,
    TaggerConfig,
    VisionConfig,
)
from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import component_of, count_components, shown_name
from plum.models.systems.registry import build_model
from plum.models.trainable import set_trainable
from plum.train_config import TrainableConfig

CLIP_L_14 = VisionConfig(224, 14, 1024, 4096, 24, 16)
LLAMA_13B = LanguageConfig(32000, 5120, 13824, 40, 40, 40)


@pytest.fixture(scope="module")
def plum_13b() -> GroundedLMM:
    config = ModelConfig(
        llava=LlavaConfig(CLIP_L_14, LLAMA_13B, projector="linear"), sam=SamConfig(), lora=LoraConfig()
    )
    with torch.device("meta"):
        return build_model(config)


def test_components_of_plum_13b(plum_13b: GroundedLMM) -> None:
    counts = {count.component: count.num_parameters for count in count_components(plum_13b)}
    assert counts == {
        # 40 layers x (q, v) x rank 8 x (5120 + 5120)
        "llava.lora": 6_553_600,
        # 2 x (5120 x 5120 + 5120)
        "tagger.mlp": 52_439_040,
        # attention 4 x (5120^2 + 5120), feed-forward 2 x 5120 x 2048 + 2048 + 5120, norms 4 x 5120
        "tagger.block": 125_877_248,
        "tagger.classifier": 15_363,
        # 5120^2 + 5120 + 5120 x 256 + 256
        "query_projection": 27_530_496,
        # 256 x 8 + 8 and 256 x 32 + 32
        "feedback.film": 10_280,
        # attention 4 x (256^2 + 256) and 4096 queries of 256
        "feedback.pooling": 1_311_744,
        "sam.prompt_encoder": 6_220,
        # Published sizes: SAM ViT-H 637,026,048 and mask decoder 4,058,340, CLIP ViT-L/14's tower 303,179,776.
        "sam.image_encoder": 637_026_048,
        "sam.mask_decoder": 4_058_340,
        "llava.vision_tower": 303_179_776,
        # v1's linear layer 1024 x 5120 + 5120 and the frozen identity that stands in for a second one
        "llava.projector": 5_248_000 + 26_219_520,
        "llava.embeddings": 2 * 32000 * 5120,
        # Vicuna-13B's 13,015,864,320 without both embeddings
        "llava.language_model": 13_015_864_320 - 2 * 32000 * 5120,
    }


def test_trained_parameters_of_plum_13b(plum_13b: GroundedLMM) -> None:
    rows = {row.module: row for row in set_trainable(plum_13b, TrainableConfig())}
    trained = {module for module, row in rows.items() if row.trainable}
    assert trained == {
        "llava.lora",
        "tagger.mlp",
        "tagger.block",
        "tagger.classifier",
        "query_projection",
        "feedback.film",
        "feedback.pooling",
        "sam.mask_decoder",
        "sam.prompt_encoder",
    }
    assert sum(row.trainable for row in rows.values()) == (
        6_553_600 + 52_439_040 + 125_877_248 + 15_363 + 27_530_496 + 10_280 + 1_311_744 + 6_220 + 4_058_340
    )


def test_components_of_the_ablation_taggers() -> None:
    tagger = TaggerConfig(scheme="binary", use_crf=True, use_cross_attention=True)
    config = ModelConfig(llava=LlavaConfig(CLIP_L_14, LLAMA_13B), sam=SamConfig(), tagger=tagger)
    with torch.device("meta"):
        model = build_model(config)
    rows = {row.module: row for row in set_trainable(model, TrainableConfig())}
    own = {module: row for module, row in rows.items() if module.startswith("tagger.")}
    assert {module: row.total for module, row in own.items()} == {
        "tagger.mlp": 52_439_040,
        "tagger.block": 125_877_248,
        # attention 4 x (5120^2 + 5120), norm 2 x 5120
        "tagger.cross_attention": 104_878_080 + 10_240,
        # 5120 x 2 + 2
        "tagger.classifier": 10_242,
        # first, last and pairs of two classes
        "tagger.crf": 8,
    }
    assert all(row.trainable == row.total for row in own.values())


def test_feedback_can_be_left_out() -> None:
    config = ModelConfig(
        llava=LlavaConfig(CLIP_L_14, LLAMA_13B), sam=SamConfig(), feedback=FeedbackConfig(is_enabled=False), lora=None
    )
    with torch.device("meta"):
        counts = {count.component: count.num_parameters for count in count_components(build_model(config))}
    assert not any(component.startswith("feedback") or component == "llava.lora" for component in counts)


def test_tables_name_the_parts_of_a_stock_model_after_its_type(plum_13b: GroundedLMM) -> None:
    own = plum_13b.config
    stock = own.with_backbone(HfBackboneConfig(stock={"model_type": "qwen3_vl"}))
    assert shown_name("llava.projector", stock) == "qwen3_vl.projector"
    assert shown_name("llava.projector", own) == "llava.projector"
    assert shown_name("sam.mask_decoder", stock) == "sam.mask_decoder"
    assert component_of("llava.network.model.visual.merger.norm.weight") == "llava.projector", "saved names stay"


def test_unknown_parameter_is_refused() -> None:
    with pytest.raises(KeyError, match=r"neck\.weight"):
        component_of("neck.weight")


def test_unknown_system_is_refused(plum_13b: GroundedLMM) -> None:
    config = ModelConfig(llava=plum_13b.config.llava, sam=plum_13b.config.sam, system="plump")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'plump' is not one of"):
        build_model(config)


def test_trained_parameters_of_calico_7b() -> None:
    """About 29 M, .3 % of the model, as in the paper, which leaves out f_seg, f_image and the embeddings."""
    vision = VisionConfig(224, 14, 1408, 6144, 39, 16, fit="stretch", num_query_tokens=32)
    vicuna_7b = LanguageConfig(32008, 4096, 11008, 32, 32, 32)
    config = ModelConfig(
        llava=LlavaConfig(vision, vicuna_7b, projector="linear"),
        sam=SamConfig(),
        tagger=None,
        feedback=FeedbackConfig(is_enabled=False),
        system="calico",
        seg_token=SegTokenConfig(),
        calico=CalicoConfig(),
    )
    with torch.device("meta"):
        rows = set_trainable(build_model(config), TrainableConfig(query_projection=False, sam_prompt_encoder=False))
    totals = {row.module: row.total for row in rows}
    assert {row.module: row.trainable for row in rows if row.trainable} == {
        "llava.lora": 32 * 2 * 8 * (4096 + 4096),
        # queries and output 1408^2, keys and values 1536 x 1408, their biases, two norms
        "calico.correspondence": 2 * 1408**2 + 2 * 1536 * 1408 + 4 * 1408 + 2 * (1408 + 1536),
        "calico.queries": 32 * 768,
        "calico.adaptation": 2 * (2 * 4096 * 768 + 4096 + 768),
        "sam.mask_decoder": 4_058_340,
    }
    assert all(row.trainable in {0, row.total} for row in rows)
    trained = sum(row.trainable for row in rows)
    assert 27e6 < trained < 29.5e6
    assert trained / sum(totals.values()) == pytest.approx(0.003, abs=0.0001)
    # Sizes of BLIP-2's EVA-CLIP-g and Q-Former, its 32 queries apart, and of DINOv2-g.
    assert totals["llava.vision_tower"] == 985_952_256
    assert totals["calico.qformer"] == 105_137_664 + 32 * 768
    assert totals["calico.dino"] == 1_136_480_768
    assert totals["llava.projector"] == 768 * 4096 + 4096
