"""Many questions about a few images: a question's text, an image and an answer's beginning are computed once.

The same numbers as `Predictor.score_choices` and `Predictor.segment` give question by question, which stay as the
reference (paper, section A.1, scores every choice with a forward of its own).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from partonomy.evaluation.model_api import ChoiceRequest, ChoiceScore, MaskRequest
from plum.data.encoding import EncodedConversation
from plum.inference.answer_encoder import ForcedAnswer
from plum.inference.forest_states import ForestStates
from plum.inference.image_store import EncodedImage
from plum.inference.prefix_forest import ForestRow
from plum.models.mask_resize import resize_to_original
from plum.predictor import Predictor
from plum.structures import SpanBounds

MAX_DECODED_TOGETHER = 32
"""Conversations whose masks are decoded in one loop; bounds the memory of image embeddings and earlier masks."""


class QuestionBatch:
    """Questions about some images; implements `partonomy.evaluation.model_api.ImageBatch`.

    Args:
        predictor: the model; its image store then holds these images.
        images: from `ImageStore.read`.
    """

    @torch.inference_mode()
    def __init__(self, predictor: Predictor, images: Sequence[EncodedImage]) -> None:
        self._predictor = predictor
        self._images = list(images)
        predictor.images.keep(self._images)
        self._states = ForestStates(predictor.model.llava, predictor.images.tokens(self._images))

    @torch.inference_mode()
    def score_choices(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]:
        """Score choices; SAM is not asked."""
        rows = [
            (request, self._predictor.answers.given(True, request.turns, choice, f"choice {i}", phrases))
            for request in requests
            for i, (choice, phrases) in enumerate(zip(request.choices, request.phrases, strict=True))
        ]
        paths = self._states.add([_forest_row(request, row) for request, row in rows])
        log_probs = self._states.log_probs(paths)
        scores = iter([_score(row, values) for (_, row), values in zip(rows, log_probs, strict=True)])
        return [[next(scores) for _ in request.choices] for request in requests]

    @torch.inference_mode()
    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]:
        """Segment phrases of given answers, masks bool (len(spans), H, W); answers scored before cost no forward."""
        forced = [self._predictor.answers.forced(request.turns, request.answer, request.spans) for request in requests]
        paths = self._states.add(
            [_forest_row(request, answer.row) for request, answer in zip(requests, forced, strict=True)]
        )
        masks = [self._no_masks(request) for request in requests]
        asked = [number for number, answer in enumerate(forced) if answer.spans]
        for first in range(0, len(asked), MAX_DECODED_TOGETHER):
            chunk = asked[first : first + MAX_DECODED_TOGETHER]
            pictures = [requests[number].image for number in chunk]
            logits = self._decode([paths[number] for number in chunk], [forced[number] for number in chunk], pictures)
            for number, picture, mask_logits in zip(chunk, pictures, logits, strict=True):
                masks[number] = self._to_masks(mask_logits, picture)[forced[number].places]
        return masks

    def _decode(
        self, paths: Sequence[np.ndarray], forced: Sequence[ForcedAnswer], pictures: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Low-resolution logits [spans, 4h, 4w] of each answer's spans, all answers together."""
        device = self._predictor.device
        spans = [(row, span.start, span.end) for row, answer in enumerate(forced) for span in answer.spans]
        bounds = SpanBounds(*torch.tensor(spans, device=device).unbind(1))
        used = sorted(set(pictures))
        embeddings = self._predictor.images.embeddings([self._images[picture] for picture in used])
        image_index = torch.tensor([used.index(picture) for picture in pictures], device=device)
        logits = self._predictor.model.decode_masks(self._states.gather(paths), bounds, embeddings, image_index)
        return logits.split([len(answer.spans) for answer in forced])

    def _to_masks(self, logits: Tensor, picture: int) -> np.ndarray:
        frame = self._images[picture].inputs.frame
        resized = resize_to_original(logits, frame, self._predictor.transform.sam_size)
        return (resized > 0).cpu().numpy()

    def _no_masks(self, request: MaskRequest) -> np.ndarray:
        height, width = self._images[request.image].inputs.frame.original
        return np.zeros((0, height, width), dtype=bool)


def _forest_row(request: ChoiceRequest | MaskRequest, row: EncodedConversation) -> ForestRow:
    """A conversation in the branch of its first question: a follow-up then shares the first turn."""
    image = row.encoded.image_tokens
    assert image is not None
    return ForestRow(request.image, (request.image, request.turns[0].text), row.encoded.input_ids, image.start)


def _score(row: EncodedConversation, log_probs: np.ndarray) -> ChoiceScore:
    """Sum a row's log-probabilities; image patches are predicted by nobody, and neither is the first token."""
    image = row.encoded.image_tokens
    is_text_first = image is None or image.start > 0
    in_answer = log_probs[row.answers[-1].start : row.answers[-1].end]
    num_predicted = row.encoded.num_text_tokens - int(is_text_first)
    return ChoiceScore(float(in_answer.sum()), len(in_answer), float(log_probs.sum()), num_predicted)
