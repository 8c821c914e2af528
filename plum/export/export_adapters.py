"""Adapters-only export: the adapters in peft's own format, and all other trained weights in a separate file.

`load_pretrained` loads the folder over its base. peft's `PeftModel.from_pretrained` loads `adapter_config.json` and
`adapter_model.safetensors` alone onto the stock LLaVA.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from partonomy.datasets.photographs import copy_training_images
from partonomy.progress import counted, progress
from plum.checkpoints.model_config_io import write_model_config
from plum.checkpoints.model_weights import ModelWeights, empty_model, read_saved
from plum.checkpoints.published.streamed_probe import probe_logits
from plum.checkpoints.store import ADAPTER_STEM, BASE_FILE, TRAINED_STEM, saved_tensors, write_folder
from plum.checkpoints.weights import SavedTensor, fingerprint, is_fitting, with_rows, write_tensors
from plum.export.export_source import ExportSource, find_source, root_base
from plum.export.model_card import write_card
from plum.models.backbones.lora import is_adapter, name_without_adapters, peft_name
from plum.models.parameter_counts import component_of

TRAINED_COPY = ".modules_to_save.default."


@dataclass(frozen=True)
class AdaptersRequest:
    """What to export.

    Attributes:
        source: folder of a saved model, of a run, or of a checkpoint of a run.
        destination: output folder; must not exist.
        base: saved model under all trained weights; None: the run's base.
        summaries: see `plum.export.merged.ExportRequest`.
    """

    source: Path
    destination: Path
    base: Path | None = None
    summaries: tuple[Path, ...] = ()


@dataclass(frozen=True)
class AdaptersResult:
    """Tensor counts and bytes of the two files, their base, and the change of the probe's logits (0)."""

    described_source: str
    base: Path
    num_adapter_tensors: int
    num_other_tensors: int
    num_bytes: int
    logit_difference: float


def export_adapters(request: AdaptersRequest) -> AdaptersResult:
    """Export the trained weights, relative to the saved model at the bottom of the run's chain.

    Raises:
        FileNotFoundError, FileExistsError: see `find_source` and `write_folder`.
        ValueError: the model has no adapters, its base is unknown or is another model's, or the written weights do not
            give the same logits.
    """
    source = find_source(request.source)
    if source.weights.config.lora is None:
        raise ValueError(f"{request.source} has no adapters: export it without --adapters_only")
    base = request.base or source.base
    if base is None:
        raise ValueError(f"{request.source} does not say what it was trained from: name the saved model with --base")
    base = root_base(base)
    adapters, others = _split(source.weights, saved_tensors(base), base)
    with write_folder(request.destination) as partial:
        write_tensors(adapters, partial, ADAPTER_STEM)
        write_tensors(others, partial, TRAINED_STEM)
        _write_rest(source, partial, base, request)
        reloaded = ModelWeights(source.weights.config, saved_tensors(partial), {}, str(partial), is_strict=False)
        difference = float((probe_logits(source.weights) - probe_logits(reloaded)).abs().max())
        if difference != 0.0:
            raise ValueError(
                f"the adapters over {base} change the logits of a probe text by {difference:.2e}: is it the base of "
                f"{request.source}? Nothing was exported"
            )
    size = sum(tensor.nbytes for tensor in (*adapters.values(), *others.values()))
    return AdaptersResult(source.described_as, base, len(adapters), len(others), size, difference)


def _split(
    weights: ModelWeights, base: dict[str, SavedTensor], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the adapters under peft's names, and every other tensor that differs from the base under ours."""
    adapters: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    with progress(len(weights.names), "compare", "tensor") as shown:
        for name in counted(weights.names, shown):
            if name in weights.tied and TRAINED_COPY not in name:  # peft's file has a trained copy under every name
                continue
            if is_adapter(name) or TRAINED_COPY in name:
                adapters[peft_name(name)] = weights.read(name).clone()
                continue
            tensor, plain = weights.read(name), name_without_adapters(name)
            # A run in bfloat16 rounds what it does not train.
            if plain in base and is_fitting(name, tensor.shape, base[plain]):
                untrained = read_saved(base[plain], plain).to(tensor.dtype)
                if torch.equal(with_rows(untrained, len(tensor)) if tensor.ndim else untrained, tensor):
                    continue
            if _is_under_adapters(name):
                raise ValueError(
                    f"{folder} is not the base of {weights.where}: they differ in {name}, which is not trained"
                )
            others[name] = tensor.clone()
    return adapters, others


def _is_under_adapters(name: str) -> bool:
    """Return whether adapters depend on a tensor, which was therefore frozen while they were trained."""
    return name.startswith("llava.") and component_of(name) == "llava.language_model"


def _write_rest(source: ExportSource, partial: Path, base: Path, request: AdaptersRequest) -> None:
    config = source.weights.config
    write_model_config(config, partial)
    source.tokenizer.save_pretrained(str(partial))
    copy_training_images((request.source, source.run), partial)
    network = empty_model(config).llava.network
    assert isinstance(network, PeftModel)
    settings = network.peft_config["default"]
    settings.inference_mode = True
    settings.base_model_name_or_path = str(base)
    settings.save_pretrained(str(partial))
    recorded = {"base": str(base.resolve()), "fingerprint": fingerprint(base)}
    (partial / BASE_FILE).write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")
    write_card(partial, request.destination.name, source, config, request.summaries)
