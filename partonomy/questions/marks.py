"""Says what a build's questions rest on: how objects are grouped, and how many questions mark their object by a box."""

from collections.abc import Iterable
from dataclasses import dataclass

from partonomy.datasets.concept_graph import build_concept_graph
from partonomy.questions.answer_mutator import MutationMode
from partonomy.structures import AnnotatedImage, PartDataset, Question

DRAWN_FROM = {
    MutationMode.PAPER: "their own parts and those of the classes that they are compared with",
    MutationMode.AUTHORS: "their own parts and those of the classes that they are compared with",
    MutationMode.BALANCED: "their own parts, and where these are too few, of classes that share a part with them",
}


@dataclass(frozen=True)
class Marks:
    """Numbers of questions: all, those that mark their object, and those that do not though they would fit another."""

    num_questions: int
    num_marked: int
    num_ambiguous: int

    def describe(self) -> str:
        """Return the numbers as one line."""
        line = f"{self.num_marked} of {self.num_questions} questions mark their object by a box"
        if not self.num_ambiguous:
            return line
        return f"{line}; {self.num_ambiguous} more also fit another object (--mark_objects ambiguous marks them)"


def count_marks(dataset: PartDataset, questions: Iterable[Question]) -> Marks:
    """Count the questions that mark their object, and those that say "the object" where the image shows several."""
    images = {image.image_id: image for image in dataset.images}
    num_questions = num_marked = num_ambiguous = 0
    for question in questions:
        num_questions += 1
        num_marked += question.box is not None
        num_ambiguous += question.box is None and _fits_another(question, images[question.image_id])
    return Marks(num_questions, num_marked, num_ambiguous)


def _fits_another(question: Question, image: AnnotatedImage) -> bool:
    others = [one for one in image.objects if one.instance_id != question.instance_id]
    if question.question_type.names_object:
        return any(one.label == question.object_label for one in others)
    return bool(others) or image.has_other_objects


def describe_grouping(dataset: PartDataset, mutation: MutationMode) -> str:
    """Return one line on the groups of objects from which wrong parts are drawn."""
    graph = build_concept_graph(dataset)
    grouped = [label for label in graph.objects if graph.is_grouped(label)]
    num_categories = len({graph.object_category[label] for label in grouped})
    if mutation is MutationMode.AUTHORS or not grouped:
        return f"wrong parts of {len(graph.objects)} object classes: {DRAWN_FROM[mutation]}"
    line = f"wrong parts of {len(grouped)} object classes: those of their category ({num_categories} categories)"
    if mutation is MutationMode.BALANCED:
        line = (
            f"wrong parts of {len(grouped)} object classes: their own parts, and where these are too few, of their "
            f"category ({num_categories} categories)"
        )
    num_left = len(graph.objects) - len(grouped)
    return f"{line}; of {num_left} without a category: {DRAWN_FROM[mutation]}" if num_left else line
