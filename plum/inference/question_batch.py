"""Many questions about a few images, with images and common prefixes of questions and answers computed once.

The results are those of `Predictor.score_choices`, `segment` and `generate` question by question, which remain the
reference (the paper, section A.1, scores every choice with its own forward pass).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from partonomy.models.contract import (
    AnswerRequest,
    ChoiceRequest,
    Generation,
    MaskRequest,
    ReplyRequest,
    Request,
)
from partonomy.models.finite_values import require_finite, require_no_nan
from partonomy.structures import ChoiceScore
from plum.inference.image_store import EncodedImage
from plum.inference.plain_states import conversation_states
from plum.inference.predicted_masks import predict_masks, take_masks, threshold_masks
from plum.inference.predictor import MAX_NEW_TOKENS, Predictor, WrittenAnswer
from plum.inference.prefix_forest import ForestRow
from plum.inputs.bio_labels import TokenSpan
from plum.inputs.encoding import EncodedConversation, EncodedText, ImageSlot
from plum.structures import ImageFrame, SpanBounds

MAX_DECODED_TOGETHER = 32
"""Conversations whose masks are decoded in one loop; bounds the memory of image embeddings and earlier masks."""

MAX_DECODED_BYTES_ON_CPU = 16 * 2**20
"""Image embeddings of such a loop on a CPU: four conversations at SAM's full size. More together leave its cache, and a
mask takes half as long again."""

MAX_COPIED_BYTES = 4 * 2**30
"""Maximum size of the keys and values of answers generated together, each with its own copy of its prompt's. At 7B this
allows eight answers."""


class QuestionBatch:
    """Questions about some images; implements `partonomy.models.contract.ImageBatch`.

    Args:
        predictor: the model; its image store is set to these images.
        images: from `ImageStore.read`.
    """

    @torch.inference_mode()
    def __init__(self, predictor: Predictor, images: Sequence[EncodedImage]) -> None:
        self._predictor = predictor
        self._images = list(images)
        predictor.images.keep(self._images)
        self._states = conversation_states(predictor.model.backbone, predictor.images.tokens(self._images))

    @torch.inference_mode()
    def score_choices(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]:
        """Score choices; SAM is not run."""
        rows = [
            (
                request,
                self._predictor.answers.given(self._slots(request), request.turns, choice, f"choice {i}", phrases),
            )
            for request in requests
            for i, (choice, phrases) in enumerate(zip(request.choices, request.phrases, strict=True))
        ]
        paths = self._states.add([self._forest_row(request, row.encoded) for request, row in rows])
        log_probs = self._states.log_probs(paths)
        require_no_nan(torch.from_numpy(np.concatenate(log_probs)), self._predictor.model.weights_name)
        scores = iter([_score(row, values) for (_, row), values in zip(rows, log_probs, strict=True)])
        return [[next(scores) for _ in request.choices] for request in requests]

    @torch.inference_mode()
    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]:
        """Segment phrases of given answers, masks bool (len(spans), H, W); answers scored before need no forward."""
        encode = self._predictor.answers.forced
        forced = [encode(self._slots(one), one.turns, one.answer, one.spans) for one in requests]
        masks = [self._no_masks(request) for request in requests]
        asked = [number for number, answer in enumerate(forced) if answer.spans]
        rows = []
        for number in asked:
            row = self._forest_row(requests[number], forced[number].row.encoded)
            # No state before it depends on what follows the last phrase.
            rows.append(replace(row, ids=row.ids[: max(span.end for span in forced[number].spans)]))
        paths, spans = self._states.add(rows), [forced[number].spans for number in asked]
        for place, low_logits, frame in self._mask_logits(paths, spans, [requests[number].image for number in asked]):
            number = asked[place]
            masks[number] = take_masks(threshold_masks(low_logits, frame, self._sam_size), forced[number].places)
        return masks

    @torch.inference_mode()
    def generate(self, requests: Sequence[AnswerRequest], max_new_tokens: int = MAX_NEW_TOKENS) -> list[Generation]:
        """Answer as `Predictor.generate` does; prompts scored before need no forward pass."""
        own, predictor = self.write_answers(requests, max_new_tokens), self._predictor
        texts = [answer.text for answer in own]
        written = [number for number, text in enumerate(texts) if text]
        rows = {
            number: predictor.own_row(self._slots(requests[number]), requests[number].turns, own[number])
            for number in written
        }
        paths = self._states.add([self._forest_row(requests[number], rows[number].encoded) for number in written])
        answers = [
            Generation(answer.text, (), self._no_masks(request), (), answer.finish_reason == "length")
            for answer, request in zip(own, requests, strict=True)
        ]
        targets = [
            predictor.notation.read(
                rows[number],
                self._states.gather([path]),
                predictor.model,
                predictor.images.tokens([self._images[requests[number].image]]).values,
            )
            for number, path in zip(written, paths, strict=True)
        ]
        spans = [[target.tokens for target in found] for found in targets]
        pictures = [requests[number].image for number in written]
        for place, low_logits, frame in self._mask_logits(paths, spans, pictures):
            masks = predict_masks(low_logits, frame, self._sam_size)
            chars = tuple(target.chars for target in targets[place])
            answers[written[place]] = replace(
                answers[written[place]], spans=chars, masks=masks.masks, confidences=masks.confidences
            )
        return answers

    @torch.inference_mode()
    def reply(self, requests: Sequence[ReplyRequest], max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
        """Answer as `Predictor.generate_text` does, as plain text; SAM is not run."""
        return [self._predictor.notation.words(own.text) for own in self.write_answers(requests, max_new_tokens)]

    @torch.inference_mode()
    def write_answers(
        self, requests: Sequence[AnswerRequest | ReplyRequest], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> list[WrittenAnswer]:
        """Generate answers as the model writes them, marks included; without text if the model stops immediately."""
        prompts = [self._predictor.answers.prompt(request.turns, self._slots(request)) for request in requests]
        paths = self._states.add(
            [self._forest_row(request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        )
        if not paths:
            return []
        # An answer with less room is cut, so that its length does not depend on the others.
        longest = max(self._predictor.limit_new_tokens(prompt, max_new_tokens) for prompt in prompts)
        bytes_per_row = self._states.bytes_per_token * (max(map(len, paths)) + longest)
        rows, answers = max(1, MAX_COPIED_BYTES // bytes_per_row), []
        for first in range(0, len(paths), rows):
            part = slice(first, first + rows)
            token_ids = self._states.continue_greedily(paths[part], longest)
            answers += [
                self._predictor.read_written(prompt, self._slots(request), request.turns, ids, max_new_tokens)
                for prompt, request, ids in zip(prompts[part], requests[part], token_ids, strict=True)
            ]
        return answers

    def _mask_logits(
        self, paths: Sequence[np.ndarray], spans: Sequence[Sequence[TokenSpan]], pictures: Sequence[int]
    ) -> Iterator[tuple[int, Tensor, ImageFrame]]:
        """Yield the number of each row with spans, its low-resolution mask logits [spans, 4h, 4w], and its frame."""
        asked = [number for number, found in enumerate(spans) if found]
        size = self._num_decoded_together()
        for first in range(0, len(asked), size):
            chunk = asked[first : first + size]
            logits = self._decode(
                [paths[number] for number in chunk],
                [spans[number] for number in chunk],
                [pictures[number] for number in chunk],
            )
            for number, low in zip(chunk, logits, strict=True):
                yield number, low, self._images[pictures[number]].inputs.frame

    @property
    def _sam_size(self) -> int:
        return self._predictor.transform.sam_size

    def _num_decoded_together(self) -> int:
        model, device = self._predictor.model, self._predictor.device
        if device.type != "cpu":
            return MAX_DECODED_TOGETHER
        bytes_per_row = model.sam.bytes_per_image(next(model.parameters()).dtype)
        return min(MAX_DECODED_TOGETHER, max(1, MAX_DECODED_BYTES_ON_CPU // bytes_per_row))

    def _decode(
        self, paths: Sequence[np.ndarray], spans: Sequence[Sequence[TokenSpan]], pictures: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Return low-resolution logits [spans, 4h, 4w] of each row's spans, decoding all rows together."""
        device = self._predictor.device
        used = sorted(set(pictures))
        tokens = [
            (row, span.start, span.end, used.index(pictures[row])) for row, found in enumerate(spans) for span in found
        ]
        bounds = SpanBounds(*torch.tensor(tokens, device=device).unbind(1))
        embeddings = self._predictor.images.embeddings([self._images[picture] for picture in used])
        logits = self._predictor.model.decode_masks(self._states.gather(paths), bounds, embeddings)
        require_finite(logits, "mask logits", self._predictor.model.weights_name)
        return logits.split([len(found) for found in spans])

    def _forest_row(self, request: Request, row: EncodedText) -> ForestRow:
        """Put a conversation in the branch of its first question, so that a follow-up shares the first turn."""
        prompt = row.input_ids[: row.prompt_end + 1] if self._predictor.model.backbone.is_guided else ()
        return ForestRow(
            picture=(request.image, prompt),
            branch=(request.image, prompt, request.turns[0].text),
            ids=row.input_ids,
            images=(request.image,),
            patches=row.patches,
            prompt_end=row.prompt_end,
            positions=row.positions(),
        )

    def _slots(self, request: Request) -> list[ImageSlot]:
        return [self._predictor.slot_of(self._images[request.image])]

    def _no_masks(self, request: MaskRequest | AnswerRequest) -> np.ndarray:
        height, width = self._images[request.image].inputs.frame.original
        return np.zeros((0, height, width), dtype=bool)


def _score(row: EncodedConversation, log_probs: np.ndarray) -> ChoiceScore:
    """Sum a row's log-probabilities; tokens of images and the first token are not predicted."""
    is_text_first = not row.encoded.is_patch(0)
    is_text = np.ones(len(log_probs), dtype=bool)
    for image in row.encoded.images:
        is_text[image.start : image.end] = False
    in_answer = log_probs[row.answers[-1].start : row.answers[-1].end]
    num_predicted = row.encoded.num_text_tokens - int(is_text_first)
    return ChoiceScore(float(in_answer.sum()), len(in_answer), float(log_probs[is_text].sum()), num_predicted)
