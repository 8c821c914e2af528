"""segment_anything's own modules, imported here and nowhere else.

The package's `__init__` imports torchvision for its automatic mask generator; its `modeling` does not. If torchvision
is missing, a stub that only knows the package's path replaces that `__init__`.
"""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType


def _stub_package_without_torchvision() -> None:
    """Make `segment_anything.modeling` importable without torchvision."""
    if "segment_anything" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    spec = importlib.machinery.PathFinder.find_spec("segment_anything")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("segment_anything is missing: pip install -r requirements.txt")
    package = ModuleType("segment_anything")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["segment_anything"] = package


_stub_package_without_torchvision()

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer  # noqa: E402
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402
from segment_anything.modeling.image_encoder import Attention  # noqa: E402
from segment_anything.modeling.sam import Sam  # noqa: E402
from segment_anything.modeling.transformer import Attention as TwoWayAttention  # noqa: E402
from segment_anything.modeling.transformer import TwoWayAttentionBlock  # noqa: E402

__all__ = [
    "Attention",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "TwoWayAttention",
    "TwoWayAttentionBlock",
    "TwoWayTransformer",
]
