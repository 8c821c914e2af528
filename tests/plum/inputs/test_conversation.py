import pytest

from partonomy.structures import CharSpan
from plum.inputs.conversation import TEMPLATES, TemplateName, render_conversation, render_prompt
from plum.structures import Exchange

TWO_TURNS = (
    Exchange("Where is the wheel?", "It is the wheel.", (CharSpan(10, 15),)),
    Exchange("And the car?", "Yes, a car.", (CharSpan(7, 10),)),
)

# Typed by hand after LLaVA's `Conversation.get_prompt`: SeparatorStyle.TWO joins "ROLE: message" with " " and "</s>" in
# turn; LLAMA_2 wraps questions in [INST], the system prompt inside the first, answers between " " and " </s>", and
# strips the leading "<s>" that the tokenizer adds itself.
TURNS = (
    "USER: <image>\nWhere is the wheel? ASSISTANT: It is the wheel.</s>USER: And the car? ASSISTANT: Yes, a car.</s>"
)

GOLDEN: dict[TemplateName, str] = {
    "llava_v1": (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. " + TURNS
    ),
    "vicuna_v1.1": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. " + TURNS
    ),
    "llava_llama_2": (
        "[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to understand the visual "
        "content that the user provides, and assist the user with a variety of tasks using natural language."
        "\n<</SYS>>\n\n<image>\nWhere is the wheel? [/INST] It is the wheel. </s>"
        "<s>[INST] And the car? [/INST] Yes, a car. </s>"
    ),
    "plain": TURNS,
    # LLaVA's `mm_use_im_start_end`: every "<image>" of a prompt becomes "<im_start><image><im_end>".
    "llava_v1_im_start_end": (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: <im_start><image><im_end>\nWhere is the wheel? "
        "ASSISTANT: It is the wheel.</s>USER: And the car? ASSISTANT: Yes, a car.</s>"
    ),
    "vicuna_v1.1_im_start_end": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <im_start><image><im_end>\nWhere is the wheel? "
        "ASSISTANT: It is the wheel.</s>USER: And the car? ASSISTANT: Yes, a car.</s>"
    ),
    # GLaMM's sentence; the word mark is what its tokenizer puts there (see `_GLAMM_IMAGE`).
    "glamm": (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: The <im_start><image>▁<im_end> provides an "
        "overview of the picture.\nWhere is the wheel? "
        "ASSISTANT: It is the wheel.</s>USER: And the car? ASSISTANT: Yes, a car.</s>"
    ),
    "glamm_legacy": (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: The <im_start><image><im_end> provides an "
        "overview of the picture.\nWhere is the wheel? "
        "ASSISTANT: It is the wheel.</s>USER: And the car? ASSISTANT: Yes, a car.</s>"
    ),
}


THREE_TURNS = (*TWO_TURNS, Exchange("Sure?", "Yes."))

# The same, for one and for three exchanges, with the system prompts written out.
HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. "
)
USER = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. "
)
LLAMA_2 = (
    "[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to understand the visual content "
    "that the user provides, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n"
)
ONE_ROLE_TURN = "USER: <image>\nWhere is the wheel? ASSISTANT: It is the wheel.</s>"
THREE_ROLE_TURNS = (
    "USER: <image>\nWhere is the wheel? ASSISTANT: It is the wheel.</s>USER: And the car? ASSISTANT: Yes, a car.</s>"
    "USER: Sure? ASSISTANT: Yes.</s>"
)
ONE_AND_THREE: dict[TemplateName, tuple[str, str]] = {
    "llava_v1": (HUMAN + ONE_ROLE_TURN, HUMAN + THREE_ROLE_TURNS),
    "vicuna_v1.1": (USER + ONE_ROLE_TURN, USER + THREE_ROLE_TURNS),
    "llava_llama_2": (
        LLAMA_2 + "<image>\nWhere is the wheel? [/INST] It is the wheel. </s>",
        LLAMA_2 + "<image>\nWhere is the wheel? [/INST] It is the wheel. </s>"
        "<s>[INST] And the car? [/INST] Yes, a car. </s><s>[INST] Sure? [/INST] Yes. </s>",
    ),
}
WAITING: dict[TemplateName, tuple[str, str]] = {
    "llava_v1": (
        HUMAN + "USER: <image>\nWhere is the wheel? ASSISTANT:",
        HUMAN + "USER: <image>\nWhere is the wheel? ASSISTANT: It is the wheel.</s>USER: And the car? ASSISTANT: "
        "Yes, a car.</s>USER: Sure? ASSISTANT:",
    ),
    "vicuna_v1.1": (
        USER + "USER: <image>\nWhere is the wheel? ASSISTANT:",
        USER + "USER: <image>\nWhere is the wheel? ASSISTANT: It is the wheel.</s>USER: And the car? ASSISTANT: "
        "Yes, a car.</s>USER: Sure? ASSISTANT:",
    ),
    "llava_llama_2": (
        LLAMA_2 + "<image>\nWhere is the wheel? [/INST]",
        LLAMA_2 + "<image>\nWhere is the wheel? [/INST] It is the wheel. </s><s>[INST] And the car? [/INST] "
        "Yes, a car. </s><s>[INST] Sure? [/INST]",
    ),
}


@pytest.mark.parametrize("template", ONE_AND_THREE)
def test_one_and_three_turns_render_to_the_character(template: TemplateName) -> None:
    one, three = ONE_AND_THREE[template]
    assert render_conversation(THREE_TURNS[:1], template).text == one
    assert render_conversation(THREE_TURNS, template).text == three


@pytest.mark.parametrize("template", WAITING)
def test_waiting_questions_render_to_the_character(template: TemplateName) -> None:
    first, third = WAITING[template]
    assert render_prompt((), THREE_TURNS[0].question, template) == first
    assert render_prompt(THREE_TURNS[:2], THREE_TURNS[2].question, template) == third


@pytest.mark.parametrize("template", TEMPLATES)
def test_two_turns_render_to_the_character(template: TemplateName) -> None:
    assert render_conversation(TWO_TURNS, template).text == GOLDEN[template]


@pytest.mark.parametrize("template", TEMPLATES)
def test_ranges_point_at_answers_and_phrases(template: TemplateName) -> None:
    rendered = render_conversation(TWO_TURNS, template)
    answers = [rendered.text[span.start : span.end] for span in rendered.answers]
    assert answers == ["It is the wheel.", "Yes, a car."]
    phrases = [[rendered.text[span.start : span.end] for span in spans] for spans in rendered.spans]
    assert phrases == [["wheel"], ["car"]]
    assert all(rendered.text[:end].endswith("</s>") for end in rendered.answer_ends)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("num_images", [0, 1, 2, 3])
def test_prompt_is_the_prefix_that_the_answer_continues(template: TemplateName, num_images: int) -> None:
    rendered = render_conversation(TWO_TURNS, template, num_images)
    first = render_prompt((), TWO_TURNS[0].question, template, num_images)
    second = render_prompt(TWO_TURNS[:1], TWO_TURNS[1].question, template, num_images)
    assert first == rendered.text[: rendered.prompt_ends[0]]
    assert second == rendered.text[: rendered.prompt_ends[1]]
    assert rendered.text.count("<image>") == num_images


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        (Exchange("Where?", " "), "answer is empty"),
        (Exchange("", "There."), "question is empty"),
        (Exchange("What is <image>?", "There."), "control token <image>"),
        (Exchange("Where?", "There.</s>"), "control token </s>"),
        (Exchange("Where?", "There.", (CharSpan(3, 9),)), "3:9 lies outside"),
        (Exchange("Where?", "There.", (CharSpan(3, 3),)), "3:3 lies outside"),
    ],
)
def test_bad_exchanges_are_refused(exchange: Exchange, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_conversation([exchange], "plain")


def test_no_exchange_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one exchange"):
        render_conversation([], "plain")
