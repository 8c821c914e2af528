"""Command-line flags of the models beside PLUM and the baselines, and their builder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jsonargparse import ArgumentParser, Namespace

from partonomy.benchmarks.partonomy.steps import ChoiceProtocol
from partonomy.harness.run_directory import EvaluationConfig
from partonomy.models.chat_endpoint import (
    DEFAULT_KEY_VARIABLE,
    DEFAULT_OPTIONS,
    IMAGE_FORMATS,
    ChatSettings,
    build_chat_model,
    read_key,
)
from partonomy.models.contract import GroundedModel

TRANSFORMERS, CHAT, OPEN_VOCABULARY = "transformers", "chat", "open_vocabulary"
FURTHER_MODELS: Final = (TRANSFORMERS, CHAT, OPEN_VOCABULARY)
ON_DEVICE: Final = (TRANSFORMERS, OPEN_VOCABULARY)
"""Those that compute here, on --device."""
AUTO: Final = "auto"
CACHE_FOLDER: Final = "answer_cache"
_FLAGS_OF: Final[Mapping[str, str]] = {
    "endpoint": CHAT,
    "model_name": CHAT,
    "api_key_env": CHAT,
    "answer_cache": CHAT,
    "image_format": CHAT,
    "request_options": CHAT,
    "segmenter": OPEN_VOCABULARY,
}
"""Which model a flag belongs to."""


def add_model_arguments(parser: ArgumentParser) -> None:
    """Add the flags; each of them is refused for other models than its own."""
    parser.add_argument(
        "--choice_protocol",
        choices=[AUTO, *(protocol.value for protocol in ChoiceProtocol)],
        default=AUTO,
        help="score each choice alone (likelihood) or show all at once (listwise); auto: listwise for chat alone",
    )
    text = str | None
    parser.add_argument("--endpoint", type=text, default=None, help="chat: address, e.g. http://localhost:8000/v1")
    parser.add_argument("--model_name", type=text, default=None, help="chat: the model that the endpoint is asked for")
    parser.add_argument(
        "--api_key_env",
        type=text,
        default=None,
        help=f"chat: environment variable with the key; default {DEFAULT_KEY_VARIABLE} where it is set",
    )
    parser.add_argument(
        "--answer_cache", type=text, default=None, help=f"chat: folder of answers; default {CACHE_FOLDER} beside output"
    )
    parser.add_argument(
        "--image_format",
        type=text,
        default=None,
        help=f"chat: {' or '.join(IMAGE_FORMATS)}; default {IMAGE_FORMATS[0]}",
    )
    parser.add_argument(
        "--request_options", type=text, default=None, help=f"chat: JSON in every request; default {DEFAULT_OPTIONS}"
    )
    parser.add_argument("--segmenter", type=text, default=None, help="open_vocabulary: package.module:Class")


def check_model_arguments(arguments: Namespace) -> None:
    """Refuse flags of another model, and missing ones.

    Raises:
        ValueError: names the flag.
    """
    for flag, model in _FLAGS_OF.items():
        if getattr(arguments, flag) is not None and arguments.model != model:
            raise ValueError(f"--{flag} belongs to --model {model}")
    if arguments.model == CHAT:
        if arguments.endpoint is None or arguments.model_name is None:
            raise ValueError("--model chat needs --endpoint and --model_name")
        if arguments.choice_protocol == ChoiceProtocol.LIKELIHOOD:
            raise ValueError(
                "--model chat knows no log-probabilities of given answers; pass --choice_protocol listwise"
            )
        read_key(arguments.api_key_env)
    if arguments.model == OPEN_VOCABULARY and arguments.segmenter is None:
        raise ValueError("--model open_vocabulary needs --segmenter package.module:Class")


def resolve_choice_protocol(arguments: Namespace) -> ChoiceProtocol:
    """The protocol that `auto` stands for."""
    if arguments.choice_protocol == AUTO:
        return ChoiceProtocol.LISTWISE if arguments.model == CHAT else ChoiceProtocol.LIKELIHOOD
    return ChoiceProtocol(arguments.choice_protocol)


def resolve_chat_settings(arguments: Namespace) -> ChatSettings | None:
    """The endpoint with its defaults; None for other models.

    Raises:
        ValueError: A setting is not usable.
    """
    if arguments.model != CHAT:
        return None
    image_format = IMAGE_FORMATS[0] if arguments.image_format is None else arguments.image_format
    options = DEFAULT_OPTIONS if arguments.request_options is None else arguments.request_options
    return ChatSettings(arguments.endpoint, arguments.model_name, image_format, options)


def build_further_model(config: EvaluationConfig, device: str) -> GroundedModel:
    """Build one of `FURTHER_MODELS`.

    Args:
        config: Of the run, checked.
        device: Where it computes.
    """
    if config.model == TRANSFORMERS:
        from partonomy.models.transformers_model import load_transformers_model  # noqa: PLC0415  (torch)

        assert config.checkpoint is not None
        return load_transformers_model(config.checkpoint, device)
    if config.model == CHAT:
        assert config.endpoint is not None
        assert config.model_name is not None
        assert config.image_format is not None
        assert config.request_options is not None
        settings = ChatSettings(config.endpoint, config.model_name, config.image_format, config.request_options)
        cache = Path(config.output).parent / CACHE_FOLDER if config.answer_cache is None else Path(config.answer_cache)
        return build_chat_model(settings, config.api_key_env, cache)
    from partonomy.models.open_vocabulary import load_open_vocabulary_model  # noqa: PLC0415

    assert config.segmenter is not None
    return load_open_vocabulary_model(config.segmenter, device)
