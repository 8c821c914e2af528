"""The prompt that asks a chat model for MMR-like pairs about an image (paper, section 3.1 and Figures 6, 7 and 9).

It has the paper's four blocks (role; names and boxes; task; requirements) and its reply format, in our own words.
"""

from partonomy.benchmarks.multi_target_items import Kind
from partonomy.datasets.files import hash_json
from partonomy.questions.mmr_scene import Scene, SceneTarget

_ROLE = """You are a visual assistant who looks at one image, {height} pixels high and {width} pixels wide. You are \
told which {things} it shows and where: each name is followed by its box [x1, y1, x2, y2], the left, top, right and \
bottom edge in pixels. Things of one kind are told apart by numbers, such as cup_1 and cup_2, and a part of a thing is \
written as cup_1's handle.

{listing}
"""
_TASK = """First sum up the image in one or two sentences, in the form "Global caption: ...". Do not use the list for \
it.

Then write questions about the image with their answers. Each question is about {topic}. It must take common sense to \
see what is meant: describe what one would do or want, and never say the name of a thing or part that belongs to the \
answer. The answer names everything that is meant, in a full sentence. Wherever a listed name stands in an answer, it \
stands exactly as listed with its box right behind it, for example: cup_1's handle [10, 20, 30, 60].

Write at least 3 pairs, and up to 5 where the list has enough for them, each in this form:
Question 1: ...
Answer 1: ...
"""
_REQUIREMENTS = """Requirements:
1. Write as somebody who looks at the image. Never speak of a list, boxes, coordinates or given information.
2. Ask only what has one definite answer.
3. No coordinates and no numbered names in a question.
4. Short, clear sentences, easy to understand.
5. A question describes a whole activity, a use or general knowledge; do not ask what something is for.
6. {amount} Do not hint at further ones.
7. Write the pairs even where the image shows people or brands.
8. Keep the form of the names: cup_1's handle [10, 20, 30, 60], not "a handle [cup_1's handle [10, 20, 30, 60]]".
9. What does not answer the question is not named in the answer."""

_THINGS = {
    None: "things and parts of things",
    Kind.MIXED: "things and parts of things",
    Kind.PART: "parts of things",
    Kind.OBJECT: "things",
}
_TOPICS = {
    None: "how parts belong together or belong to a thing, or about what parts are used for or known for",
    Kind.MIXED: "how a thing and its parts are used together, or about what they are known for",
    Kind.PART: "how different parts belong together, or about what parts are used for or known for",
    Kind.OBJECT: "how things belong together, or about what things are used for or known for",
}
_AMOUNTS = {
    None: "Where the list allows it, an answer names at least two parts.",
    Kind.MIXED: "An answer names at least one whole thing and at least one part.",
    Kind.PART: "Where the list allows it, an answer names at least two parts, and no whole thing with a box.",
    Kind.OBJECT: "Where the list allows it, an answer names at least two things, and no part of a thing.",
}


def listed_targets(scene: Scene, kind: Kind | None) -> tuple[SceneTarget, ...]:
    """The targets that a prompt of a kind lists."""
    if kind is Kind.PART:
        return tuple(one for one in scene.targets if one.part_name is not None)
    if kind is Kind.OBJECT:
        return tuple(one for one in scene.targets if one.part_name is None)
    return scene.targets


def write_prompt(scene: Scene, kind: Kind | None) -> str:
    """The prompt about an image; its listed targets must not be empty."""
    listing = "; ".join(f"{one.numbered} {format_box(one)}" for one in listed_targets(scene, kind))
    role = _ROLE.format(height=scene.image.height, width=scene.image.width, things=_THINGS[kind], listing=f"{listing};")
    return "\n".join([role, _TASK.format(topic=_TOPICS[kind]), _REQUIREMENTS.format(amount=_AMOUNTS[kind])])


def format_box(target: SceneTarget) -> str:
    """'[10, 20, 30, 60]': left, top, right, bottom, pixels."""
    x, y, width, height = target.box
    return f"[{x}, {y}, {x + width}, {y + height}]"


def prompt_hash() -> str:
    """sha256 of the prompt's words."""
    return hash_json([_ROLE, _TASK, _REQUIREMENTS, *(list(one.values()) for one in (_THINGS, _TOPICS, _AMOUNTS))])
