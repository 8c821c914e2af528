"""Inference: image and text in; text, spans and masks out (paper, section 4). Demo, chat and evaluation use this."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from partonomy.models.contract import Turn
from partonomy.models.finite_values import require_finite, require_no_nan
from partonomy.structures import CharSpan, ChoiceScore
from plum.config import ModelConfig
from plum.data.collate import pad_positions, pad_rows
from plum.data.sam_feature_cache import SamFeatureCache
from plum.inference.answer_encoder import AnswerEncoder
from plum.inference.generated_ids import has_ids, place_tokens, with_ids
from plum.inference.image_store import EncodedImage, ImageStore
from plum.inference.predicted_masks import PredictedMasks, predict_masks
from plum.inputs.bio_labels import TokenSpan
from plum.inputs.encoders import build_encoder
from plum.inputs.encoding import EncodedConversation, EncodedText, ImageSlot, token_id
from plum.inputs.image_transforms import build_image_transform
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.mask_resize import resize_to_original
from plum.models.systems.registry import build_notation
from plum.models.systems.target_notation import Target
from plum.structures import ConversationImages, ImageTokens, SpanBounds

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256
"""Default limit on an answer about one image."""
MAX_NEW_TOKENS_ABOUT_SEVERAL = 1024
"""Default limit on an answer about several images: the longest of MixedParts has 72 parts of some 12 tokens each."""

FinishReason = Literal["stop", "length"]
"""Why an answer ends: the model ended it, or the limit on new tokens did (the names of other tools)."""


def default_new_tokens(num_images: int) -> int:
    """Return the default limit on an answer, in tokens."""
    return MAX_NEW_TOKENS_ABOUT_SEVERAL if num_images > 1 else MAX_NEW_TOKENS


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer that the model wrote.

    text: as the model writes it, marks included
    num_tokens: number of its tokens, end token included
    finish_reason: why it ends
    token_ids: its tokens without the end token; empty if they are not known, or more than the text
    """

    text: str
    num_tokens: int
    finish_reason: FinishReason
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """The model's own answer, or a given one, and what is segmented of it in one image.

    An answer about several images is a prediction per image, all with the same text, each with the spans of its image.

    spans: character ranges of `text`, in reading order
    tag_confidences: per span, the mean probability of its tags, or the probability of its [SEG]
    masks, mask_confidences: per span, see `PredictedMasks`
    finish_reason: "stop" if the model ended its answer, "length" if the limit on new tokens did; None: a given answer
    num_tokens: tokens that the model wrote; None: a given answer
    """

    text: str
    spans: tuple[CharSpan, ...]
    tag_confidences: tuple[float, ...]
    masks: np.ndarray
    mask_confidences: tuple[float, ...]
    finish_reason: FinishReason | None = None
    num_tokens: int | None = None


class Predictor:
    """Inference with one model: generate an answer, segment phrases of an answer, score answers.

    The image of the last call stays encoded, so several questions about one image encode it once. Turns alternate user,
    assistant, user, ...; earlier answers are read as text, and their masks do not enter the feedback loop of the new
    answer. For many questions together, see `plum.inference.question_batch`.

    Args:
        model: in any dtype, on any device; switched to evaluation mode.
        tokenizer: the one it was trained with.
        config: its architecture.
        sam_cache: cache of SAM's embeddings on disk.

    Attributes:
        num_own_answers: answers of the model's own whose masks were read so far.
        num_kept_ids: those of them whose text tokenizes to other ids than the model generated, see `own_row`.
    """

    def __init__(
        self,
        model: GroundedLMM,
        tokenizer: PreTrainedTokenizerBase,
        config: ModelConfig,
        sam_cache: SamFeatureCache | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.encoder = build_encoder(config, tokenizer, max_tokens=config.language.max_positions)
        self.transform = build_image_transform(config, tokenizer)
        self.notation = build_notation(config)
        self._mark_ids = {token_id(tokenizer, mark) for mark in self.notation.marks}
        self._silent_ids = set(tokenizer.all_special_ids) - self._mark_ids
        if self.transform.stock is not None:
            self._silent_ids |= {token_id(tokenizer, token) for token in self.transform.stock.control_tokens}
        self.answers = AnswerEncoder(self.encoder, self.notation)
        self.num_own_answers, self.num_kept_ids = 0, 0
        self.images = ImageStore(self.model, self.transform, sam_cache)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def generate(
        self, image: np.ndarray | None, turns: Sequence[Turn], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> Prediction:
        """Answer greedily, find the answer's targets (tagged phrases or [SEG] tokens) and segment them.

        The states for targets and masks come from one teacher-forced pass over prompt and answer, because generation
        does not compute a state for the last token.

        Args:
            image: uint8 RGB (H, W, 3), or None for a conversation without one (its answers then have no masks).
            turns: the conversation up to the user's last message.
            max_new_tokens: maximum length of the answer.
        """
        found = self._generate(() if image is None else (image,), turns, max_new_tokens)
        return found[0]

    @torch.inference_mode()
    def generate_about(
        self, images: Sequence[np.ndarray], turns: Sequence[Turn], max_new_tokens: int | None = None
    ) -> tuple[Prediction, ...]:
        """Answer a question about several images; see `generate`.

        Args:
            images: one or more, each uint8 RGB (H, W, 3); texts call them (IMAGE1), (IMAGE2), ...
            turns: the conversation up to the user's last message.
            max_new_tokens: maximum length of the answer; None: `default_new_tokens`.

        Returns:
            A prediction per image, with the phrases that the answer places in it; a phrase may be in several.
        """
        return self._generate(tuple(images), turns, max_new_tokens)

    def _generate(
        self, images: Sequence[np.ndarray], turns: Sequence[Turn], max_new_tokens: int | None
    ) -> tuple[Prediction, ...]:
        """Return a prediction per image, or one without masks if there is no image."""
        written = self.write_about(images, turns, max_new_tokens)
        text = written.text
        targets: list[Target] = []
        hidden_states = None
        if text and images:
            row = self.own_row(self.slots(images), turns, written)
            hidden_states = self._hidden_states(images, [row])
            targets = self.notation.read(row, hidden_states, self.model, self._image_tokens(images).values)
        predictions = []
        for number, masks in enumerate(self._decode_masks(images, hidden_states, targets)):
            own = [target for target in targets if target.image == number]
            predictions.append(
                Prediction(
                    text,
                    tuple(target.chars for target in own),
                    tuple(target.confidence for target in own),
                    masks.masks,
                    masks.confidences,
                    written.finish_reason,
                    written.num_tokens,
                )
            )
        no_masks = np.zeros((0, 0, 0), dtype=bool)
        nothing = Prediction(text, (), (), no_masks, (), written.finish_reason, written.num_tokens)
        return tuple(predictions) or (nothing,)

    @torch.inference_mode()
    def generate_text(
        self, image: np.ndarray | None, turns: Sequence[Turn], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> str:
        """Answer greedily, as plain text; empty if the model stops immediately."""
        return self.notation.words(self.write(image, turns, max_new_tokens).text)

    @torch.inference_mode()
    def write(
        self, image: np.ndarray | None, turns: Sequence[Turn], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> WrittenAnswer:
        """Answer greedily, as the model writes it, marks included.

        Args:
            image: uint8 RGB (H, W, 3), or None.
            turns: the conversation up to the user's last message.
            max_new_tokens: maximum length of the answer; the room that the conversation leaves in the model's context
                limits it further.

        Raises:
            ValueError: the conversation leaves no room.
            ModelUnavailable: the model's logits are NaN or infinite.
        """
        return self.write_about(() if image is None else (image,), turns, max_new_tokens)

    @torch.inference_mode()
    def write_about(
        self, images: Sequence[np.ndarray], turns: Sequence[Turn], max_new_tokens: int | None = None
    ) -> WrittenAnswer:
        """Answer a question about any number of images, as the model writes it; see `write` and `generate_about`."""
        if max_new_tokens is None:
            max_new_tokens = default_new_tokens(len(images))
        slots = self.slots(images)
        prompt = self.answers.prompt(turns, slots)
        input_ids = torch.tensor([prompt.input_ids], device=self.device)
        new_ids = self.model.generate_text(
            input_ids,
            torch.ones_like(input_ids),
            self._shown(images, [prompt]),
            self._image_tokens(images),
            self.limit_new_tokens(prompt, max_new_tokens),
        )
        return self.read_written(prompt, slots, turns, new_ids[0], max_new_tokens)

    def limit_new_tokens(self, prompt: EncodedText, max_new_tokens: int) -> int:
        """Return the maximum length of an answer, given the room that its prompt leaves in the model's context.

        Raises:
            ValueError: `max_new_tokens` is not positive.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; an answer needs at least 1")
        return self.answers.limit_new_tokens(prompt, max_new_tokens)

    def read_written(
        self,
        prompt: EncodedText,
        images: Sequence[ImageSlot],
        turns: Sequence[Turn],
        token_ids: Tensor,
        max_new_tokens: int,
    ) -> WrittenAnswer:
        """Read an answer from its token ids [t], with the end token and padding after it.

        Args:
            prompt: the prompt that it continues.
            images: slots of the images of its conversation.
            turns: the conversation of the prompt.
            token_ids: tokens beyond the limit are cut off.
            max_new_tokens: see `write`.
        """
        ids = token_ids[: self.limit_new_tokens(prompt, max_new_tokens)]
        ends = (ids == self.model.backbone.special_tokens.eos).nonzero()
        num_tokens = int(ends[0]) + 1 if len(ends) else len(ids)
        text = self.read_answer(ids)
        fitting = self.answers.cut_to_fit(images, turns, text)
        is_whole = len(ends) > 0 and fitting == text
        without_end = ids[: int(ends[0])] if len(ends) else ids
        kept = tuple(without_end.tolist()) if fitting == text else ()
        return WrittenAnswer(fitting, num_tokens, "stop" if is_whole else "length", kept)

    def read_answer(self, token_ids: Tensor) -> str:
        """Decode an answer's token ids [t] to text as the model writes it, marks included."""
        return self.notation.tidy(self._decode(token_ids.tolist()).strip())

    def own_row(
        self, images: Sequence[ImageSlot], turns: Sequence[Turn], written: WrittenAnswer
    ) -> EncodedConversation:
        """Encode a conversation that ends with an answer of the model's own, with the tokens that it generated.

        If the answer's text tokenizes to others, the generated ones are kept (the original code of LISA and its
        successors reads masks from them); such answers are counted and reported.
        """
        row = self.answers.own(images, turns, written.text)
        if not written.token_ids:
            return row
        self.num_own_answers += 1
        prompt, end = self.answers.prompt(turns, images), self.model.backbone.special_tokens.eos
        if has_ids(row, prompt, written.token_ids, end):
            return row
        places = place_tokens(written.token_ids, self._decode, written.text)
        if places is None:
            return row
        self.num_kept_ids += 1
        if _is_reported(self.num_kept_ids):
            logger.warning(
                "%d of %d own answers so far tokenize to other ids than the model generated; their masks are read from "
                "the generated ones (the last: %.80r)",
                self.num_kept_ids,
                self.num_own_answers,
                written.text,
            )
        return with_ids(row, prompt, written.token_ids, places, end)

    def _decode(self, token_ids: Sequence[int]) -> str:
        # Some tokenizers hold a system's marks as special tokens, which decoding would skip.
        return str(self.tokenizer.decode([token for token in token_ids if token not in self._silent_ids]))

    @torch.inference_mode()
    def segment(
        self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]
    ) -> PredictedMasks:
        """Segment phrases of a given answer; the tagger is not run, and [SEG] tokens are inserted.

        Args:
            image: uint8 RGB (H, W, 3).
            turns: the conversation up to the user's last message.
            answer: the answer the assistant is taken to have given.
            spans: character ranges of the answer, in any order; they may overlap.

        Returns:
            One mask per span, in the order given. Masks are predicted in reading order, each seeing the earlier ones.
            A system that gives one mask per answer returns it for every span.

        Raises:
            ValueError: a span lies outside of the answer or falls on no token.
        """
        (found,) = self.segment_in((image,), turns, answer, (spans,))
        return found

    @torch.inference_mode()
    def segment_in(
        self,
        images: Sequence[np.ndarray],
        turns: Sequence[Turn],
        answer: str,
        spans_of_images: Sequence[Sequence[CharSpan]],
    ) -> list[PredictedMasks]:
        """Segment phrases of a given answer about several images; see `segment`.

        Args:
            images: one or more, each uint8 RGB (H, W, 3).
            turns: the conversation up to the user's last message.
            answer: the answer the assistant is taken to have given, without names of images after its phrases.
            spans_of_images: for each image, character ranges of the answer to segment in it.

        Returns:
            For each image, one mask per span, in the order given.
        """
        spans = [(span, number) for number, own in enumerate(spans_of_images) for span in own]
        numbers = [number for _, number in spans]
        named = numbers if len(images) > 1 else None
        forced = self.answers.forced(self.slots(images), turns, answer, [span for span, _ in spans], named)
        # A system with one mask for all phrases gives it to each image's phrases.
        number_of_target = dict(zip(forced.places.tolist(), numbers, strict=True))
        targets = [
            Target(tokens, CharSpan(0, 0), 1.0, number_of_target[place]) for place, tokens in enumerate(forced.spans)
        ]
        place_in_image = [sum(other.image == target.image for other in targets[:i]) for i, target in enumerate(targets)]
        found = self._decode_masks(images, self._hidden_states(images, [forced.row]), targets)
        places = np.asarray(place_in_image, dtype=np.int64)[forced.places]
        of_image = np.asarray(numbers, dtype=np.int64)
        return [masks.take(places[of_image == number]) for number, masks in enumerate(found)]

    @torch.inference_mode()
    def score_choices(
        self,
        image: np.ndarray | None,
        turns: Sequence[Turn],
        choices: Sequence[str],
        phrases: Sequence[Sequence[CharSpan]] = (),
    ) -> list[ChoiceScore]:
        """Score answers as one batch; SAM is not run.

        Args:
            image: uint8 RGB (H, W, 3) or None.
            turns: the conversation up to the user's last message.
            choices: one or more answers to it.
            phrases: per choice the phrases to segment, sorted by start; [SEG] tokens are inserted there and count as
                tokens of the answer. Empty: no phrases in any choice.

        Returns:
            Per choice, the summed log-probability (nats) and the number of its answer tokens, end token included, and
            of all text tokens of the conversation except the first, which is not predicted.
        """
        return self.score_rows(image, turns, choices, phrases)[1]

    def score_rows(
        self,
        image: np.ndarray | None,
        turns: Sequence[Turn],
        choices: Sequence[str],
        phrases: Sequence[Sequence[CharSpan]] = (),
    ) -> tuple[Tensor, list[ChoiceScore]]:
        """Score answers as `score_choices` does; also return the states [N, T, D] of their rows."""
        images = () if image is None else (image,)
        rows = [
            self.answers.given(self.slots(images), turns, choice, f"choice {i}", phrases[i] if phrases else ())
            for i, choice in enumerate(choices)
        ]
        hidden_states = self._hidden_states(images, rows)
        return hidden_states, [self._score(row, states) for row, states in zip(rows, hidden_states, strict=True)]

    def _hidden_states(self, images: Sequence[np.ndarray], rows: Sequence[EncodedConversation]) -> Tensor:
        """Return the states [N, T, D] of finished conversations about the same images."""
        assert self.tokenizer.pad_token_id is not None
        tokens = pad_rows(rows, int(self.tokenizer.pad_token_id))
        return self.model.hidden_states(
            tokens.input_ids.to(self.device),
            tokens.attention_mask.to(self.device),
            self._shown(images, [row.encoded for row in rows]),
            self._image_tokens(images),
        )

    def slots(self, images: Sequence[np.ndarray]) -> list[ImageSlot]:
        """Return what takes the place of each image in a conversation's tokens."""
        if self.transform.stock is None:
            return [self.encoder.slot()] * len(images)
        return [self.slot_of(entry) for entry in self.images.find_all(images)] if images else []

    def slot_of(self, image: EncodedImage) -> ImageSlot:
        """Return what takes the place of an image in a conversation's tokens."""
        return image.inputs.slot or self.encoder.slot()

    def _decode_masks(
        self, images: Sequence[np.ndarray], hidden_states: Tensor | None, targets: Sequence[Target]
    ) -> list[PredictedMasks]:
        """Return each image's masks of the targets of a single conversation with these states."""
        found = [PredictedMasks(np.zeros((0, *image.shape[:2]), dtype=bool), ()) for image in images]
        if not targets or hidden_states is None:
            return found
        entries = self.images.find_all(images)
        image_of = torch.tensor([target.image for target in targets], device=self.device)
        low_logits = self.low_mask_logits(entries, hidden_states, [target.tokens for target in targets], image_of)
        for number in sorted({target.image for target in targets}):
            own = low_logits[image_of == number]
            found[number] = predict_masks(own, entries[number].inputs.frame, self.transform.sam_size)
        return found

    def mask_logits(self, image: np.ndarray, hidden_states: Tensor, spans: Sequence[TokenSpan]) -> Tensor:
        """Return mask logits [S, H, W], original-image pixels, of spans of a single conversation with these states."""
        image_of = torch.zeros(len(spans), dtype=torch.long, device=self.device)
        entry = self.images.find(image)
        low_logits = self.low_mask_logits([entry], hidden_states, spans, image_of)
        return resize_to_original(low_logits, entry.inputs.frame, self.transform.sam_size)

    def low_mask_logits(
        self, entries: Sequence[EncodedImage], hidden_states: Tensor, spans: Sequence[TokenSpan], image_of: Tensor
    ) -> Tensor:
        """Return mask logits [S, 4h, 4w], in the frame of SAM's padded input, of spans of a single conversation.

        Args:
            entries: the conversation's images.
            hidden_states: [1, T, D], its states.
            spans: S token ranges, in reading order.
            image_of: [S], number of each span's image.

        Raises:
            ModelUnavailable: some are NaN or infinite.
        """
        bounds = torch.tensor([(span.start, span.end) for span in spans], device=self.device)
        span_bounds = SpanBounds(torch.zeros_like(image_of), bounds[:, 0], bounds[:, 1], image_of)
        used = sorted(set(image_of.tolist()))  # SAM does not encode an image without a target
        embeddings = self.images.embeddings([entries[number] for number in used])
        rows = torch.searchsorted(torch.tensor(used, device=self.device), image_of)
        low_logits = self.model.decode_masks(hidden_states, replace(span_bounds, image=rows), embeddings)
        require_finite(low_logits, "mask logits", self.model.weights_name)
        return low_logits

    def _score(self, row: EncodedConversation, states: Tensor) -> ChoiceScore:
        """Sum log-probabilities of one row; image patches are not predicted."""
        answer = row.answers[-1]
        positions = [i for i in range(1, len(row.labels)) if not row.encoded.is_patch(i)]
        index = torch.tensor(positions, device=states.device)
        targets = torch.tensor(row.encoded.input_ids, device=states.device)[index]
        logits = self.model.token_logits(states[index - 1]).float()  # [text tokens, V]
        log_probs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].cpu().double()  # MPS has no float64
        require_no_nan(log_probs, self.model.weights_name)
        in_answer = ((index >= answer.start) & (index < answer.end)).cpu()
        return ChoiceScore(
            float(log_probs[in_answer].sum()), int(in_answer.sum()), float(log_probs.sum()), len(positions)
        )

    def _shown(self, images: Sequence[np.ndarray], rows: Sequence[EncodedText]) -> ConversationImages:
        positions = pad_positions(rows)
        if not images:
            shown = ConversationImages.no_image(len(rows), self.device)
            return replace(shown, positions=None if positions is None else positions.to(self.device))
        numbers = torch.arange(len(images), device=self.device).expand(len(rows), -1)
        ends = torch.tensor([row.prompt_end for row in rows], device=self.device)
        lengths = tuple(slot.num_tokens for slot in self.slots(images))
        return ConversationImages(numbers, lengths, ends, positions).to(self.device)

    def _image_tokens(self, images: Sequence[np.ndarray]) -> ImageTokens:
        """Return the backbone's tokens of the images; those of no image without one."""
        return self.images.tokens(self.images.find_all(images)) if images else self.model.backbone.no_images()


def _is_reported(count: int) -> bool:
    """Return whether a count is 1, 10, 100, ..."""
    return set(str(count)[1:]) <= {"0"} and str(count)[0] == "1"
