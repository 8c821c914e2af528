"""Refuses NaN and infinite logits of a model by name; taken as they are, they would give empty answers and masks."""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from partonomy.models.contract import ModelUnavailable


def require_finite(values: Tensor, what: str, weights: str) -> None:
    """Check that all of a model's values are finite.

    Args:
        values: any shape.
        what: what they are, in the plural.
        weights: name of the model's weights.

    Raises:
        ModelUnavailable: some value is NaN or infinite; the model would answer no question.
    """
    if not bool(torch.isfinite(values).all()):
        kind = "NaN" if bool(values.isnan().any()) else "infinite"
        raise ModelUnavailable(describe_broken(kind, what, weights, values.dtype))


def require_no_nan(log_probs: Tensor, weights: str) -> None:
    """Check the log-probabilities of given tokens, which are NaN if a logit is NaN or infinite.

    Those of suppressed tokens are -inf.

    Raises:
        ModelUnavailable: some value is NaN.
    """
    if bool(log_probs.isnan().any()):
        raise ModelUnavailable(describe_broken("NaN or infinite", "next-token logits", weights, log_probs.dtype))


def describe_broken(kind: str, what: str, weights: str, dtype: torch.dtype) -> str:
    """Return the message about values that are not finite."""
    advice = "the weights are damaged or unfinished: replace them"
    if dtype is torch.float16:
        advice = "float16 holds no number beyond 65504: try --dtype float32; otherwise " + advice
    return f"the weights of {weights} give {kind} {what}; {advice}"


class LogitsWatch(LogitsProcessor):
    """Notes whether next-token logits are NaN or infinite while transformers' `generate` runs.

    The note stays on the device until `check`, so that watching does not slow generation down. Suppressed tokens have
    the logit -inf.

    Args:
        weights: name of the model's weights.
    """

    def __init__(self, weights: str) -> None:
        self._weights = weights
        self._dtype = torch.float32
        self._is_broken: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note and return the logits [N, V]."""
        broken = (scores.isnan() | scores.isposinf()).any()
        self._dtype = scores.dtype
        self._is_broken = broken if self._is_broken is None else self._is_broken | broken
        return scores

    def check(self) -> None:
        """Check what was noted.

        Raises:
            ModelUnavailable: a logit was NaN or infinite.
        """
        if self._is_broken is not None and bool(self._is_broken):
            raise ModelUnavailable(describe_broken("NaN or infinite", "next-token logits", self._weights, self._dtype))
