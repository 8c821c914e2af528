"""Makes the questions of an image: chooses the instance, the concepts to compare it with, the wrong answers and the
order of the choices.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from partonomy.datasets.concept_graph import ConceptGraph
from partonomy.datasets.instances import InstanceRule, choose_instances, instance_box
from partonomy.questions.answer_model import AnswerKind
from partonomy.questions.answer_mutator import NUM_WRONG_ANSWERS, AnswerMutator, MutationContext
from partonomy.questions.draws import Draws
from partonomy.questions.object_sampler import ObjectSampler
from partonomy.questions.right_answers import AskedParts, Concepts, RightAnswers, find_owned_parts
from partonomy.questions.templates import QuestionTexts, Templates, Wording, question_form
from partonomy.structures import AnnotatedImage, ObjectInstance, ObjectQuestion, Question, QuestionType

Item = TypeVar("Item")

MAX_TEXTS = 50_000  # cached for further questions of the same wording
TYPE_CODES = {question_type: zlib.crc32(question_type.value.encode()) for question_type in QuestionType}


class SkipReason(StrEnum):
    """The reason why an image, or one of its instances asked about, yields no question of a type."""

    NO_PARTS = "the image has no object with annotated parts"
    LEFT_OUT = "parts of all the image's objects were left out though visible, so a right answer would deny them"
    ONE_OBJECT = "the data set has only one object class with parts"
    FEW_OBJECTS = f"the data set has fewer than {NUM_WRONG_ANSWERS + 1} object classes with parts"
    NO_CONCEPT = "no other object class leaves an answer that is not empty"
    FEW_CHOICES = f"fewer than {NUM_WRONG_ANSWERS + 1} distinct answer choices were found"


class MarkRule(StrEnum):
    """When to mark the instance asked about by a box.

    same_class: if several instances of its class are annotated in the image (paper, section 3.2, PACO-LVIS).
    ambiguous: also if the question does not name the object and another object is annotated in the image.
    """

    SAME_CLASS = "same_class"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True)
class SkippedQuestion:
    """A question type that could not be asked about an image, and the reason."""

    question_type: QuestionType
    reason: SkipReason


@dataclass(frozen=True)
class AskedInstance:
    """The instance that an image's questions ask about, with its parts as sorted indices into the vocabulary."""

    image: AnnotatedImage
    image_path: Path
    instance: ObjectInstance
    parts: tuple[int, ...]


class QuestionMaker:
    """Makes the questions of one image at a time.

    Args:
        graph: the data set's vocabulary.
        mutator: draws wrong part answers.
        object_sampler: draws wrong objects; None if there are too few objects for object questions.
        templates: the wording.
        synonyms: for every part, the parts that mean the same, including itself.
        seed: seed of the build.
        image_root: absolute folder of the images.
        mark: when to mark the instance by a box.
        instances: which instances of an image to ask about.
        right: chooses the objects to compare the instance with (mutation mode `balanced`); None draws them uniformly.
    """

    def __init__(
        self,
        *,
        graph: ConceptGraph,
        mutator: AnswerMutator,
        object_sampler: ObjectSampler | None,
        templates: Templates,
        synonyms: Sequence[frozenset[int]],
        seed: int,
        image_root: Path,
        mark: MarkRule,
        right: RightAnswers | None = None,
        instances: InstanceRule = InstanceRule.IMAGE,
    ) -> None:
        self._instances = instances
        self._right = right
        self._graph = graph
        self._mutator = mutator
        self._object_sampler = object_sampler
        self._templates = templates
        self._seed = seed
        self._image_root = image_root
        self._mark = mark
        self._texts: dict[Wording, QuestionTexts] = {}
        self._labels = graph.parts
        self._index: Mapping[str, int] = {label: number for number, label in enumerate(self._labels)}
        self._others = {label: [other for other in graph.objects if other != label] for label in graph.objects}
        self._own_parts = {label: self._indices(parts) for label, parts in graph.object_parts.items()}
        self._category_parts = {
            label: tuple(sorted(self._indices(graph.category_parts(label)))) for label in graph.objects
        }
        self._has = find_owned_parts(graph, synonyms)

    def make(
        self, image: AnnotatedImage, question_types: Sequence[QuestionType]
    ) -> tuple[list[Question], list[SkippedQuestion]]:
        """Make at most one question per type about each chosen instance; also return the types not asked."""
        instances = choose_instances(image, self._instances)
        if not instances:
            reason = SkipReason.LEFT_OUT if any(one.left_out_parts for one in image.objects) else SkipReason.NO_PARTS
            return [], [SkippedQuestion(question_type, reason) for question_type in question_types]
        questions, skipped = [], []
        for instance in instances:
            parts = tuple(sorted(self._indices(part.label for part in instance.parts)))
            asked = AskedInstance(image, self._image_root / image.file_name, instance, parts)
            for question_type in question_types:
                made = self._make_one(asked, question_type)
                if isinstance(made, SkipReason):
                    skipped.append(SkippedQuestion(question_type, made))
                else:
                    questions.append(made)
        return questions, skipped

    def _make_one(self, asked: AskedInstance, question_type: QuestionType) -> Question | SkipReason:
        generator = question_generator(self._seed, asked.image.image_id, question_type)
        if self._instances is InstanceRule.CLASS:
            label_code = zlib.crc32(asked.instance.label.encode())
            generator = Draws([self._seed, asked.image.image_id, TYPE_CODES[question_type], label_code])
        form = question_form(question_type)
        if form != "identification" and len(self._graph.objects) < 2:
            return SkipReason.ONE_OBJECT
        if question_type.is_part_whole and self._object_sampler is None:
            return SkipReason.FEW_OBJECTS
        reason = SkipReason.NO_CONCEPT
        for concepts in self._draw_concepts(asked, form, generator):
            reason = SkipReason.FEW_CHOICES
            wrong = self._mutator.draw_wrong_answers(self._mutation_context(asked, question_type, concepts), generator)
            if wrong is not None:
                return self._write(asked, question_type, concepts, wrong, generator)
        return reason

    def _draw_concepts(self, asked: AskedInstance, form: str, generator: Draws) -> Iterator[Concepts]:
        """Yield, in random order, every choice of compared objects that leaves a non-empty answer.

        Paper, section 3.1: positive = in common with C; negative = not of C, which shares at least one part;
        difference = in common with C1 but not with C2. The object itself is never chosen.
        """
        parts = frozenset(asked.parts)
        if self._right is not None:
            yield from self._right.draw(form, AskedParts(asked.instance.label, parts), generator)
            return
        if form == "identification":
            yield Concepts(parts)
            return
        others = self._others[asked.instance.label]
        for concept in map(others.__getitem__, generator.in_random_order(len(others))):
            shared = parts & self._has[concept]
            if not shared:
                continue
            if form == "positive":
                yield Concepts(shared, concept)
            elif form == "negative":
                if parts - shared:
                    yield Concepts(parts - shared, concept)
            else:
                for other in map(others.__getitem__, generator.in_random_order(len(others))):
                    answer = shared - self._has[other]
                    if other != concept and answer:
                        yield Concepts(answer, concept, other)

    def _mutation_context(
        self, asked: AskedInstance, question_type: QuestionType, concepts: Concepts
    ) -> MutationContext:
        label, form = asked.instance.label, question_form(question_type)
        query: tuple[int, ...] = ()
        if not question_type.is_part_whole:
            named = [label, *filter(None, (concepts.concept, concepts.other))]
            query = tuple(sorted(frozenset().union(*(self._own_parts[one] for one in named))))
        related = self._category_parts[label] if self._graph.is_grouped(label) or not query else query
        if self._right is None:
            return MutationContext(concepts.answer, related, query)
        listable = self._right.listable(form, label, concepts.answer)
        return MutationContext(concepts.answer, related, query, AnswerKind(form, label), listable)

    def _write(
        self,
        asked: AskedInstance,
        question_type: QuestionType,
        concepts: Concepts,
        wrong: Sequence[frozenset[int]],
        generator: Draws,
    ) -> Question:
        box = self._box(asked, question_type)
        wording = Wording(question_type, asked.instance.label, box is not None, concepts.concept, concepts.other)
        texts = self._find_texts(wording)
        labels, form = self._labels, texts.form
        correct = form.choice([labels[part] for part in sorted(concepts.answer)], is_correct=True)
        others = [form.choice([labels[part] for part in sorted(answer)], is_correct=False) for answer in wrong]
        choices = _shuffled([correct, *others], generator)
        object_question = None
        if question_type.is_part_whole:
            object_question = self._object_question(wording, texts.object_question, generator)
        part_of = {part.label: part for part in asked.instance.parts}
        return Question(
            question_id=self._question_id(asked, question_type),
            question_type=question_type,
            image_id=asked.image.image_id,
            instance_id=asked.instance.instance_id,
            image_path=asked.image_path,
            height=asked.image.height,
            width=asked.image.width,
            object_label=asked.instance.label,
            text=texts.question,
            choices=tuple(choices),
            masks=tuple(part_of[label] for label in correct.parts),
            object_question=object_question,
            box=box,
        )

    def _question_id(self, asked: AskedInstance, question_type: QuestionType) -> str:
        if self._instances is InstanceRule.IMAGE:
            return f"{asked.image.image_id}:{question_type.value}"
        return f"{asked.image.image_id}:{asked.instance.instance_id}:{question_type.value}"

    def _find_texts(self, wording: Wording) -> QuestionTexts:
        """Return the cached texts of a wording, because most wordings recur."""
        if wording not in self._texts:
            if len(self._texts) == MAX_TEXTS:
                self._texts.clear()
            self._texts[wording] = self._templates.texts(wording)
        return self._texts[wording]

    def _object_question(self, wording: Wording, text: str, generator: Draws) -> ObjectQuestion:
        assert self._object_sampler is not None
        label = wording.object_label
        wrong = self._object_sampler.sample(label, NUM_WRONG_ANSWERS, generator)
        choices = self._templates.object_choices(wording, [label, *wrong])
        return ObjectQuestion(text, tuple(_shuffled(choices, generator)))

    def _box(self, asked: AskedInstance, question_type: QuestionType) -> tuple[int, int, int, int] | None:
        others = [other for other in asked.image.objects if other.instance_id != asked.instance.instance_id]
        is_ambiguous = any(other.label == asked.instance.label for other in others)
        if self._mark is MarkRule.AMBIGUOUS and not question_type.names_object:
            is_ambiguous = bool(others) or asked.image.has_other_objects
        if asked.instance.box is not None:
            return asked.instance.box
        return instance_box(asked.instance) if is_ambiguous else None

    def _indices(self, labels: Iterable[str]) -> frozenset[int]:
        return frozenset(self._index[label] for label in labels)


def question_generator(seed: int, image_id: int, question_type: QuestionType) -> Draws:
    """Return the draws of one question; they depend only on seed, image and type."""
    return Draws([seed, image_id, TYPE_CODES[question_type]])


def _shuffled(items: Sequence[Item], generator: Draws) -> list[Item]:
    return [items[number] for number in generator.permutation(len(items))]
