"""Inputs of an image-text-to-text model of transformers: its processor, chat template and image slots.

Everything comes from the model's own files, which a saved model keeps in its configuration (`HfBackboneConfig`) and its
tokenizer, so that another folder is never needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from partonomy.models.contract import Role, Turn
from partonomy.models.processors import assemble_processor
from partonomy.models.transformers_model import ChatPrompt
from partonomy.structures import CharSpan
from plum.config import HfBackboneConfig, stock_hf_config
from plum.inputs.conversation_format import RenderedConversation, check_text, shift_spans
from plum.inputs.encoding import ImageSlot
from plum.structures import Exchange

TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""What processors return about the text; the rest is about the image."""


@dataclass(frozen=True)
class StockInputs:
    """Prepares texts and images as a stock model's own processor does; picklable for loader processes.

    Args:
        config: the model.
        tokenizer: the model's; holds its chat template.
    """

    config: HfBackboneConfig
    tokenizer: PreTrainedTokenizerBase

    def __getstate__(self) -> dict[str, object]:
        return {"config": self.config, "tokenizer": self.tokenizer}  # a processor is built again where it is needed

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)

    @cached_property
    def processor(self) -> ProcessorMixin:
        """The processor.

        Raises:
            ValueError: transformers has no processor for the configuration.
        """
        return assemble_processor(
            stock_hf_config(self.config), self.tokenizer, dict(self.config.image_processor), dict(self.config.processor)
        )

    @cached_property
    def prompt(self) -> ChatPrompt:
        """The chat template.

        Raises:
            ValueError: the tokenizer has no chat template, or no token ends an answer.
        """
        return ChatPrompt(self.processor, self.config.end_tokens)

    @cached_property
    def image_id(self) -> int:
        """Id of the token that stands for an image in input_ids."""
        return image_token_id(self.config)

    @cached_property
    def placeholder(self) -> str:
        """Token that stands for an image in a rendered text, before it is expanded."""
        return str(self.tokenizer.convert_ids_to_tokens(self.image_id))

    @cached_property
    def _mark(self) -> str:
        """Token that the chat template writes for an image; most templates write `placeholder`."""
        return str(getattr(self.processor, "image_token", self.placeholder))

    @cached_property
    def _marked(self) -> str:
        """The text that a processor puts in the place of `_mark`, its run of image tokens as one `placeholder`.

        Gemma's has line breaks, which merge with those of the template, so that they belong to the rendered text.

        Raises:
            ValueError: an image is also cut into crops, so that its text depends on its shape.
        """
        if self._mark == self.placeholder:
            return self.placeholder
        if self.config.image_processor.get("do_pan_and_scan"):
            raise ValueError(
                f"the image processor of {self.config.model_type} cuts images into crops (do_pan_and_scan); set it to "
                "false in preprocessor_config.json"
            )
        start, *_, end = str(vars(self.processor)["full_image_sequence"]).split(self.placeholder)
        return start + self.placeholder + end

    @cached_property
    def has_rectangles(self) -> bool:
        """Whether an image takes up a rectangle of positions (M-RoPE)."""
        decoder = stock_hf_config(self.config).get_text_config(decoder=True)
        return "mrope_section" in (decoder.rope_parameters or {})

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """Tokens that no question or answer may contain: those that the tokenizer calls special."""
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        special = [*self.tokenizer.all_special_tokens, *added, self.placeholder, *self.config.end_tokens]
        return (*dict.fromkeys(special),)

    def read_image(self, image: np.ndarray) -> tuple[dict[str, Tensor], ImageSlot]:
        """Prepare an image.

        Args:
            image: uint8 RGB (H, W, 3).

        Returns:
            The arguments of the model's image encoder, and what takes the place of the image's placeholder.
        """
        found = self.processor(
            text=[self._mark], images=[[Image.fromarray(image)]], return_tensors="pt", add_special_tokens=False
        )
        ids = tuple(found["input_ids"][0].tolist())
        if self._mark != self.placeholder:  # the rendered text has what surrounds the image
            ids = (self.image_id,) * ids.count(self.image_id)
        pixels = {name: tensor for name, tensor in found.items() if name not in TEXT_INPUTS}
        grid = None
        if self.has_rectangles:
            _, rows, columns = found["image_grid_thw"][0].tolist()
            merged = self.processor.image_processor.merge_size
            grid = (rows // merged, columns // merged)
        return pixels, ImageSlot(ids, ids.count(self.image_id), grid)

    def adds_begin_token(self, text: str) -> bool:
        """Return whether the tokenizer has to put its begin token before a rendered text."""
        return self.prompt.adds_special_tokens(text)

    def render_conversation(self, exchanges: Sequence[Exchange], num_images: int = 1) -> RenderedConversation:
        """Render finished exchanges; see `ConversationFormat`.

        Raises:
            ValueError: see there, or the chat template changes what it has written earlier (templates that drop earlier
                reasoning).
        """
        if not exchanges:
            raise ValueError("a conversation needs at least one exchange")
        turns: list[Turn] = []
        prompt_ends, answers, answer_ends, spans = [], [], [], []
        text = ""
        for exchange in exchanges:
            check_text("answer", exchange.answer, self.control_tokens)
            opened = self._open(text, turns, exchange.question, num_images)
            turns.append(Turn(Role.USER, exchange.question))
            written = self._expand_marks(self.prompt.render_answer(turns, exchange.answer, num_images))
            # What the template writes between its prompt and the answer, the answer and its end token.
            own = written[len(self._expand_marks(self.prompt.render(turns, num_images))) :]
            text = opened + own
            start = len(opened) + own.index(exchange.answer)
            prompt_ends.append(len(opened))
            answers.append(CharSpan(start, start + len(exchange.answer)))
            answer_ends.append(len(text))
            spans.append(shift_spans(exchange, start))
            turns.append(Turn(Role.ASSISTANT, exchange.answer))
        return RenderedConversation(text, tuple(prompt_ends), tuple(answers), tuple(answer_ends), tuple(spans))

    def render_prompt(self, history: Sequence[Exchange], question: str, num_images: int = 1) -> str:
        """Render a conversation up to an open question; see `ConversationFormat`."""
        earlier = self.render_conversation(history, num_images).text if history else ""
        turns = [
            turn
            for exchange in history
            for turn in (Turn(Role.USER, exchange.question), Turn(Role.ASSISTANT, exchange.answer))
        ]
        return self._open(earlier, turns, question, num_images)

    def _expand_marks(self, text: str) -> str:
        return text.replace(self._mark, self._marked)

    def _open(self, text: str, earlier: Sequence[Turn], question: str, num_images: int) -> str:
        """Continue a conversation's text, each answer with its end token, up to an open question.

        Some templates (LLaVA-1.5's) write no end token after an earlier answer; it stays in the text.
        """
        check_text("question", question, self.control_tokens)
        prompt = self._expand_marks(self.prompt.render([*earlier, Turn(Role.USER, question)], num_images))
        bare = next((text.removesuffix(end) for end in self.config.end_tokens if text.endswith(end)), text)
        for rendered in (text, bare):
            if prompt.startswith(rendered):
                return text + prompt[len(rendered) :]
        raise ValueError(
            "the model's chat template writes earlier turns differently once a later one follows, so that a "
            "conversation cannot continue its own prompt; use a template without reasoning blocks"
        )


def image_token_id(config: HfBackboneConfig) -> int:
    """Return the id of a stock model's image placeholder.

    Raises:
        ValueError: its configuration does not name one.
    """
    stock = stock_hf_config(config)
    found = getattr(stock, "image_token_id", None)
    if not isinstance(found, int):
        raise ValueError(f"model.hf.stock: {config.model_type} names no image_token_id; its images cannot be placed")
    return found
