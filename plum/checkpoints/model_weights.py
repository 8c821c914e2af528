"""Tensors of a model by its own names, read one at a time from files or a checkpoint, or merged on the fly."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from plum.checkpoints.sizes import require_sizes
from plum.checkpoints.weights import SavedTensor, first_names, is_fitting, open_tensors, with_rows
from plum.config import LoraConfig, ModelConfig
from plum.models.backbones.lora import is_adapter, name_without_adapters
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model

BASE_LAYER = "base_layer.weight"
NUM_NAMES_SHOWN = 5


class Weights(Protocol):
    """A model's architecture and its tensors."""

    @property
    def config(self) -> ModelConfig:
        """Architecture."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor of the model's state."""
        ...

    def read(self, name: str) -> Tensor:
        """Return one tensor, on the CPU."""
        ...


def empty_model(config: ModelConfig) -> GroundedLMM:
    """Build a model without weights, in evaluation mode; it has names and shapes only."""
    with torch.device("meta"):
        return build_model(config).eval()


@dataclass(frozen=True)
class ModelWeights:
    """Weights as they were saved or trained.

    Attributes:
        config: architecture, adapters included.
        saved: tensors in files.
        trained: tensors in memory, which take precedence over those in files; float32 master weights of a training
            checkpoint.
        where: name of the source, for error messages.
        is_strict: whether the files must contain no other tensors; a base also contains those that trained weights
            replace.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape.
    """

    config: ModelConfig
    saved: Mapping[str, SavedTensor]
    trained: Mapping[str, Tensor]
    where: str
    is_strict: bool
    tied: dict[str, str] = field(init=False, default_factory=dict)
    """First name of every tensor that has a second one, by the second."""
    _sources: dict[str, str] = field(init=False, default_factory=dict)
    _num_rows: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        missing = []
        shapes = {name: saved.shape for name, saved in self.saved.items()}
        shapes |= {name: tuple(tensor.shape) for name, tensor in self.trained.items()}
        require_sizes(self.config, shapes, self.where)
        model = empty_model(self.config)
        first = first_names(model)
        self.tied.update({name: other for name, other in first.items() if name != other})
        for name, tensor in model.state_dict().items():
            if name in self.tied:
                if first[name] in self._sources:
                    self._sources[name] = self._sources[first[name]]
                continue
            source = next((one for one in (name, name_without_adapters(name)) if self._has(one)), None)
            if source is None:
                missing.append(name)
                continue
            found = self.trained[source] if source in self.trained else self.saved[source]
            if not is_fitting(name, tensor.shape, found):
                raise ValueError(
                    f"{self.where} holds a checkpoint of another architecture: {source} is {tuple(found.shape)} there "
                    f"and {tuple(tensor.shape)} in the model"
                )
            self._sources[name] = source
            if tuple(found.shape) != tuple(tensor.shape):
                self._num_rows[name] = len(tensor)
        held = self.saved.keys() | self.trained.keys() if self.is_strict else self.trained.keys()
        unknown = sorted(held - set(self._sources.values()) - self.tied.keys())
        if missing or unknown:
            raise ValueError(
                f"{self.where} holds a checkpoint of another architecture: {len(missing)} tensors are missing "
                f"{missing[:NUM_NAMES_SHOWN]}, {len(unknown)} are unknown {unknown[:NUM_NAMES_SHOWN]}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor of the model's state."""
        return tuple(self._sources)

    def read(self, name: str) -> Tensor:
        """Return one tensor in the dtype it was saved in."""
        source = self._sources[name]
        tensor = self.trained[source] if source in self.trained else read_saved(self.saved[source], source)
        return with_rows(tensor, self._num_rows.get(self.tied.get(name, name), len(tensor))) if tensor.ndim else tensor

    def _has(self, name: str) -> bool:
        return name in self.trained or name in self.saved


def read_saved(saved: SavedTensor, name: str) -> Tensor:
    """Read one tensor of a file."""
    with open_tensors(saved.file) as tensors:
        return tensors.read(saved.key or name)


class MergedWeights:
    """Weights with adapters merged into the base as it is read: W + alpha / rank * B A, summed in float32."""

    def __init__(self, adapted: Weights) -> None:
        self._adapted = adapted
        self._lora = adapted.config.lora
        self.config = replace(adapted.config, lora=None)
        # A trained copy of the embeddings takes the place of its original.
        self._sources = {
            name_without_adapters(name): name
            for name in adapted.names
            if not is_adapter(name) and "original_module." not in name
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor of the merged model's state."""
        return tuple(self._sources)

    def read(self, name: str) -> Tensor:
        """Return one tensor: merged ones in float32, the others in the dtype they were saved in."""
        source = self._sources[name]
        tensor = self._adapted.read(source)
        if self._lora is None or not source.endswith(BASE_LAYER):
            return tensor
        prefix = source.removesuffix(BASE_LAYER)
        down, up = (self._adapted.read(f"{prefix}lora_{side}.default.weight").float() for side in "AB")
        return tensor.float() + (up @ down) * adapter_scale(self._lora)


def adapter_scale(lora: LoraConfig) -> float:
    """Return the factor of B A, alpha / rank."""
    return lora.alpha / lora.rank
