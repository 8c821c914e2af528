"""PLUM's target notation: plain text, in which a tagger marks the words to segment (paper, section 4)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from partonomy.models.finite_values import require_finite
from partonomy.structures import CharSpan
from plum.inputs.bio_labels import TokenSpan, decode_tags
from plum.inputs.conversation import name_images, named_images
from plum.inputs.encoding import EncodedConversation, token_chars
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.span_tagger import predict_classes
from plum.models.systems.target_notation import Target, WrittenExchange
from plum.structures import ConversationImages, Exchange


@dataclass(frozen=True)
class TaggedPhrases:
    """Answers are plain words; each phrase is a target.

    If a conversation shows several images, the names of a phrase's images follow it: "the wheel (IMAGE1) (IMAGE2)".
    """

    protocol_note: str = ""
    has_mask_per_phrase: bool = True
    marks: tuple[str, ...] = ()

    def check_words(self, text: str) -> None:
        """Accept any text: nothing is reserved."""

    def write(self, exchange: Exchange) -> WrittenExchange:
        """Return the exchange with the names of its targets' images, if it has any.

        Raises:
            ValueError: the answer has places for marks, which this system does not write.
        """
        if exchange.is_marked:
            raise ValueError(f"the answer {exchange.answer!r} has places for marks, which tagged phrases do not write")
        targets = tuple(range(len(exchange.spans)))
        return WrittenExchange(_with_names(exchange) if exchange.images else exchange, targets)

    def tidy(self, answer: str) -> str:
        """Return the answer as it is."""
        return answer

    def words(self, answer: str) -> str:
        """Return the answer as it is."""
        return answer

    def read(
        self, row: EncodedConversation, hidden_states: Tensor, model: GroundedLMM, image_tokens: Tensor
    ) -> list[Target]:
        """Find the tagged phrases of the last answer; confidence is the mean probability of a phrase's tags.

        The end token is tagged, because a CRF's sequences end with it in training, but it is in no phrase. Spans of
        white space alone are ignored. A phrase is a target in each image that is named after it, in the last image if
        none is, and in none that the conversation does not show.
        """
        attention_mask = torch.ones(hidden_states.shape[:2], dtype=torch.long, device=hidden_states.device)
        tokens, chars = row.answers[-1], row.rendered.answers[-1]
        last = max(i for i in range(tokens.start, tokens.end) if row.encoded.offsets[i][0] < chars.end)
        is_answer = torch.zeros_like(attention_mask, dtype=torch.bool)
        is_answer[:, tokens.start : tokens.end] = True
        shown = ConversationImages.of_one_image(1, image_tokens.shape[1], hidden_states.device)
        tag_logits = model.tag(hidden_states, attention_mask, is_answer, shown, image_tokens)
        assert tag_logits is not None, "tagged phrases need a tagger"
        assert model.config.tagger is not None
        require_finite(tag_logits, "tag logits", model.weights_name)
        predicted = predict_classes(tag_logits, model.tag_chain(is_answer))
        confidence = predicted.probabilities.cpu()
        targets = []
        words = predicted.classes[: last + 1 - tokens.start]
        for span in decode_tags(words.tolist(), model.config.tagger.scheme):
            found = TokenSpan(span.start + tokens.start, span.end + tokens.start)
            visible = token_chars(row.encoded, found)
            if visible.end > visible.start:
                answer_chars = CharSpan(visible.start - chars.start, visible.end - chars.start)
                probability = float(confidence[span.start : span.end].mean())
                images = images_after(row, visible.end)
                targets += [Target(found, answer_chars, probability, image) for image in images]
        return targets


def images_after(row: EncodedConversation, end: int) -> tuple[int, ...]:
    """Return the images that a phrase of a conversation's last answer is in.

    Args:
        row: the conversation.
        end: end of the phrase, a character of the conversation's text.

    Returns:
        Numbers from 0 of the images that are named after the phrase and that the conversation shows; the last image if
        none is named.
    """
    num_images = len(row.encoded.images)
    named = named_images(row.encoded.text[end : row.rendered.answers[-1].end])
    return tuple(dict.fromkeys(number for number in named if 0 <= number < num_images)) if named else (num_images - 1,)


def _with_names(exchange: Exchange) -> Exchange:
    """Write the names of its images after each phrase."""
    images_at: dict[int, list[int]] = {}  # per end of phrases, which may overlap
    for span, image in zip(exchange.spans, exchange.images, strict=True):
        images = images_at.setdefault(span.end, [])
        if image not in images:
            images.append(image)
    names = {end: name_images(images) for end, images in images_at.items()}
    answer, copied = "", 0
    for end in sorted(names):
        answer += exchange.answer[copied:end] + names[end]
        copied = end

    def moved(span: CharSpan) -> CharSpan:
        before_start = sum(len(name) for end, name in names.items() if end <= span.start)
        before_end = sum(len(name) for end, name in names.items() if end < span.end)
        return CharSpan(span.start + before_start, span.end + before_end)

    return replace(exchange, answer=answer + exchange.answer[copied:], spans=tuple(map(moved, exchange.spans)))
