"""Builds models by name (`--model`) from their settings.

Every model can run every benchmark; an unsupported method raises NotImplementedError, and its metrics are null. To add
a model, write a class (`partonomy.models.contract`) and pass it as `--model package.module:Class`.
"""

import importlib
import inspect
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from partonomy.files import hash_files
from partonomy.models.bounds import BUILTIN_MODELS
from partonomy.models.chat_endpoint import (
    DEFAULT_CONCURRENT,
    DEFAULT_OPTIONS,
    IMAGE_FORMATS,
    ChatEndpointModel,
    ChatSettings,
    RetryPolicy,
    build_chat_model,
    read_key,
    refuse_key_in_settings,
)
from partonomy.models.chat_segmenter import NAMING_PROMPT, ChatSegmenterModel
from partonomy.models.contract import GroundedModel
from partonomy.models.open_vocabulary import check_segmenter, load_open_vocabulary_model
from partonomy.models.segmenter_options import (
    NAMED_SEGMENTERS,
    find_models,
    hash_models,
    parse_named_options,
    parse_options,
)

PLUM, TRANSFORMERS, CHAT, OPEN_VOCABULARY = "plum", "transformers", "chat", "open_vocabulary"
CHAT_SEGMENTER: Final = "chat_segmenter"
NAMED_MODELS: Final = (PLUM, *BUILTIN_MODELS, TRANSFORMERS, CHAT, OPEN_VOCABULARY, CHAT_SEGMENTER)
CHECKPOINTED: Final = (PLUM, TRANSFORMERS)
CHAT_MODELS: Final = (CHAT, CHAT_SEGMENTER)
"""Models that ask a chat endpoint."""
SEGMENTING: Final = (OPEN_VOCABULARY, CHAT_SEGMENTER)
"""Models that take a segmenter."""
CACHE_FOLDER: Final = "answer_cache"
AUTO_DTYPE: Final = "auto"
DTYPES: Final = (AUTO_DTYPE, "float32", "bfloat16", "float16")
"""Values of `--dtype`."""
CHECKPOINT_SUFFIXES: Final = (".json", ".safetensors", ".model", ".jinja")
PLUM_LOADER: Final = "plum.inference.partonomy_adapter:load_grounded_model"
"""PLUM registers itself by this name; nothing here imports it before it is requested."""
METHODS: Final = ("score_choices", "segment", "generate")
"""Methods that a user's own class must have."""
_MODELS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "checkpoint": CHECKPOINTED,
    "base": (PLUM,),
    "no_feedback": (PLUM,),
    "sam_cache": (PLUM,),
    "endpoint": CHAT_MODELS,
    "model_name": CHAT_MODELS,
    "api_key_env": CHAT_MODELS,
    "answer_cache": CHAT_MODELS,
    "image_format": CHAT_MODELS,
    "request_options": CHAT_MODELS,
    "request_timeout": CHAT_MODELS,
    "max_reply_mb": CHAT_MODELS,
    "max_image_side": CHAT_MODELS,
    "concurrent_requests": CHAT_MODELS,
    "dtype": (*CHECKPOINTED, *SEGMENTING),
    "segmenter": SEGMENTING,
    "segmenter_options": SEGMENTING,
    "naming_prompt": (CHAT_SEGMENTER,),
}
"""Flag -> the models that it applies to."""


@dataclass(frozen=True)
class ModelSettings:
    """The model, and the settings of its kind.

    Attributes:
        model: plum, transformers, chat, open_vocabulary, chat_segmenter (a chat endpoint names the parts, and a
            segmenter segments them), a bound without weights (oracle, random, empty), or your own
            class as package.module:Class (see partonomy/models/contract.py).
        checkpoint: folder of an exported PLUM model (plum) or of a transformers model (transformers).
        base: plum only; switch the adapters off to run the base model.
        no_feedback: plum only; decode each mask without the earlier ones, as the evaluation of PLUM's authors does.
        device: auto (each rank takes its own GPU), cpu, cuda, cuda:1, mps, ...
        sam_cache: plum only; folder to cache SAM's image embeddings in, so that later runs with the same SAM skip it.
        model_options: own class only; JSON object with the arguments of its constructor.
        endpoint: chat models only; address, e.g. http://localhost:8000/v1.
        model_name: chat models only; name of the model to request from the endpoint.
        api_key_env: chat models only; environment variable that holds the API key; default OPENAI_API_KEY if it is set.
        answer_cache: chat models only; folder of cached answers; default answer_cache next to the output folder.
        image_format: chat models only; png or jpeg; default png.
        request_options: chat models only; JSON options of every request; default {"temperature": 0}. The benchmark's
            maximum answer length is added as max_tokens, unless the options have max_tokens or max_completion_tokens.
        request_timeout: chat models only; deadline of one request in seconds, from the connection to the reply's last
            byte; default 120. It is retried, then the question fails.
        max_reply_mb: chat models only; maximum size of a reply in MB; default 4. After a larger one the request is
            repeated, then the question fails.
        dtype: plum, transformers and named segmenters only; auto (bfloat16 on a GPU, float32 elsewhere; for a segmenter
            float32 everywhere), float32, bfloat16 or float16.
        max_new_tokens: Maximum length of the model's own answer in tokens; default the benchmark's.
        segmenter: open_vocabulary and chat_segmenter only; grounded_sam2, sam3, clipseg, owlv2_sam2, or your own as
            package.module:Class.
        segmenter_options: open_vocabulary and chat_segmenter only; JSON object with the segmenter's options.
            grounded_sam2 takes the models detector and sam and a threshold (0.25); owlv2_sam2 the same (0.1); sam3
            takes model, threshold (0.5) and mask_threshold (0.5); clipseg takes model and threshold (0.5). A model is a
            local folder or the name of one of the Hugging Face Hub. All four take phrases_per_call (8). For a class of
            your own they are the arguments of its constructor.
        naming_prompt: chat_segmenter only; text that follows a question when the endpoint names the parts.
        max_image_side: chat models only; longest side in pixels that the endpoint takes; larger images are shrunk
            before they are sent. Default: images are sent as they are.
        concurrent_requests: chat models only; maximum number of requests at a time, per process (--num_procs); default
            8. It does not change the records.
    """

    FREE_TO_RESUME: ClassVar[frozenset[str]] = frozenset(
        {
            "checkpoint",
            "sam_cache",
            "api_key_env",
            "answer_cache",
            "request_timeout",
            "max_reply_mb",
            "concurrent_requests",
        }
    )
    """Settings that may differ when a run is resumed, because they do not change its records; the hash of a
    checkpoint is compared instead of its path."""
    FREE_TO_MERGE: ClassVar[frozenset[str]] = FREE_TO_RESUME
    """Settings that may differ between merged runs."""

    model: str
    checkpoint: str | None = None
    base: bool = False
    no_feedback: bool = False
    device: str = "auto"
    sam_cache: str | None = None
    model_options: str | None = None
    endpoint: str | None = None
    model_name: str | None = None
    api_key_env: str | None = None
    answer_cache: str | None = None
    image_format: str | None = None
    request_options: str | None = None
    segmenter: str | None = None
    request_timeout: float | None = None
    max_reply_mb: float | None = None
    dtype: str = AUTO_DTYPE
    max_new_tokens: int | None = None
    segmenter_options: str | None = None
    naming_prompt: str | None = None
    max_image_side: int | None = None
    concurrent_requests: int | None = None

    @property
    def is_class(self) -> bool:
        """Whether the model is a user's own class."""
        return ":" in self.model

    def resolve(self, output: Path) -> Self:
        """Replace defaults with the values that they stand for, so that a run records them.

        Args:
            output: Folder of the run; cached answers are in a neighbouring folder.

        Raises:
            ValueError: A setting belongs to another model, is missing, or is not usable.
            FileNotFoundError: The checkpoint does not exist.
        """
        self._check()
        if self.model in BUILTIN_MODELS:
            return replace(self, device="cpu")
        resolved = self
        if self.segmenter is not None and self.segmenter in NAMED_SEGMENTERS:
            options = parse_named_options(self.segmenter, self.segmenter_options)
            resolved = replace(self, segmenter_options=options.to_json())
        if self.model not in CHAT_MODELS:
            return resolved
        if self.model == CHAT:
            resolved = replace(resolved, device="cpu")
        else:
            resolved = replace(resolved, naming_prompt=self.naming_prompt or NAMING_PROMPT)
        resolved = replace(
            resolved,
            answer_cache=self.answer_cache or str(output.parent / CACHE_FOLDER),
            image_format=self.image_format or IMAGE_FORMATS[0],
            request_options=self.request_options or DEFAULT_OPTIONS,
            concurrent_requests=DEFAULT_CONCURRENT if self.concurrent_requests is None else self.concurrent_requests,
        )
        resolved.retry_policy()
        refuse_key_in_settings(resolved.chat(), read_key(self.api_key_env))
        return resolved

    def chat(self) -> ChatSettings:
        """Return the resolved settings of a chat endpoint.

        Raises:
            ValueError: A setting is not usable.
        """
        assert self.endpoint is not None  # _check has seen them, resolve has filled them in
        assert self.model_name is not None
        assert self.image_format is not None
        assert self.request_options is not None
        return ChatSettings(
            self.endpoint, self.model_name, self.image_format, self.request_options, self.max_image_side
        )

    def retry_policy(self) -> RetryPolicy:
        """Return when requests to a chat endpoint are given up and retried.

        Raises:
            ValueError: A limit is not positive.
        """
        policy = RetryPolicy()
        for flag in ("request_timeout", "max_reply_mb"):
            value = getattr(self, flag)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{flag} must be positive, got {value:g}")
        return replace(
            policy,
            timeout=policy.timeout if self.request_timeout is None else self.request_timeout,
            max_reply_bytes=(
                policy.max_reply_bytes if self.max_reply_mb is None else max(1, round(self.max_reply_mb * 2**20))
            ),
        )

    def checkpoint_hash(self) -> str | None:
        """Return the SHA-256 of the checkpoint's configuration, tokenizer, template and weights, if there is one.

        For a named segmenter, it covers all of its model folders.
        """
        if self.segmenter is not None and self.segmenter in NAMED_SEGMENTERS:
            options = parse_named_options(self.segmenter, self.segmenter_options)
            return hash_models(find_models(self.segmenter, options))
        return None if self.checkpoint is None else hash_checkpoint(Path(self.checkpoint))

    def compared_segmenter_options(self) -> dict[str, Any]:
        """Return the segmenter's options that a resumed run must share, by name.

        Of a named segmenter these are the thresholds. The hash of its models is compared instead of their folders, and
        the number of phrases per call changes masks by rounding alone.
        """
        if self.segmenter is not None and self.segmenter in NAMED_SEGMENTERS:
            return dict(parse_named_options(self.segmenter, self.segmenter_options).thresholds)
        return parse_options(self.segmenter_options, "--segmenter_options")

    def _check(self) -> None:
        if self.model not in NAMED_MODELS and not self.is_class:
            raise ValueError(
                f"--model must be one of {', '.join(NAMED_MODELS)} or package.module:Class, got {self.model!r}"
            )
        defaults = {entry.name: entry.default for entry in fields(self)}
        for flag, models in _MODELS_OF.items():
            if getattr(self, flag) != defaults[flag] and self.model not in models:
                raise ValueError(f"--{flag} belongs to --model {' and '.join(models)}, not to {self.model}")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        for flag in ("max_new_tokens", "concurrent_requests"):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise ValueError(f"--{flag} must be at least 1, got {value}")
        if self.model_options is not None and not self.is_class:
            raise ValueError(f"--model_options belongs to --model package.module:Class, not to {self.model}")
        if self.model in CHECKPOINTED:
            if self.checkpoint is None:
                raise ValueError(f"--model {self.model} needs --checkpoint, the folder of its weights")
            if not Path(self.checkpoint).is_dir():
                raise FileNotFoundError(
                    f"--checkpoint {self.checkpoint} is not a folder; download a model of the Hugging Face Hub first "
                    "(hf download ORG/NAME --local-dir FOLDER) and name its folder"
                )
        if self.model in CHAT_MODELS and (self.endpoint is None or self.model_name is None):
            raise ValueError(f"--model {self.model} needs --endpoint and --model_name")
        self._check_segmenter()
        self._check_imports()

    def _check_segmenter(self) -> None:
        if self.model in SEGMENTING and self.segmenter is None:
            raise ValueError(
                f"--model {self.model} needs --segmenter {'|'.join(NAMED_SEGMENTERS)} or package.module:Class"
            )
        if self.dtype != AUTO_DTYPE and self.model in SEGMENTING and self.segmenter not in NAMED_SEGMENTERS:
            raise ValueError(f"--dtype belongs to named segmenters, not to {self.segmenter}")

    def _check_imports(self) -> None:
        """Import the user's own classes before anything is written."""
        if self.is_class:
            check_class(self.model, parse_options(self.model_options, "--model_options"))
        if self.segmenter is not None:
            check_segmenter(self.segmenter, self.segmenter_options)


def build_model(settings: ModelSettings, local_rank: int, seed: int, max_new_tokens: int) -> GroundedModel:
    """Build a model in the process that uses it.

    Args:
        settings: Resolved settings.
        local_rank: Rank of this process on its machine; each rank has its own GPU.
        seed: Seed of `random`.
        max_new_tokens: Maximum length of the model's own answer; a limit in the user's settings takes precedence.
    """
    if settings.max_new_tokens is not None:
        max_new_tokens = settings.max_new_tokens
    if settings.model in BUILTIN_MODELS:
        return BUILTIN_MODELS[settings.model](seed)
    if settings.model == CHAT:
        return _build_chat(settings, max_new_tokens)
    if settings.is_class:
        return load_class(settings.model, parse_options(settings.model_options, "--model_options"), max_new_tokens)
    device = resolve_device(settings.device, local_rank)
    if settings.model in SEGMENTING:
        assert settings.segmenter is not None  # resolve has checked it
        chat = _build_chat(settings, max_new_tokens) if settings.model == CHAT_SEGMENTER else None
        found = load_open_vocabulary_model(settings.segmenter, device, settings.segmenter_options, settings.dtype)
        return found if chat is None else ChatSegmenterModel(chat, found, settings.naming_prompt or NAMING_PROMPT)
    assert settings.checkpoint is not None  # resolve has checked it
    if settings.model == TRANSFORMERS:
        from partonomy.models.transformers_model import load_transformers_model  # noqa: PLC0415  (torch)

        return load_transformers_model(settings.checkpoint, device, max_new_tokens, settings.dtype)
    load = import_name(PLUM_LOADER, "--model plum")
    model: GroundedModel = load(
        settings.checkpoint,
        device,
        settings.sam_cache,
        is_base=settings.base,
        has_feedback=not settings.no_feedback,
        max_new_tokens=max_new_tokens,
        dtype=settings.dtype,
    )
    return model


def _build_chat(settings: ModelSettings, max_new_tokens: int) -> ChatEndpointModel:
    assert settings.answer_cache is not None  # resolve has filled them in
    assert settings.concurrent_requests is not None
    return build_chat_model(
        settings.chat(),
        settings.api_key_env,
        Path(settings.answer_cache),
        max_new_tokens,
        policy=settings.retry_policy(),
        max_concurrent=settings.concurrent_requests,
    )


def check_class(name: str, options: Mapping[str, Any]) -> Any:
    """Import and check a user's own class before anything is written.

    Args:
        name: "package.module:Class".
        options: Arguments of the class's constructor.

    Raises:
        ValueError: There is no such class, it does not take these arguments, or it lacks a method of the contract.
    """
    found = import_name(name, "--model")
    if not callable(found):
        raise ValueError(f"--model {name} is not a class")
    try:
        inspect.signature(found).bind(**_with_limit(found, options, 1))
    except TypeError as error:
        given = f"the arguments {', '.join(sorted(options))}" if options else "no arguments"
        raise ValueError(f"--model {name} cannot be built with {given} ({error}); see --model_options") from error
    if isinstance(found, type):
        _check_methods(name, found)
    return found


def _with_limit(found: Any, options: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Add the argument `max_new_tokens` if the constructor takes it and the user has not given it."""
    limit = {"max_new_tokens": max_new_tokens} if "max_new_tokens" in inspect.signature(found).parameters else {}
    return limit | dict(options)


def _check_methods(name: str, model: object) -> None:
    missing = [method for method in METHODS if not callable(getattr(model, method, None))]
    if missing:
        raise ValueError(f"--model {name} lacks the methods {', '.join(missing)} (partonomy/models/contract.py)")


def load_class(name: str, options: Mapping[str, Any], max_new_tokens: int) -> GroundedModel:
    """Import and construct a user's own model; see `check_class`."""
    found = check_class(name, options)
    model: GroundedModel = found(**_with_limit(found, options, max_new_tokens))
    _check_methods(name, model)
    if not hasattr(model, "name"):
        model.name = name.rpartition(":")[2]
    return model


def import_name(name: str, what: str) -> Any:
    """Import "package.module:Name".

    Raises:
        ValueError: There is no such module, or it lacks the name.
    """
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{what}: {name!r} cannot be imported ({error}); write package.module:Class") from error


def resolve_device(device: str, local_rank: int) -> str:
    """Resolve `auto` to cuda if available, and give each rank of this machine its own GPU.

    Raises:
        ValueError: This machine has no such device.
    """
    import torch  # noqa: PLC0415  (only for models with weights)

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local_rank % torch.cuda.device_count()}"
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(_unknown_device(device)) from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {device} does not exist: torch finds {torch.cuda.device_count()} CUDA devices; pass --device cpu"
        )
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {device} does not exist: torch finds no Apple GPU here; pass --device cpu")
    if place.type not in ("cpu", "cuda", "mps"):
        raise ValueError(_unknown_device(device))
    return device


def _unknown_device(device: str) -> str:
    return (
        f"--device must be auto, cpu, cuda, cuda:N or mps, got {device!r}; a model runs on one device, and several "
        "GPUs share a run with --num_procs or a launcher"
    )


def local_rank_of(index: int) -> int:
    """Return the rank of this process on its machine: LOCAL_RANK if a launcher sets it, otherwise its rank."""
    return int(os.environ.get("LOCAL_RANK", str(index)))


def hash_checkpoint(folder: Path) -> str:
    """Return the sha256 of an exported model's configuration, tokenizer, chat template and weights, by file name."""
    return hash_files(sorted(path for path in folder.rglob("*") if path.suffix in CHECKPOINT_SUFFIXES))
