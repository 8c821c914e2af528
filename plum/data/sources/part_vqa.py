"""Questions answered only in words, without masks and tags: is a part visible, what is the object?"""

from collections.abc import Iterator

import numpy as np

from partonomy.questions.templates import Wording, packaged_templates, with_article
from partonomy.structures import QuestionType
from plum.data.sources.base import draw_one
from plum.data.sources.part_images import PartSource, SceneObject
from plum.data.sources.wordings import HAS_PART
from plum.structures import Exchange


class PartVqaSource(PartSource):
    """Yes/no questions about parts, half of them about an absent part, and questions about the object's name.

    The object's name is only asked for if all objects with parts have the same name. Absent parts are mostly those that
    objects of the same name show elsewhere, otherwise any part of the dataset that this object does not show.
    """

    name = "part_vqa"

    def converse(self, index: int, generator: np.random.Generator) -> list[tuple[Exchange, ...]]:
        """Ask `conversations_per_image` questions about the image, at most one of them about the object's name.

        A single question asks for the name with probability 2/3, if the image has one object name.
        """
        scene = self.images.scene(index)
        asked = [self._ask_part(draw_one(scene, generator), generator) for _ in range(self.conversations_per_image)]
        if len(scene) == 1 and (self.conversations_per_image > 1 or generator.integers(3)):
            asked[0] = name_object(scene[0].label)
        return [(exchange,) for exchange in asked]

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every wording with every name."""
        for label, parts in self.images.parts_of.items():
            yield name_object(label)
            for part in parts:
                for wording in HAS_PART:
                    yield ask_part(label, part, wording, is_visible=True)
                    yield ask_part(label, part, wording, is_visible=False)

    def _ask_part(self, item: SceneObject, generator: np.random.Generator) -> Exchange:
        visible = tuple(part.label for part in item.parts)
        absent = self.images.absent_parts(item)
        if not absent or generator.integers(4) == 0:
            absent = tuple(part for part in self.images.part_labels if part not in visible)
        is_visible = not absent or bool(generator.integers(2))
        part = draw_one(visible if is_visible else absent, generator)
        return ask_part(item.label, part, draw_one(HAS_PART, generator), is_visible)


def name_object(label: str) -> Exchange:
    """Return the object question of part-whole questions with its answer, worded by Partonomy's default templates."""
    wording = Wording(QuestionType.PART_TO_WHOLE, label, is_marked=False)
    templates = packaged_templates()
    question = templates.texts(wording).object_question
    (choice,) = templates.object_choices(wording, [label])
    return Exchange(question, choice.text, is_tagged=False)


def ask_part(object_label: str, part: str, wording: str, is_visible: bool) -> Exchange:
    """Return a yes/no question about one part with its answer."""
    question = wording.format(object=object_label, part=part, a_part=with_article(part))
    answer = f"Yes, the {part} is visible." if is_visible else f"No, the {part} is not visible."
    return Exchange(question, answer, is_tagged=False)
