"""How far gradients of two ways to compute one loss are from each other."""

from collections.abc import Sequence

from torch import Tensor

ROUNDING = 1e-6
"""A gradient whose norm is a smaller share of the largest one's is float32 rounding."""


def compare_gradients(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> dict[str, float]:
    """Compare gradients of the same tensors.

    Returns:
        `gradient_deviation`: largest difference of any number, relative to the largest number of `theirs`;
        `gradient_deviation_by_tensor`: largest difference of a tensor's whole gradient relative to itself, of those
        that are more than rounding (a key's bias has none: softmax ignores it).
    """
    pairs = list(zip(ours, theirs, strict=True))
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    norm = max(float(gradient.norm()) for gradient in theirs)
    return {
        "gradient_deviation": max(float((a - b).abs().max()) for a, b in pairs) / largest,
        "gradient_deviation_by_tensor": max(
            float((a - b).norm() / b.norm()) for a, b in pairs if float(b.norm()) > ROUNDING * norm
        ),
    }
