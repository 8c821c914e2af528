"""Processors of transformers checkpoints, also without torchvision.

The processors of Qwen-VL, InternVL and SmolVLM have a part for videos, which needs torchvision. No benchmark here shows
a video, so without torchvision that part is left out. Images then go through transformers' own PIL classes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import PushToHubMixin, is_torchvision_available

VIDEO_PART = "video_processor"


class NoVideos(PushToHubMixin):  # by which processors tell a part that can describe itself
    """Takes the place of a processor's video part if torchvision is missing; has what processors always read of it."""

    model_input_names: tuple[str, ...] = ()
    num_frames = None
    fps = None

    def to_dict(self) -> dict[str, Any]:
        """Return no settings."""
        return {}


def load_processor(folder: Path) -> ProcessorMixin:
    """Load a checkpoint's processor; download nothing and run no code from it.

    Args:
        folder: the checkpoint.

    Raises:
        ImportError: a package other than torchvision is missing.
        OSError, ValueError: files are missing or unreadable.
    """
    if is_torchvision_available():
        return AutoProcessor.from_pretrained(folder, local_files_only=True)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    processor = cast(type[ProcessorMixin] | None, PROCESSOR_MAPPING.get(type(config), None))
    if processor is None or set(processor.get_attributes()) != {"image_processor", "tokenizer", VIDEO_PART}:
        return AutoProcessor.from_pretrained(folder, local_files_only=True)
    parts: dict[str, object] = {
        "image_processor": AutoImageProcessor.from_pretrained(folder, local_files_only=True),
        "tokenizer": AutoTokenizer.from_pretrained(folder, local_files_only=True),
        VIDEO_PART: NoVideos(),
    }
    settings, _ = processor.get_processor_dict(folder, local_files_only=True)
    arguments = [parts[name] for name in processor.get_attributes()]
    found: ProcessorMixin = _without_videos(processor).from_args_and_dict(arguments, settings)
    return found


def assemble_processor(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    image_settings: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> ProcessorMixin:
    """Build a processor for texts and images from its settings, through transformers' PIL classes.

    Args:
        config: the model's configuration, which decides the processor's class.
        tokenizer: the model's; holds the chat template.
        image_settings: the image processor's (preprocessor_config.json); `image_processor_type` names its class.
        settings: the processor's own (processor_config.json).

    Raises:
        ValueError: transformers has no such processor, or refuses the settings.
    """
    processor = cast(type[ProcessorMixin] | None, PROCESSOR_MAPPING.get(type(config), None))
    name = str(image_settings.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
    images = get_image_processor_class_from_name(f"{name}Pil") if name else None
    if processor is None or images is None or not {"image_processor", "tokenizer"} <= set(processor.get_attributes()):
        raise ValueError(
            f"transformers has no processor of PIL images for {config.model_type} with the image processor "
            f"{name or '(not named: image_processor_type is missing)'}"
        )
    parts = {"image_processor": images.from_dict(dict(image_settings)), "tokenizer": tokenizer, VIDEO_PART: NoVideos()}
    arguments = [parts[part] for part in processor.get_attributes()]
    own = {"chat_template": tokenizer.chat_template, **settings}
    found: ProcessorMixin = _without_videos(processor).from_args_and_dict(arguments, own)
    return found


def describe_processor(processor: ProcessorMixin) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the image processor and those of the processor, from which it can be assembled again."""
    images = json.loads(processor.image_processor.to_json_string())
    whole = json.loads(processor.to_json_string())
    own = {name: value for name, value in whole.items() if name not in processor.get_attributes()}
    own.pop("chat_template", None)  # the tokenizer has it
    return images, own


def _without_videos(processor: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return a subclass that takes `NoVideos`."""

    class WithoutVideos(processor):  # type: ignore[valid-type, misc]
        """The checkpoint's processor for texts and images."""

        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
            if argument_name == VIDEO_PART:
                return NoVideos
            return super().check_argument_for_proper_class(argument_name, argument)

    WithoutVideos.__name__ = processor.__name__
    return WithoutVideos
