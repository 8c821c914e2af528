"""Conversation templates: render exchanges as text with the character ranges of answers and phrases.

`llava_v1`, `vicuna_v1.1` and `llava_llama_2` render exactly what the public LLaVA code (haotian-liu/LLaVA,
llava/conversation.py: `conv_llava_v1`, `conv_vicuna_v1`, `conv_llava_llama_2`) feeds to its checkpoints. The
`_im_start_end` templates put `<im_start>` and `<im_end>` around the image, as in the training of checkpoints with
`mm_use_im_start_end` (LLaVA v1, LLaVA-Lightning v1) and in the released code of LISA, M2SA and PLUM, which train every
backbone, LLaMA 2 included, with `llava_v1_im_start_end`; the papers do not name a template. `plain` is the short
template of the embedded default. The `glamm` templates are GLaMM's: a sentence about the image before the question.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from partonomy.structures import CharSpan
from plum.config import Conversation
from plum.inputs.conversation_format import ConversationFormat, RenderedConversation, check_text, shift_spans
from plum.structures import Exchange

TemplateName = Conversation
"""Name of a template of LLaVA's kind; see `TEMPLATES`."""

IMAGE_TOKEN = "<image>"
IMAGE_START, IMAGE_END = "<im_start>", "<im_end>"
BEGIN_TOKEN = "<s>"
END_TOKEN = "</s>"
_IMAGE_NAMES = re.compile(r"(\s*\(IMAGE\d{1,9}\))+")
CONTROL_TOKENS = (IMAGE_TOKEN, BEGIN_TOKEN, END_TOKEN, IMAGE_START, IMAGE_END)


@dataclass(frozen=True)
class Template:
    """The strings that join exchanges into a conversation.

    A conversation is `opening` + question + `before_answer` + " " + answer + `after_answer` per exchange, with
    `reopening` in place of `opening` from the second exchange on. The first question follows `image` and a line
    break; with `has_overview`, a sentence about the image and a line break.
    """

    opening: str
    reopening: str
    before_answer: str
    after_answer: str
    image: str = IMAGE_TOKEN
    has_overview: bool = False

    @property
    def placeholder(self) -> str:
        """Token that stands for an image."""
        return IMAGE_TOKEN

    def adds_begin_token(self, text: str) -> bool:
        """Return that the tokenizer puts its begin token, if it has one, before a text."""
        return True

    def render_conversation(self, exchanges: Sequence[Exchange], num_images: int = 1) -> RenderedConversation:
        """Render finished exchanges; see `ConversationFormat`."""
        if not exchanges:
            raise ValueError("a conversation needs at least one exchange")
        text = ""
        prompt_ends, answers, answer_ends, spans = [], [], [], []
        for index, exchange in enumerate(exchanges):
            check_text("answer", exchange.answer, CONTROL_TOKENS)
            text += self._render_question(exchange.question, index, num_images)
            prompt_ends.append(len(text))
            start = len(text) + 1
            text += f" {exchange.answer}{self.after_answer}"
            answers.append(CharSpan(start, start + len(exchange.answer)))
            answer_ends.append(len(text))
            spans.append(shift_spans(exchange, start))
        return RenderedConversation(text, tuple(prompt_ends), tuple(answers), tuple(answer_ends), tuple(spans))

    def render_prompt(self, history: Sequence[Exchange], question: str, num_images: int = 1) -> str:
        """Render a conversation up to an open question; see `ConversationFormat`."""
        earlier = self.render_conversation(history, num_images).text if history else ""
        return earlier + self._render_question(question, len(history), num_images)

    def _render_question(self, question: str, index: int, num_images: int) -> str:
        check_text("question", question, CONTROL_TOKENS)
        images = introduce_images(self.image, num_images, self.has_overview) if index == 0 else ""
        return (self.opening if index == 0 else self.reopening) + images + question + self.before_answer


def _llama_2(system: str) -> Template:
    return Template(f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n", "<s>[INST] ", " [/INST]", " </s>")


def _two_roles(system: str, image: str = IMAGE_TOKEN) -> Template:
    return Template(f"{system}USER: ", "USER: ", " ASSISTANT:", END_TOKEN, image)


_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions. "
)
_USER = _HUMAN.replace("human", "user")
_DELIMITED_IMAGE = f"{IMAGE_START}{IMAGE_TOKEN}{IMAGE_END}"
_GLAMM_IMAGE = f"{IMAGE_START}{IMAGE_TOKEN}▁{IMAGE_END}"
"""GLaMM tokenizes the text behind `<image>` alone, and its tokenizer puts a lone word mark before an added token there:
450 32000 -200 29871 32001 (groundingLMM, issue 32). The mark in this template is read as that token."""

TEMPLATES: dict[TemplateName, Template] = {
    "llava_v1": _two_roles(_HUMAN),
    "vicuna_v1.1": _two_roles(_USER),
    "llava_v1_im_start_end": _two_roles(_HUMAN, _DELIMITED_IMAGE),
    "vicuna_v1.1_im_start_end": _two_roles(_USER, _DELIMITED_IMAGE),
    "llava_llama_2": _llama_2(
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language."
    ),
    "plain": _two_roles(""),
    "glamm": replace(_two_roles(_HUMAN, _GLAMM_IMAGE), has_overview=True),
    "glamm_legacy": replace(_two_roles(_HUMAN, _DELIMITED_IMAGE), has_overview=True),
}


def find_template(template: TemplateName | ConversationFormat) -> ConversationFormat:
    """Return the template that a name stands for, or the given one."""
    return TEMPLATES[template] if isinstance(template, str) else template


def render_conversation(
    exchanges: Sequence[Exchange], template: TemplateName | ConversationFormat, num_images: int = 1
) -> RenderedConversation:
    """Render finished exchanges with a template; see `ConversationFormat.render_conversation`."""
    return find_template(template).render_conversation(exchanges, num_images)


def render_prompt(
    history: Sequence[Exchange], question: str, template: TemplateName | ConversationFormat, num_images: int = 1
) -> str:
    """Render a conversation up to an open question; see `ConversationFormat.render_prompt`."""
    return find_template(template).render_prompt(history, question, num_images)


def introduce_images(image: str, num_images: int, has_overview: bool = False) -> str:
    """Return the text before the first question.

    One image is followed by a line break, as in LLaVA, or stands in GLaMM's sentence. Several are named, so that a text
    can refer to them: "The <image> (IMAGE1) and <image> (IMAGE2) provide an overview of the pictures." (CALICO,
    supplement: GLaMM's sentence in the plural).

    Args:
        image: the template's place-holder of one image.
        num_images: number of images, 0 or more.
        has_overview: put one image into GLaMM's sentence.
    """
    if num_images == 1 and has_overview:
        return f"The {image} provides an overview of the picture.\n"
    if num_images < 2:
        return f"{image}\n" * num_images
    named = [f"{image} {image_name(number)}" for number in range(num_images)]
    return f"The {', '.join(named[:-1])} and {named[-1]} provide an overview of the pictures.\n"


def image_name(number: int) -> str:
    """Return the name of a conversation's image in texts: (IMAGE1) is image 0."""
    return f"(IMAGE{number + 1})"


def name_images(images: Sequence[int]) -> str:
    """Return what follows a phrase in the given images, such as " (IMAGE1) (IMAGE2)"; empty for none."""
    return "".join(f" {image_name(number)}" for number in images)


def named_images(text: str) -> tuple[int, ...]:
    """Return the images that are named at the beginning of a text, which follows a phrase."""
    names = _IMAGE_NAMES.match(text)
    return () if names is None else tuple(int(number) - 1 for number in re.findall(r"\d+", names[0]))
