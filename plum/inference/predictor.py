"""Inference: image and text in; text, spans and masks out (paper, section 4). Demo, chat and evaluation use this."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from partonomy.models.contract import Turn
from partonomy.models.finite_values import require_finite, require_no_nan
from partonomy.structures import CharSpan, ChoiceScore
from plum.config import ModelConfig
from plum.data.collate import pad_rows
from plum.data.sam_feature_cache import SamFeatureCache
from plum.inference.answer_encoder import AnswerEncoder, num_new_tokens
from plum.inference.image_store import ImageStore
from plum.inference.predicted_masks import PredictedMasks, predict_masks
from plum.inputs.bio_labels import TokenSpan
from plum.inputs.encoding import ConversationEncoder, EncodedConversation, EncodedText
from plum.inputs.image_transforms import build_image_transform
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.mask_resize import resize_to_original
from plum.models.systems.registry import build_notation
from plum.structures import ConversationImages, ImageTokens, SpanBounds

MAX_NEW_TOKENS = 256


FinishReason = Literal["stop", "length"]
"""Why an answer ends: the model ended it, or the limit on new tokens did (the names of other tools)."""


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer that the model wrote, the number of its tokens, and why it ends."""

    text: str
    num_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class Prediction:
    """The model's own answer, or a given one.

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
        language, vision = config.llava.language, config.llava.vision
        self.encoder = ConversationEncoder(
            tokenizer,
            config.llava.conversation,
            vision.num_image_tokens,
            language.max_positions - vision.num_image_tokens,
        )
        self.notation = build_notation(config)
        self.answers = AnswerEncoder(self.encoder, self.notation)
        self.transform = build_image_transform(config)
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
        written = self.write(image, turns, max_new_tokens)
        text = written.text
        if not text:
            return Prediction("", (), (), _no_masks(image), (), written.finish_reason, written.num_tokens)
        row = self.answers.own(_count(image), turns, text)
        hidden_states = self._hidden_states(image, [row])
        targets = []
        if image is not None:
            targets = self.notation.read(row, hidden_states, self.model, self._image_tokens(image).values)
        found = self._decode_masks(image, hidden_states, [target.tokens for target in targets])
        return Prediction(
            text,
            tuple(target.chars for target in targets),
            tuple(target.confidence for target in targets),
            found.masks,
            found.confidences,
            written.finish_reason,
            written.num_tokens,
        )

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
        prompt = self.answers.prompt(turns, num_images=_count(image))
        input_ids = torch.tensor([prompt.input_ids], device=self.device)
        new_ids = self.model.generate_text(
            input_ids,
            torch.ones_like(input_ids),
            self._shown(image, [prompt]),
            self._image_tokens(image),
            self.limit_new_tokens(prompt, max_new_tokens),
        )
        return self.read_written(prompt, turns, new_ids[0], max_new_tokens)

    def limit_new_tokens(self, prompt: EncodedText, max_new_tokens: int) -> int:
        """Return the maximum length of an answer, given the room that its prompt leaves in the model's context.

        Raises:
            ValueError: `max_new_tokens` is not positive.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; an answer needs at least 1")
        assert self.encoder.max_text_tokens is not None
        return min(max_new_tokens, num_new_tokens(prompt, self.encoder.max_text_tokens))

    def read_written(
        self, prompt: EncodedText, turns: Sequence[Turn], token_ids: Tensor, max_new_tokens: int
    ) -> WrittenAnswer:
        """Read an answer from its token ids [t], with the end token and padding after it.

        Args:
            prompt: the prompt that it continues.
            turns: the conversation of the prompt.
            token_ids: tokens beyond the limit are cut off.
            max_new_tokens: see `write`.
        """
        ids = token_ids[: self.limit_new_tokens(prompt, max_new_tokens)]
        ends = (ids == self.model.llava.special_tokens.eos).nonzero()
        num_tokens = int(ends[0]) + 1 if len(ends) else len(ids)
        text = self.read_answer(ids)
        fitting = self.answers.cut_to_fit(len(prompt.images), turns, text)
        is_whole = len(ends) > 0 and fitting == text
        return WrittenAnswer(fitting, num_tokens, "stop" if is_whole else "length")

    def read_answer(self, token_ids: Tensor) -> str:
        """Decode an answer's token ids [t] to text as the model writes it, marks included."""
        return self.notation.tidy(str(self.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True)).strip())

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
        forced = self.answers.forced(turns, answer, spans)
        found = self._decode_masks(image, self._hidden_states(image, [forced.row]), forced.spans)
        return found.take(forced.places)

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
        rows = [
            self.answers.given(_count(image), turns, choice, f"choice {i}", phrases[i] if phrases else ())
            for i, choice in enumerate(choices)
        ]
        hidden_states = self._hidden_states(image, rows)
        return hidden_states, [self._score(row, states) for row, states in zip(rows, hidden_states, strict=True)]

    def _hidden_states(self, image: np.ndarray | None, rows: Sequence[EncodedConversation]) -> Tensor:
        """Return the states [N, T, D] of finished conversations about one image."""
        assert self.tokenizer.pad_token_id is not None
        tokens = pad_rows(rows, int(self.tokenizer.pad_token_id))
        return self.model.hidden_states(
            tokens.input_ids.to(self.device),
            tokens.attention_mask.to(self.device),
            self._shown(image, [row.encoded for row in rows]),
            self._image_tokens(image),
        )

    def _decode_masks(
        self, image: np.ndarray | None, hidden_states: Tensor, spans: Sequence[TokenSpan]
    ) -> PredictedMasks:
        """Return the masks of token spans of a single conversation with these states."""
        if image is None or not spans:
            return PredictedMasks(_no_masks(image), ())
        low_logits = self.low_mask_logits(image, hidden_states, spans)
        return predict_masks(low_logits, self.images.find(image).inputs.frame, self.transform.sam_size)

    def mask_logits(self, image: np.ndarray, hidden_states: Tensor, spans: Sequence[TokenSpan]) -> Tensor:
        """Return mask logits [S, H, W], original-image pixels, of spans of a single conversation with these states."""
        low_logits = self.low_mask_logits(image, hidden_states, spans)
        return resize_to_original(low_logits, self.images.find(image).inputs.frame, self.transform.sam_size)

    def low_mask_logits(self, image: np.ndarray, hidden_states: Tensor, spans: Sequence[TokenSpan]) -> Tensor:
        """Return mask logits [S, 4h, 4w] in the frame of SAM's padded input; see `mask_logits`.

        Raises:
            ModelUnavailable: some are NaN or infinite.
        """
        bounds = torch.tensor([(span.start, span.end) for span in spans], device=self.device)
        first = torch.zeros_like(bounds[:, 0])
        span_bounds = SpanBounds(first, bounds[:, 0], bounds[:, 1], first)
        entry = self.images.find(image)
        embeddings = self.images.embeddings([entry])
        low_logits = self.model.decode_masks(hidden_states, span_bounds, embeddings)
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

    def _shown(self, image: np.ndarray | None, rows: Sequence[EncodedText]) -> ConversationImages:
        if image is None:
            return ConversationImages.no_image(len(rows), self.device)
        ends = [row.prompt_end for row in rows]
        return ConversationImages.of_one_image(len(rows), self.encoder.num_image_tokens, self.device, ends)

    def _image_tokens(self, image: np.ndarray | None) -> ImageTokens:
        """Return LLaVA's tokens of the image; those of no image without one."""
        if image is not None:
            return self.images.tokens([self.images.find(image)])
        size, grid = self.transform.clip_size, self.transform.sam_size
        nothing = torch.zeros(0, 3, size, size, device=self.device)
        return self.model.encode_images(nothing, torch.zeros(0, 3, grid, grid, device=self.device)).tokens


def _count(image: np.ndarray | None) -> int:
    return int(image is not None)


def _no_masks(image: np.ndarray | None) -> np.ndarray:
    height, width = (0, 0) if image is None else image.shape[:2]
    return np.zeros((0, height, width), dtype=bool)
