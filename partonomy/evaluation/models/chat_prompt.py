"""Conversations in a checkpoint's own chat template, and which of their tokens are text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from partonomy.evaluation.model_api import Role, Turn

Message = dict[str, Any]


@dataclass(frozen=True)
class EncodedChoice:
    """A finished conversation as text, and what it adds to the prompt's own tokens.

    Attributes:
        text: The whole conversation, end token included.
        num_shared: How many of the prompt's tokens begin the conversation: all of them, unless the tokenizer merges
            the prompt's last characters with the answer's first.
        answer_ids: The tokens after these: the answer and its end token.
    """

    text: str
    num_shared: int
    answer_ids: tuple[int, ...]


class ChatPrompt:
    """Renders conversations with one image at their beginning.

    Args:
        processor: of the checkpoint; must have a chat template.
        end_tokens: texts of the tokens that end an answer; the first is added where the template writes none.

    Raises:
        ValueError: There is no chat template, or no end token.
    """

    def __init__(self, processor: ProcessorMixin, end_tokens: Sequence[str]) -> None:
        if not getattr(processor, "chat_template", None):
            raise ValueError(
                "the checkpoint has no chat template, so that its conversation format is unknown; take the instruction-"
                "tuned variant, or put its chat_template.jinja into the folder"
            )
        if not end_tokens:
            raise ValueError("the checkpoint's tokenizer names no end token, without which no answer is complete")
        self._processor = processor
        self._tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self._end_tokens = tuple(end_tokens)

    def render(self, turns: Sequence[Turn]) -> str:
        """The conversation up to where the assistant's answer begins; one image placeholder, not yet expanded."""
        return str(self._processor.apply_chat_template(_messages(turns), add_generation_prompt=True, tokenize=False))

    def render_answer(self, turns: Sequence[Turn], answer: str) -> str:
        """The conversation with its answer and end token.

        The answer stands where the template puts it: after the prompt that generation would continue, with the
        template's own white space. What the template writes after the end token is left out, since no model is asked
        for it; templates that write no end token (LLaVA-1.5's) get the tokenizer's.

        Raises:
            ValueError: The template changes or drops the answer.
        """
        prompt = self.render(turns)
        messages = [*_messages(turns), _message(Role.ASSISTANT, answer)]
        whole = str(self._processor.apply_chat_template(messages, add_generation_prompt=False, tokenize=False))
        # Some templates add to the prompt what a finished conversation lacks (an empty reasoning block, say).
        rest = whole[len(prompt) :] if whole.startswith(prompt) else answer
        start = rest.find(answer)
        if start < 0:
            raise ValueError(f"the checkpoint's chat template does not repeat the answer {answer!r} letter for letter")
        tail = rest[start + len(answer) :]
        ends = [tail.index(token) + len(token) for token in self._end_tokens if tail.strip().startswith(token)]
        return prompt + rest[:start] + answer + (tail[: ends[0]] if ends else self._end_tokens[0])

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered text, its image placeholder not expanded."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=self.adds_special_tokens(text))["input_ids"]
        return ids

    def encode_choice(self, turns: Sequence[Turn], answer: str) -> EncodedChoice:
        """Tokens of an answer as the conversation's whole text yields them."""
        text = self.render_answer(turns, answer)
        prompt_ids, whole_ids = self.encode(self.render(turns)), self.encode(text)
        num_shared = common_prefix(prompt_ids, whole_ids)
        return EncodedChoice(text, num_shared, tuple(whole_ids[num_shared:]))

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the tokenizer has to put its begin token in front: not where the template has written it."""
        begin = self._tokenizer.bos_token
        return begin is None or not text.startswith(begin)


def text_positions(
    prompt_ids: Sequence[int], expanded_ids: Sequence[int], image_token_id: int | None
) -> tuple[int, ...]:
    """Positions of an expanded prompt that are text: neither the image's tokens nor what the processor adds to them.

    Args:
        prompt_ids: The prompt with one placeholder.
        expanded_ids: The prompt as the model reads it.
        image_token_id: The placeholder, where the configuration names it.
    """
    start = common_prefix(prompt_ids, expanded_ids)
    longest_end = min(len(prompt_ids), len(expanded_ids)) - start
    num_end = min(common_prefix(prompt_ids[::-1], expanded_ids[::-1]), longest_end)
    inside = range(start, len(expanded_ids) - num_end)
    return tuple(
        position for position, token in enumerate(expanded_ids) if position not in inside and token != image_token_id
    )


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading entries that two sequences share."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def _messages(turns: Sequence[Turn]) -> list[Message]:
    messages = [_message(turn.role, turn.text) for turn in turns]
    messages[0]["content"].insert(0, {"type": "image"})
    return messages


def _message(role: Role, text: str) -> Message:
    return {"role": role.value, "content": [{"type": "text", "text": text}]}
