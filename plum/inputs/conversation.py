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
from plum.structures import Exchange

TemplateName = Conversation

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


@dataclass(frozen=True)
class RenderedConversation:
    """Text of a conversation, `<image>` not yet expanded.

    prompt_ends: per exchange, where the prompt ends and the model's own tokens begin (the space before the answer is
        the model's: it is part of the first answer token for most tokenizers)
    answers: per exchange, the answer's characters
    answer_ends: per exchange, the end of the end token
    spans: per exchange, the phrases to segment
    """

    text: str
    prompt_ends: tuple[int, ...]
    answers: tuple[CharSpan, ...]
    answer_ends: tuple[int, ...]
    spans: tuple[tuple[CharSpan, ...], ...]


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


def render_conversation(
    exchanges: Sequence[Exchange], template: TemplateName, num_images: int = 1
) -> RenderedConversation:
    """Render finished exchanges, for training and scoring.

    Args:
        exchanges: one or more, with non-empty answers; their spans are character ranges of the answers.
        template: key of `TEMPLATES`.
        num_images: number of images that precede the first question; see `introduce_images`.

    Raises:
        ValueError: there is no exchange, a question or answer is empty or contains a control token, or a span lies
            outside its answer.
    """
    if not exchanges:
        raise ValueError("a conversation needs at least one exchange")
    parts = TEMPLATES[template]
    text = ""
    prompt_ends, answers, answer_ends, spans = [], [], [], []
    for index, exchange in enumerate(exchanges):
        _check_text("answer", exchange.answer)
        text += _render_question(exchange.question, parts, index, num_images)
        prompt_ends.append(len(text))
        start = len(text) + 1
        text += f" {exchange.answer}{parts.after_answer}"
        answers.append(CharSpan(start, start + len(exchange.answer)))
        answer_ends.append(len(text))
        spans.append(tuple(_shift_span(span, exchange.answer, start) for span in exchange.spans))
    return RenderedConversation(text, tuple(prompt_ends), tuple(answers), tuple(answer_ends), tuple(spans))


def render_prompt(history: Sequence[Exchange], question: str, template: TemplateName, num_images: int = 1) -> str:
    """Render a conversation up to an open question: a prefix of the finished conversation's text.

    Args:
        history: earlier exchanges; may be empty.
        question: the user's last message.
        template: key of `TEMPLATES`.
        num_images: number of images that precede the first question; see `introduce_images`.
    """
    earlier = render_conversation(history, template, num_images).text if history else ""
    return earlier + _render_question(question, TEMPLATES[template], len(history), num_images)


def _render_question(question: str, parts: Template, index: int, num_images: int) -> str:
    _check_text("question", question)
    images = introduce_images(parts.image, num_images, parts.has_overview) if index == 0 else ""
    return (parts.opening if index == 0 else parts.reopening) + images + question + parts.before_answer


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


def _check_text(what: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"the {what} is empty")
    for token in CONTROL_TOKENS:
        if token in text:
            raise ValueError(f"the {what} {text!r} contains the control token {token}; remove it from the text")


def _shift_span(span: CharSpan, answer: str, start: int) -> CharSpan:
    if not 0 <= span.start < span.end <= len(answer):
        raise ValueError(f"the span {span.start}:{span.end} lies outside of the answer {answer!r}")
    return CharSpan(span.start + start, span.end + start)
