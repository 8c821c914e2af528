"""Parameter counts by component; components are named as in the paper (section 4, Table 6)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from plum.config import ModelConfig
from plum.models.grounded_lmm import GroundedLMM

COMPONENT_PREFIXES = (
    ("llava.qformer.", "calico.qformer"),
    ("llava.patch_projection.", "calico.patch_projection"),
    ("llava.dino.", "calico.dino"),
    ("llava.correspondence.", "calico.correspondence"),
    ("llava.adaptation.queries", "calico.queries"),
    ("llava.adaptation.", "calico.adaptation"),
    ("sam.image_encoder.", "sam.image_encoder"),
    ("sam.vision_encoder.", "sam.image_encoder"),  # SAM 2's name of it
    ("sam.no_memory_embedding", "sam.image_encoder"),  # added to its output
    ("sam.prompt_encoder.", "sam.prompt_encoder"),
    ("sam.mask_decoder.", "sam.mask_decoder"),
    ("sam.early_fusion.", "sam.early_fusion"),
    ("tagger.mlp.", "tagger.mlp"),
    ("tagger.block.", "tagger.block"),
    ("tagger.cross_attention.", "tagger.cross_attention"),
    ("tagger.classifier.", "tagger.classifier"),
    ("tagger.crf.", "tagger.crf"),
    ("query_projection.", "query_projection"),
    ("feedback.encoder.", "feedback.film"),
    ("feedback.pooler.", "feedback.pooling"),
)
BACKBONE_PARTS = (
    ("lora_", "llava.lora"),
    ("visual.merger.", "llava.projector"),
    ("visual.deepstack_merger_list.", "llava.projector"),
    ("visual.", "llava.vision_tower"),
    ("vision_tower.", "llava.vision_tower"),
    ("vision_model.", "llava.vision_tower"),
    ("multi_modal_projector.", "llava.projector"),
    ("connector.", "llava.projector"),
    ("image_newline", "llava.projector"),
    ("embed_tokens.", "llava.embeddings"),
    ("lm_head.", "llava.embeddings"),
    ("language_model.", "llava.language_model"),
    ("text_model.", "llava.language_model"),
)
"""Part of a backbone's parameter name -> component. Components are named after LLaVA's parts whatever the backbone, as
saved models and runs name them; tables show another backbone's under its own name (`shown_name`). LLaVA itself has the
names without `visual`, `vision_model`, `connector` and `text_model`."""
BACKBONE = "llava."
"""Prefix of a backbone's parameters and components."""


@dataclass(frozen=True)
class ComponentCount:
    """One component and its number of parameters."""

    component: str
    num_parameters: int


def component_of(name: str) -> str:
    """Return the component a parameter belongs to.

    Args:
        name: its name inside a GroundedLMM.

    Raises:
        KeyError: no component claims it.
    """
    for prefix, component in COMPONENT_PREFIXES:
        if name.startswith(prefix):
            return component
    if name.startswith(BACKBONE):
        for part, component in BACKBONE_PARTS:
            if part in name:
                return component
    raise KeyError(f"parameter {name!r} belongs to no known component")


def shown_name(component: str, config: ModelConfig) -> str:
    """Return the name of a component in tables: parts of a stock model bear its type, such as `qwen3_vl.projector`.

    Args:
        component: from `component_of`.
        config: the model that it belongs to.
    """
    if config.hf is None or not component.startswith(BACKBONE):
        return component
    return f"{config.hf.model_type}.{component.removeprefix(BACKBONE)}"


def parameters_by_component(model: GroundedLMM) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield (component, name, parameter) of every parameter."""
    for name, parameter in model.named_parameters():
        yield component_of(name), name, parameter


def count_components(model: GroundedLMM) -> tuple[ComponentCount, ...]:
    """Count parameters by component, under the names of tables, in the model's order; works on the meta device."""
    counts: Counter[str] = Counter()
    for component, _, parameter in parameters_by_component(model):
        counts[shown_name(component, model.config)] += parameter.numel()
    return tuple(ComponentCount(component, number) for component, number in counts.items())
