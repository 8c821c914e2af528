"""FLOPs of a backbone, counted by torch as its modules run without weights (meta device).

No formula has to follow a family's architecture: the stock modules run on shapes, forward and backward, with the
gradients that a run needs. What decides about shapes (an image's grid, padding masks) keeps its values.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from plum.config import ModelConfig, SpecialTokensConfig
from plum.models.backbones.backbone import Injection
from plum.models.backbones.calico import CalicoBackbone
from plum.models.backbones.lora import adapters_off
from plum.models.systems.components import Backbones
from plum.models.systems.registry import build_model
from plum.models.trainable import set_trainable
from plum.structures import Pixels, StockPixels
from plum.train_config import TrainableConfig

META = torch.device("meta")


class WithoutWeights(TorchDispatchMode):
    """Lets modules on the meta device run on inputs with values.

    A result is on the meta device if it depends on a weight. Everything else keeps its values, because encoders of
    images read grids and masks to decide about shapes.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if any(one.is_meta for one in tensors):
            if func is torch.ops.aten.index.Tensor:
                args = (args[0], [_as_places(index) for index in args[1]])
            args, kwargs = tree_map(_without_values, (args, kwargs))
        if kwargs.get("device") is not None:
            kwargs["device"] = META if any(one.is_meta for one in tensors) else torch.device("cpu")
        return func(*args, **kwargs)


def _as_places(index: Tensor | None) -> Tensor | None:
    """Return a mask with values as the indices that it selects, so that their number is known."""
    is_mask = index is not None and index.dtype == torch.bool and index.ndim == 1 and not index.is_meta
    return index.nonzero()[:, 0] if is_mask and index is not None else index


def _without_values(one: object) -> object:
    return one.to(META) if isinstance(one, Tensor) and not one.is_meta else one


def count_flops(run: Callable[[], object]) -> float:
    """Return the FLOPs of the products and convolutions of a computation; attention counts all pairs that it gets."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return float(counter.get_total_flops())


class BackboneFlops:
    """FLOPs of a backbone's parts, forward and, where gradients pass, backward.

    Args:
        config: the model.
        special_tokens: ids of the backbone; only their number matters here.
        trainable: what a run trains; None: nothing, forward passes alone.

    Raises:
        ValueError: the decoder has windows, linear attention, or images that attend both ways.
    """

    def __init__(
        self, config: ModelConfig, special_tokens: SpecialTokensConfig, trainable: TrainableConfig | None
    ) -> None:
        config = config.with_backbone(replace(config.backbone, special_tokens=special_tokens))
        with META:
            if trainable is None:
                self.backbone = Backbones().build_backbone(config).requires_grad_(False).eval()
            else:
                model = build_model(config)
                set_trainable(model, trainable)
                self.backbone = model.backbone.eval()
        if not self.backbone.shares_prefixes:
            raise ValueError("no count covers the FLOPs of decoders whose layers do not attend to all earlier tokens")
        self.is_trained = trainable is not None
        self._known_images: dict[object, float] = {}

    def of_images(self, pixels: Pixels) -> float:
        """Return the FLOPs of the towers and the projector for some images."""
        if isinstance(pixels, Tensor):
            return len(pixels) * self._of_image(pixels[:1], str(tuple(pixels.shape[1:]))) if len(pixels) else 0.0
        return sum(self._of_image(StockPixels((image,)), _shapes(image)) for image in pixels.images)

    def _of_image(self, pixels: Pixels, key: object) -> float:
        if key not in self._known_images:
            on_host = pixels.to(torch.device("cpu"))

            def run() -> None:
                found = self.backbone.encode_images(on_host)
                _go_back(one for one in (found.values, found.details, found.layers) if one is not None)

            with WithoutWeights():
                self._known_images[key] = count_flops(run)
        return self._known_images[key]

    def of_tokens(self, tokens: int, pairs: int) -> float:
        """Return the FLOPs of the decoder's layers with adapters.

        Args:
            tokens: number of tokens.
            pairs: number of pairs of a token and one that it attends to.
        """
        per_token, per_pair = self._student
        return per_token * tokens + per_pair * pairs

    def of_teacher_tokens(self, tokens: int, pairs: int) -> float:
        """Return the FLOPs of the decoder's layers without adapters and gradients; see `of_tokens`."""
        per_token, per_pair = self._teacher
        return per_token * tokens + per_pair * pairs

    @cached_property
    def of_reading(self) -> float:
        """FLOPs of reading one image of one conversation again, in all layers that do so (CALICO)."""
        return self._of_reading(self.is_trained)

    @cached_property
    def of_teacher_reading(self) -> float:
        """`of_reading` without gradients."""
        return self._of_reading(False)

    @cached_property
    def of_prediction(self) -> float:
        """FLOPs of predicting one token from its state."""
        states = self._states(1, self.is_trained)
        with WithoutWeights():
            return count_flops(lambda: _go_back([self.backbone.token_logits(states)]))

    @cached_property
    def _student(self) -> tuple[float, float]:
        return self._by_token_and_pair(self.is_trained)

    @cached_property
    def _teacher(self) -> tuple[float, float]:
        with adapters_off(self.backbone.network):
            return self._by_token_and_pair(False)

    def _by_token_and_pair(self, has_gradient: bool) -> tuple[float, float]:
        """Divide the decoder's FLOPs, a n + b n^2 for n tokens that all attend to each other, into a and b."""
        two, four = (self._of_sequence(length, has_gradient) for length in (2, 4))
        per_pair = (four - 2 * two) / 8
        return two / 2 - 2 * per_pair, per_pair

    def _of_sequence(self, length: int, has_gradient: bool) -> float:
        def attend(_layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            query, key, value = (states.transpose(0, 1)[None] for states in (queries, keys, values))
            return scaled_dot_product_attention(query, key, value, enable_gqa=True)[0].transpose(0, 1)

        embeddings = self._states(length, has_gradient)
        with WithoutWeights(), torch.set_grad_enabled(has_gradient):
            return count_flops(lambda: _go_back([self.backbone.run_layers(embeddings, torch.arange(length), attend)]))

    def _of_reading(self, has_gradient: bool) -> float:
        backbone = self.backbone
        if not isinstance(backbone, CalicoBackbone) or backbone.adaptation is None:
            return 0.0
        number, adaptation = backbone.num_image_tokens, backbone.adaptation
        size = backbone.stock.config.vision_config.image_size
        details = backbone.encode_images(torch.zeros(1, 3, size, size, device=META)).details
        assert details is not None, "its layers read images again"
        injection = Injection(
            guides=torch.tensor([number]) if backbone.is_guided else None,
            places=torch.arange(number)[None],
            details=details.detach().requires_grad_(has_gradient and details.requires_grad),
            num_tokens=number + 1,
        )
        given = self._states(number + 1, has_gradient)

        def run() -> None:
            states = given
            for layer in adaptation.layers:
                states = backbone.inject(layer, states, injection)
            _go_back([states])

        with WithoutWeights(), torch.set_grad_enabled(has_gradient):
            return count_flops(run)

    def _states(self, length: int, has_gradient: bool) -> Tensor:
        """Return states that a gradient reaches: what is before them, adapters or a projector, is trained."""
        return torch.empty(length, self.backbone.hidden_size, device=META).requires_grad_(has_gradient)


def _go_back(results: Iterable[Tensor]) -> None:
    """Run the backward pass of what has one."""
    sums = [one.sum() for one in results if one.requires_grad]
    if sums:
        torch.autograd.backward(sums)


def _shapes(image: Mapping[str, Tensor]) -> object:
    """Return what decides about the FLOPs of an image: shapes, and the values of grids and masks."""
    return tuple(
        (name, tuple(tensor.shape), b"" if tensor.is_floating_point() else tensor.cpu().numpy().tobytes())
        for name, tensor in sorted(image.items())
    )
