"""Plain procedure, question by question: the reference for the fast path's results and run time.

For each question, the image is resized again and encoded by CLIP, and all choices form one batch of full rows. SAM
encodes the image and decodes the masks of all choices' phrases, one span per call, with segment_anything's own layers.
This is cheaper than the authors' code: one forward pass serves scores and masks, next-token logits are computed for
text alone, and CLIP encodes the image once instead of once per choice.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor

from partonomy.models.contract import Generation, Hint, Turn
from partonomy.structures import CharSpan, ChoiceScore
from plum.inference.predictor import Predictor
from plum.models.segmenters.sam import SegmentAnything, stock_layers
from plum.models.segmenters.sam_modules import Attention, ImageEncoderViT


class PlainModel:
    """A Predictor used as in the papers' procedure (`partonomy.models.contract.InformedModel`)."""

    name = "plain"

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.hint: Hint | None = None
        """What the harness said of the request that it makes."""
        self._states: dict[tuple[Turn, ...], Tensor] = {}
        self.mask_logits: Tensor | None = None
        """Logits [spans, H, W] of the masks returned last."""

    def prepare(self, hint: Hint) -> None:
        """Discard the previous question and read the phrases of all choices, which are the hint's guesses."""
        self.hint = hint
        if hint.number == 0:
            self._states.clear()
            self._predictor.images.keep(())

    @torch.inference_mode()
    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return one score per choice, each from a row of its own."""
        states, scores = self._predictor.score_rows(image, turns, choices)
        self._states[tuple(turns)] = states
        return scores

    @torch.inference_mode()
    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return the masks of the given answer; those of the other choices are decoded as well."""
        assert self.hint is not None, "prepare comes first"
        assert self.hint.gold is not None, "a question says what its choices are"
        states = self._states[tuple(turns)]
        chosen = torch.zeros((0, *image.shape[:2]))
        with ExitStack() as stack:
            sam = self._predictor.model.sam
            if isinstance(sam, SegmentAnything):  # SAM 2 runs transformers' own layers anyway
                stack.enter_context(stock_attention(sam.image_encoder))
                stack.enter_context(stock_layers(sam))
            for row, (choice, phrases) in enumerate(self.hint.gold.guesses):
                forced = self._predictor.answers.forced(self._predictor.slots((image,)), turns, choice, phrases)
                logits = self._predictor.mask_logits(image, states[row : row + 1], forced.spans)
                if choice == answer:
                    chosen = logits[forced.places]
        self.mask_logits = chosen
        return (chosen > 0).cpu().numpy()

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Raise: generation is not part of the procedure."""
        raise NotImplementedError


@contextmanager
def stock_attention(encoder: ImageEncoderViT) -> Iterator[None]:
    """Use segment_anything's own attention in SAM's image encoder within the context, on the same weights."""
    ours = [block.attn for block in encoder.blocks]
    try:
        for block in encoder.blocks:
            block.attn = _stock(block.attn)
        yield
    finally:
        for block, attention in zip(encoder.blocks, ours, strict=True):
            block.attn = attention


def _stock(attention: Attention) -> Attention:
    size = (len(attention.rel_pos_h) + 1) // 2
    with torch.device("meta"):
        stock = Attention(attention.proj.in_features, attention.num_heads, use_rel_pos=True, input_size=(size, size))
    stock.load_state_dict(attention.state_dict(), strict=True, assign=True)
    return stock
