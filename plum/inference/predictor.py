"""Inference: image and text in; text, spans and masks out (paper, section 4). Demo, chat and evaluation use this."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from partonomy.models.contract import Turn
from partonomy.structures import CharSpan, ChoiceScore
from plum.config import ModelConfig
from plum.data.collate import pad_rows
from plum.data.sam_feature_cache import SamFeatureCache
from plum.inference.answer_encoder import AnswerEncoder
from plum.inference.image_store import ImageStore
from plum.inputs.bio_labels import TokenSpan
from plum.inputs.encoding import ConversationEncoder, EncodedConversation
from plum.inputs.image_transforms import build_image_transform
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.mask_resize import resize_to_original
from plum.models.systems.registry import build_notation
from plum.structures import ConversationImages, SpanBounds

MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class PredictedMasks:
    """Masks bool (S, H, W) in original-image pixels, and the mean probability inside each (0 for an empty mask)."""

    masks: np.ndarray
    confidences: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The model's own answer.

    spans: character ranges of `text`, in reading order
    tag_confidences: per span, the mean probability of its tags, or the probability of its [SEG]
    masks, mask_confidences: per span, see `PredictedMasks`
    """

    text: str
    spans: tuple[CharSpan, ...]
    tag_confidences: tuple[float, ...]
    masks: np.ndarray
    mask_confidences: tuple[float, ...]


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
        text = self._generate(image, turns, max_new_tokens)
        if not text:
            return Prediction("", (), (), _no_masks(image), ())
        row = self.answers.own(_count(image), turns, text)
        hidden_states = self._hidden_states(image, [row])
        targets = []
        if image is not None:
            targets = self.notation.read(row, hidden_states, self.model, self._image_tokens(image))
        found = self._decode_masks(image, hidden_states, [target.tokens for target in targets])
        return Prediction(
            text,
            tuple(target.chars for target in targets),
            tuple(target.confidence for target in targets),
            found.masks,
            found.confidences,
        )

    @torch.inference_mode()
    def generate_text(
        self, image: np.ndarray | None, turns: Sequence[Turn], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> str:
        """Answer greedily, as plain text; empty if the model stops immediately."""
        return self.notation.words(self._generate(image, turns, max_new_tokens))

    def _generate(self, image: np.ndarray | None, turns: Sequence[Turn], max_new_tokens: int) -> str:
        """Answer greedily, as the model writes it."""
        prompt = self.answers.prompt(turns, num_images=_count(image))
        input_ids = torch.tensor([prompt.input_ids], device=self.device)
        new_ids = self.model.generate_text(
            input_ids,
            torch.ones_like(input_ids),
            self._shown(image, 1),
            self._image_tokens(image),
            max_new_tokens,
        )
        return self.read_answer(new_ids[0])

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
        return PredictedMasks(found.masks[forced.places], tuple(found.confidences[i] for i in forced.places))

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
            self._shown(image, len(rows)),
            self._image_tokens(image),
        )

    def _decode_masks(
        self, image: np.ndarray | None, hidden_states: Tensor, spans: Sequence[TokenSpan]
    ) -> PredictedMasks:
        """Return the masks of token spans of a single conversation with these states."""
        if image is None or not spans:
            return PredictedMasks(_no_masks(image), ())
        return read_masks(self.mask_logits(image, hidden_states, spans))

    def mask_logits(self, image: np.ndarray, hidden_states: Tensor, spans: Sequence[TokenSpan]) -> Tensor:
        """Return mask logits [S, H, W], original-image pixels, of spans of a single conversation with these states."""
        bounds = torch.tensor([(span.start, span.end) for span in spans], device=self.device)
        first = torch.zeros_like(bounds[:, 0])
        span_bounds = SpanBounds(first, bounds[:, 0], bounds[:, 1], first)
        entry = self.images.find(image)
        embeddings = self.images.embeddings([entry])
        low_logits = self.model.decode_masks(hidden_states, span_bounds, embeddings)
        frame = entry.inputs.frame
        return resize_to_original(low_logits, frame, self.transform.sam_size)

    def _score(self, row: EncodedConversation, states: Tensor) -> ChoiceScore:
        """Sum log-probabilities of one row; image patches are not predicted."""
        answer = row.answers[-1]
        positions = [i for i in range(1, len(row.labels)) if not row.encoded.is_patch(i)]
        index = torch.tensor(positions, device=states.device)
        targets = torch.tensor(row.encoded.input_ids, device=states.device)[index]
        logits = self.model.token_logits(states[index - 1]).float()  # [text tokens, V]
        log_probs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].double()
        in_answer = (index >= answer.start) & (index < answer.end)
        return ChoiceScore(
            float(log_probs[in_answer].sum()), int(in_answer.sum()), float(log_probs.sum()), len(positions)
        )

    def _shown(self, image: np.ndarray | None, num_rows: int) -> ConversationImages:
        if image is None:
            return ConversationImages.no_image(num_rows, self.device)
        return ConversationImages.of_one_image(num_rows, self.encoder.num_image_tokens, self.device)

    def _image_tokens(self, image: np.ndarray | None) -> Tensor:
        """Return CLIP's tokens [1, image tokens, D]; [0, ...] without an image."""
        if image is not None:
            return self.images.tokens([self.images.find(image)])
        size, grid = self.transform.clip_size, self.transform.sam_size
        nothing = torch.zeros(0, 3, size, size, device=self.device)
        return self.model.encode_images(nothing, torch.zeros(0, 3, grid, grid, device=self.device)).tokens


def read_masks(logits: Tensor) -> PredictedMasks:
    """Threshold mask logits [S, H, W] and compute the masks' confidences."""
    masks = logits > 0
    inside = (logits.sigmoid() * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
    return PredictedMasks(masks.cpu().numpy(), tuple(inside.cpu().tolist()))


def _count(image: np.ndarray | None) -> int:
    return int(image is not None)


def _no_masks(image: np.ndarray | None) -> np.ndarray:
    height, width = (0, 0) if image is None else image.shape[:2]
    return np.zeros((0, height, width), dtype=bool)
