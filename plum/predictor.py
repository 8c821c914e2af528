"""Inference: image and text in; text, spans and masks out (paper, section 4). Demo, chat and evaluation use this."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from partonomy.evaluation.model_api import ChoiceScore, Role, Turn
from partonomy.structures import CharSpan
from plum.config import ModelConfig
from plum.data.bio_labels import TokenSpan, decode_tags, phrase_tokens
from plum.data.collate import pad_rows
from plum.data.encoding import ConversationEncoder, EncodedConversation, token_chars
from plum.data.image_transforms import ImageInputs, build_image_transform
from plum.models.grounded_lmm import GroundedLMM
from plum.models.mask_resize import resize_to_original
from plum.structures import TEXT_ONLY, Exchange, SpanBounds

MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class PredictedMasks:
    """Masks bool (S, H, W), original-image pixels; per mask the mean probability inside it (0 for an empty one)."""

    masks: np.ndarray
    confidences: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The model's own answer.

    spans: character ranges of `text`, in reading order
    tag_confidences: per span, the mean probability of its tags
    masks, mask_confidences: per span, see `PredictedMasks`
    """

    text: str
    spans: tuple[CharSpan, ...]
    tag_confidences: tuple[float, ...]
    masks: np.ndarray
    mask_confidences: tuple[float, ...]


@dataclass
class _EncodedImage:
    """The last image: inputs of both towers and, once needed, what the towers make of them."""

    digest: str
    inputs: ImageInputs
    tokens: Tensor | None = field(default=None)  # [1, image tokens, D]
    embeddings: Tensor | None = field(default=None)  # [1, C, h, w]


class Predictor:
    """One model behind three questions: what does it say, where is that, how likely is this answer.

    The image of the last call stays encoded, so that several questions about one image pay for it once. Turns alternate
    user, assistant, user, ...; earlier answers are read as text, their masks do not enter the feedback loop of the new
    answer.

    Args:
        model: in any dtype, on any device; switched to evaluation mode.
        tokenizer: the one it was trained with.
        config: its architecture.
    """

    def __init__(self, model: GroundedLMM, tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        language, vision = config.llava.language, config.llava.vision
        self.encoder = ConversationEncoder(
            tokenizer,
            config.llava.conversation,
            vision.num_image_tokens,
            language.max_positions - vision.num_image_tokens,
        )
        self.transform = build_image_transform(config)
        self._last_image: _EncodedImage | None = None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def generate(
        self, image: np.ndarray | None, turns: Sequence[Turn], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> Prediction:
        """Answer greedily, tag the answer, segment what is tagged.

        The states of tags and masks come from one teacher-forced pass over prompt and answer: during generation the
        last token has no state of its own.

        Args:
            image: uint8 RGB (H, W, 3), or None for a conversation without one (its answers then have no masks).
            turns: the conversation up to the user's last words.
            max_new_tokens: longest answer.
        """
        text = self.generate_text(image, turns, max_new_tokens)
        if not text:
            return Prediction("", (), (), _no_masks(image), ())
        row = self._encode(image, turns, text, "generated answer")
        hidden_states = self._hidden_states(image, [row])
        tagged = self._tagged_spans(row, hidden_states) if image is not None else []
        found = self._decode_masks(image, hidden_states, [span for span, _, _ in tagged])
        return Prediction(
            text,
            tuple(chars for _, chars, _ in tagged),
            tuple(confidence for _, _, confidence in tagged),
            found.masks,
            found.confidences,
        )

    @torch.inference_mode()
    def generate_text(
        self, image: np.ndarray | None, turns: Sequence[Turn], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> str:
        """Answer greedily, in text alone; the empty text when the model stops at once."""
        history, question = split_turns(turns)
        prompt = self.encoder.encode_prompt(history, question, has_image=image is not None)
        input_ids = torch.tensor([prompt.input_ids], device=self.device)
        new_ids = self.model.generate_text(
            input_ids,
            torch.ones_like(input_ids),
            self._image_index(image, 1),
            self._image_tokens(image),
            max_new_tokens,
        )
        return str(self.tokenizer.decode(new_ids[0].tolist(), skip_special_tokens=True)).strip()

    @torch.inference_mode()
    def segment(
        self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]
    ) -> PredictedMasks:
        """Segment phrases of a given answer; the tagger is not asked.

        Args:
            image: uint8 RGB (H, W, 3).
            turns: the conversation up to the user's last words.
            answer: what the assistant is taken to have said.
            spans: character ranges of the answer, in any order; they may overlap.

        Returns:
            One mask per span, in the order given. Masks are predicted in reading order, each seeing the earlier ones.

        Raises:
            ValueError: a span lies outside of the answer or falls on no token.
        """
        row = self._encode(image, turns, answer, "given answer")
        start = row.rendered.answers[-1].start
        token_spans = []
        for span in spans:
            if not 0 <= span.start < span.end <= len(answer):
                raise ValueError(f"the span {span.start}:{span.end} lies outside of the answer {answer!r}")
            token_spans.append(phrase_tokens(row.encoded.trimmed, CharSpan(span.start + start, span.end + start)))
        order = sorted(range(len(spans)), key=lambda i: (spans[i].start, spans[i].end))
        found = self._decode_masks(image, self._hidden_states(image, [row]), [token_spans[i] for i in order])
        place = np.argsort(np.asarray(order, dtype=np.int64))
        return PredictedMasks(found.masks[place], tuple(found.confidences[i] for i in place))

    @torch.inference_mode()
    def score_choices(
        self, image: np.ndarray | None, turns: Sequence[Turn], choices: Sequence[str]
    ) -> list[ChoiceScore]:
        """Score answers as one batch; SAM is not asked.

        Args:
            image: uint8 RGB (H, W, 3) or None.
            turns: the conversation up to the user's last words.
            choices: one or more answers to it.

        Returns:
            Per choice the summed log-probability (nats) of its answer tokens, end token included, and of all text
            tokens of the conversation but the first, which nothing precedes; with the numbers of tokens.
        """
        rows = [self._encode(image, turns, choice, f"choice {i}") for i, choice in enumerate(choices)]
        hidden_states = self._hidden_states(image, rows)
        return [self._score(row, states) for row, states in zip(rows, hidden_states, strict=True)]

    def _encode(self, image: np.ndarray | None, turns: Sequence[Turn], answer: str, name: str) -> EncodedConversation:
        history, question = split_turns(turns)
        return self.encoder.encode([*history, Exchange(question, answer)], image is not None, name)

    def _hidden_states(self, image: np.ndarray | None, rows: Sequence[EncodedConversation]) -> Tensor:
        """States [N, T, D] of finished conversations about one image."""
        assert self.tokenizer.pad_token_id is not None
        tokens = pad_rows(rows, int(self.tokenizer.pad_token_id))
        return self.model.hidden_states(
            tokens.input_ids.to(self.device),
            tokens.attention_mask.to(self.device),
            self._image_index(image, len(rows)),
            self._image_tokens(image),
        )

    def _tagged_spans(self, row: EncodedConversation, hidden_states: Tensor) -> list[tuple[TokenSpan, CharSpan, float]]:
        """Tagged phrases of the last answer: tokens, characters of the answer, mean tag probability.

        The end token names nothing and is left out, and so is a span of white space alone.
        """
        attention_mask = torch.ones(hidden_states.shape[:2], dtype=torch.long, device=hidden_states.device)
        probabilities = self.model.tag(hidden_states, attention_mask)[0].float().softmax(-1)
        tokens, chars = row.answers[-1], row.rendered.answers[-1]
        last = max(i for i in range(tokens.start, tokens.end) if row.encoded.offsets[i][0] < chars.end)
        confidence, tags = probabilities[tokens.start : last + 1].cpu().max(-1)
        tagged = []
        for span in decode_tags(tags.tolist()):
            found = TokenSpan(span.start + tokens.start, span.end + tokens.start)
            visible = token_chars(row.encoded, found)
            if visible.end > visible.start:
                answer_chars = CharSpan(visible.start - chars.start, visible.end - chars.start)
                tagged.append((found, answer_chars, float(confidence[span.start : span.end].mean())))
        return tagged

    def _decode_masks(
        self, image: np.ndarray | None, hidden_states: Tensor, spans: Sequence[TokenSpan]
    ) -> PredictedMasks:
        """Masks of token spans of the one conversation whose states these are."""
        if image is None or not spans:
            return PredictedMasks(_no_masks(image), ())
        bounds = torch.tensor([(span.start, span.end) for span in spans], device=self.device)
        span_bounds = SpanBounds(torch.zeros_like(bounds[:, 0]), bounds[:, 0], bounds[:, 1])
        embeddings = self._image_embeddings(image)
        low_logits = self.model.decode_masks(hidden_states, span_bounds, embeddings, self._image_index(image, 1))
        frame = self._encoded_image(image).inputs.frame
        logits = resize_to_original(low_logits, frame, self.transform.sam_size)  # [S, H, W]
        masks = logits > 0
        inside = (logits.sigmoid() * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
        return PredictedMasks(masks.cpu().numpy(), tuple(inside.cpu().tolist()))

    def _score(self, row: EncodedConversation, states: Tensor) -> ChoiceScore:
        """Sum log-probabilities of one row; image patches are predicted by nobody."""
        image, answer = row.encoded.image_tokens, row.answers[-1]
        patches = range(image.start, image.end) if image else range(0)
        positions = [i for i in range(1, len(row.labels)) if i not in patches]
        index = torch.tensor(positions, device=states.device)
        targets = torch.tensor(row.encoded.input_ids, device=states.device)[index]
        logits = self.model.token_logits(states[index - 1]).float()  # [text tokens, V]
        log_probs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].double()
        in_answer = (index >= answer.start) & (index < answer.end)
        return ChoiceScore(
            float(log_probs[in_answer].sum()), int(in_answer.sum()), float(log_probs.sum()), len(positions)
        )

    def _image_index(self, image: np.ndarray | None, num_rows: int) -> Tensor:
        return torch.full((num_rows,), TEXT_ONLY if image is None else 0, device=self.device)

    def _encoded_image(self, image: np.ndarray) -> _EncodedImage:
        """The image's entry in the cache of one; recognised by its content, since callers reuse arrays."""
        digest = hashlib.sha1(image.tobytes(), usedforsecurity=False).hexdigest() + str(image.shape)
        if self._last_image is None or self._last_image.digest != digest:
            self._last_image = _EncodedImage(digest, self.transform(image))
        return self._last_image

    def _image_tokens(self, image: np.ndarray | None) -> Tensor:
        """CLIP's tokens [1, image tokens, D]; [0, ...] without an image."""
        if image is None:
            size, grid = self.transform.clip_size, self.transform.sam_size
            nothing = torch.zeros(0, 3, size, size, device=self.device)
            return self.model.encode_images(nothing, torch.zeros(0, 3, grid, grid, device=self.device)).tokens
        entry = self._encoded_image(image)
        if entry.tokens is None:
            entry.tokens = self.model.llava.encode_images(entry.inputs.clip_pixels[None].to(self.device))
        return entry.tokens

    def _image_embeddings(self, image: np.ndarray) -> Tensor:
        """SAM's embedding [1, C, h, w]."""
        entry = self._encoded_image(image)
        if entry.embeddings is None:
            entry.embeddings = self.model.sam.encode_images(entry.inputs.sam_pixels[None].to(self.device))
        return entry.embeddings


def split_turns(turns: Sequence[Turn]) -> tuple[tuple[Exchange, ...], str]:
    """Turns to finished exchanges and the open question.

    Raises:
        ValueError: turns do not alternate user, assistant, ..., user.
    """
    expected = [Role.USER if i % 2 == 0 else Role.ASSISTANT for i in range(len(turns))]
    if len(turns) % 2 == 0 or [turn.role for turn in turns] != expected:
        roles = ", ".join(str(turn.role) for turn in turns)
        raise ValueError(f"turns must alternate user, assistant, ... and end with the user's, got: {roles or 'none'}")
    texts = [turn.text for turn in turns]
    return tuple(map(Exchange, texts[:-1:2], texts[1::2])), texts[-1]


def _no_masks(image: np.ndarray | None) -> np.ndarray:
    height, width = (0, 0) if image is None else image.shape[:2]
    return np.zeros((0, height, width), dtype=bool)
