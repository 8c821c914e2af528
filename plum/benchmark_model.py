"""A saved model behind the contract of the benchmarks beyond Partonomy, with or without its adapters."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from partonomy.models.contract import Generation, Turn
from partonomy.structures import CharSpan
from plum.checkpoints.model_config_io import read_model_config
from plum.models.lora import adapters_off
from plum.partonomy_adapter import PlumModel
from plum.predictor import Predictor


class BenchmarkPlum(PlumModel):
    """PLUM, or the language model under its adapters.

    Args:
        predictor: the loaded model.
        name: as it stands in the results.
        is_base: switch the adapters off; tagger and mask decoder stay as they were trained, so masks then say how far
            these alone carry.
        max_new_tokens: longest answer.
    """

    def __init__(self, predictor: Predictor, name: str, is_base: bool, max_new_tokens: int) -> None:
        super().__init__(predictor, name)
        self.is_base = is_base
        self.max_new_tokens = max_new_tokens

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the model's own answer in words alone."""
        with self._adapters():
            return self.predictor.generate_text(image, turns, self.max_new_tokens)

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return one mask per span of the given answer, bool (len(spans), H, W)."""
        with self._adapters():
            return super().segment(image, turns, answer, spans)

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return the model's own answer, its tagged spans and their masks."""
        with self._adapters():
            found = self.predictor.generate(image, turns, self.max_new_tokens)
        return Generation(found.text, found.spans, found.masks, found.mask_confidences)

    @contextmanager
    def _adapters(self) -> Iterator[None]:
        if self.is_base:
            with adapters_off(self.predictor.model.llava.network):
                yield
        else:
            yield


def check_has_adapters(checkpoint: Path) -> None:
    """Check that there is something to switch off.

    Raises:
        ValueError: the model has no adapters: they were merged, or it never had any.
    """
    if read_model_config(checkpoint).lora is None:
        raise ValueError(
            f"--base: {checkpoint} has no adapters to switch off. Give the checkpoint before its export, or evaluate "
            "the model that it was trained from without --base"
        )
