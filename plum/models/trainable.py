"""Trainable parameters: sets flags by component and returns the table printed at start-up."""

from collections import Counter
from dataclasses import dataclass

from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import parameters_by_component, shown_name
from plum.train_config import TrainableConfig

ALWAYS_TRAINED = (
    "tagger.mlp",
    "tagger.block",
    "tagger.cross_attention",
    "tagger.classifier",
    "tagger.crf",
    "feedback.film",
    "feedback.pooling",
    "sam.early_fusion",
    "calico.patch_projection",
    "calico.correspondence",
    "calico.queries",
    "calico.adaptation",
)
"""The modules a system adds to LLaVA and SAM; PLUM's are "always optimized" (paper, A.1). CALICO's Q-Former, DINOv2 and
EVA-CLIP are frozen (CALICO, figure 3)."""


@dataclass(frozen=True)
class TrainableRow:
    """Numbers of trainable and of all parameters of one component."""

    module: str
    trainable: int
    total: int


def set_trainable(model: GroundedLMM, config: TrainableConfig) -> list[TrainableRow]:
    """Set requires_grad of every parameter and return the table by component.

    Raises:
        ValueError: the configuration conflicts with the model's adapters.
    """
    _check_against_adapters(model, config)
    trained = _trained_components(config)
    num_trained: Counter[str] = Counter()
    num_parameters: Counter[str] = Counter()
    identity = _frozen_identity(model)
    for component, name, parameter in parameters_by_component(model):
        # The original under a trained copy is the teacher's; see LoraConfig.train_embeddings.
        is_fixed = name in identity or "original_module." in name
        parameter.requires_grad_(component in trained and not is_fixed)
        num_parameters[component] += parameter.numel()
        num_trained[component] += parameter.numel() * parameter.requires_grad
    return [
        TrainableRow(shown_name(component, model.config), num_trained[component], total)
        for component, total in num_parameters.items()
    ]


def _trained_components(config: TrainableConfig) -> set[str]:
    """Translate the switches to component names."""
    switches = {
        "llava.lora": config.language_model == "lora",
        "llava.language_model": config.language_model == "full",
        "llava.embeddings": config.language_model == "full" or config.embeddings,
        "llava.vision_tower": config.vision_tower,
        "llava.projector": config.projector,
        "calico.qformer": config.qformer,
        "calico.dino": config.dino,
        "query_projection": config.query_projection,
        "sam.image_encoder": config.sam_image_encoder,
        "sam.mask_decoder": config.sam_mask_decoder,
        "sam.prompt_encoder": config.sam_prompt_encoder,
    }
    return set(ALWAYS_TRAINED) | {component for component, is_on in switches.items() if is_on}


def _check_against_adapters(model: GroundedLMM, config: TrainableConfig) -> None:
    """Refuse settings under which the adapters-off teacher would not exist or would drift."""
    lora = model.config.lora
    if config.language_model == "lora" and lora is None:
        raise ValueError("trainable.language_model is 'lora' but model.lora is null: give the model adapters")
    if config.language_model == "full" and lora is not None:
        raise ValueError(
            "trainable.language_model 'full' would train the base under the adapters, which is the teacher: "
            "set model.lora to null"
        )
    if config.embeddings and lora is not None and not lora.train_embeddings:
        raise ValueError(
            "trainable.embeddings needs model.lora.train_embeddings, which keeps the teacher's own copy of embed_tokens"
        )


def _frozen_identity(model: GroundedLMM) -> set[str]:
    """Return the parameter names of the projector's second layer if it only replaces LLaVA v1's missing one."""
    if model.config.llava is None or model.config.llava.projector != "linear":
        return set()
    return {name for name, _ in model.named_parameters() if "multi_modal_projector.linear_2." in name}
