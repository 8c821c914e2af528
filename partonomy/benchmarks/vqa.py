"""The common parts of benchmarks with short answers: the item, two protocols, EvalAI's normal form and soft score."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, TypeVar

from partonomy.benchmarks.cases import IMAGE, Case
from partonomy.benchmarks.records import AnswerRecord, answer_texts, unanswered_record
from partonomy.benchmarks.task import (
    Asking,
    Benchmark,
    Metric,
    Options,
    Picture,
    Source,
    Status,
    Task,
    Words,
    define_benchmark,
    first_items,
)
from partonomy.files import check_text, is_integer, shorten
from partonomy.models.contract import AnswerMarks, Gold, ReplyRequest, Role, Turn

NUM_HUMAN_ANSWERS = 10
FULL_AGREEMENT = 3
"""Number of other people who must have given an answer for a full score."""
ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {"none": "0"} | {word: str(value) for value, word in enumerate(_DIGITS)}
PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32
"""The public code passes re.UNICODE (32) as `count`, so periods after the 32nd stay."""

_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _misspellings(contractions: str) -> dict[str, str]:
    """Map the spellings with one apostrophe missing to their contractions."""
    table = {}
    for word in contractions.split():
        for position in (i for i, letter in enumerate(word) if letter == "'"):
            table[word[:position] + word[position + 1 :]] = word
    return table


# The public table maps "somebody'd" to the spelling without its apostrophe, unlike every other entry.
CONTRACTIONS: Mapping[str, str] = _misspellings(_CONTRACTIONS) | {"somebody'd": "somebodyd"}


def process_answer(text: str) -> str:
    """Return EvalAI's normal form: lower case, numbers as digits, no punctuation and no articles.

    A punctuation mark is removed if it is next to a space anywhere in the text; otherwise it becomes a space. The rule
    for commas between digits never applies, because commas are removed before.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    plain = text
    for mark in PUNCTUATION:
        is_loose = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if is_loose else " ")
    plain = _PERIOD.sub("", plain, count=_MAX_PERIODS)
    words = [NUMBER_WORDS.get(word, word) for word in plain.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_score(reply: str, answers: Sequence[str]) -> float:
    """Score the agreement with human answers: leave out one person at a time and average min(1, matches / 3).

    Only the whole reply can match; nothing is extracted from a sentence. Of ten answers, one match gives 0.3, two give
    0.6, three give 0.9 and four give 1.

    Args:
        reply: The model's words.
        answers: One answer per person, at least one.
    """
    prediction = process_answer(reply)
    processed = [process_answer(answer) for answer in answers]
    num_matches = processed.count(prediction)
    if not num_matches:
        return 0.0
    others = [num_matches - (answer == prediction) for answer in processed]
    return sum(min(1.0, count / FULL_AGREEMENT) for count in others) / len(processed)


def compat_score(reply: str, answers: Sequence[str]) -> float:
    """Score as the Partonomy authors' code: the soft score or, if it is 0, 1 if the reply contains an answer anywhere.

    An exact match with one of two answers thus scores 1/6, and a sentence around it scores 1. An answer that consists
    of an article is empty after processing, so every reply contains it.
    """
    score = soft_score(reply, answers)
    if score > 0:
        return score
    prediction = process_answer(reply)
    return float(any(process_answer(answer) in prediction for answer in answers))


VqaOptionsT = TypeVar("VqaOptionsT", bound="VqaOptions")

ACCURACY = "accuracy"
SHORT_ANSWER = "Answer the question using a single word or phrase."


class VqaProtocol(StrEnum):
    """How questions are asked and answers scored.

    `llava_official` is LLaVA-1.5's evaluation (instruction on a line of its own, official metrics). `partonomy_compat`
    is the evaluation in the Partonomy authors' code behind their Table 5: the instruction follows after a space,
    TextVQA has no OCR tokens, GQA has its first 5,000 questions, POPE's categories are pooled, and `compat_score`
    scores all three. Paper: none of this is stated. Their released decoding also keeps special tokens; here they are
    left out.
    """

    LLAVA_OFFICIAL = "llava_official"
    PARTONOMY_COMPAT = "partonomy_compat"


@dataclass(frozen=True)
class VqaItem:
    """A question about an image.

    Attributes:
        item_id: Unique within benchmark and split.
        image_id: The same for all items of one image.
        image_path: The image file.
        question: The question as in the file.
        answers: Right answers: ten people's (TextVQA), one, or a short and a long one.
        group: Part of the benchmark that is also scored separately; empty if there are no parts.
        ocr_tokens: Output of an OCR system for the image; None if it is not available.
    """

    item_id: str
    image_id: str
    image_path: Path
    question: str
    answers: tuple[str, ...]
    group: str = ""
    ocr_tokens: tuple[str, ...] | None = None

    @property
    def picture(self) -> Picture:
        """The image, turned upright."""
        return Picture(self.image_path)


def short_answer_prompt(question: str, protocol: VqaProtocol, instruction: str = SHORT_ANSWER) -> str:
    """Append the instruction to the question, on a new line or after a space."""
    separator = "\n" if protocol is VqaProtocol.LLAVA_OFFICIAL else " "
    return f"{question}{separator}{instruction}"


def find_file(root: Path, candidates: Sequence[str]) -> Path:
    """Return the first of several paths under `root` that is a file.

    Raises:
        FileNotFoundError: No path is a file; the message names all of them.
    """
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise FileNotFoundError(f"{root}: found none of {', '.join(candidates)}; put the file there or pass another --root")


def find_folder(root: Path, candidates: Sequence[str]) -> Path:
    """Return the first of several paths under `root` that is a folder.

    Raises:
        FileNotFoundError: No path is a folder; the message names all of them.
    """
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise FileNotFoundError(
        f"{root}: found none of the folders {', '.join(candidates)}; put the images there or pass another --root"
    )


def read_question_id(value: object) -> str:
    """Return an id, a string or an integer, as a string.

    Raises:
        ValueError: The value has another type.
    """
    return str(value) if is_integer(value) else check_text(value, "'question_id'")


def read_texts(values: object, name: str) -> tuple[str, ...]:
    """Return a list of strings; some may be empty.

    Raises:
        ValueError: The value has another type, or a string cannot be encoded in UTF-8.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} must be a list of strings, got {shorten(values)}")
    for value in filter(None, values):
        check_text(value, f"one of {name}")
    return tuple(values)


def check_unique(items: Sequence[VqaItem], path: Path) -> tuple[VqaItem, ...]:
    """Return the items if their ids are unique.

    Raises:
        ValueError: There are no items, or two share an id.
    """
    if not items:
        raise ValueError(f"{path} contains no questions; download it again")
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            raise ValueError(f"{path}: two questions have the id {item.item_id!r}; ids must be unique")
        seen.add(item.item_id)
    return tuple(items)


@dataclass(frozen=True)
class VqaFunctions:
    """The functions in which benchmarks of short answers differ.

    Attributes:
        prompt: Returns the user's words.
        prediction: Returns the official protocol's reading of a reply.
        score: Returns the score of a reply, in [0, 1].
        metrics: Returns the metrics of a run's records.
        guesses: Answers among which a guess may choose; empty if answers are free.
        headline: The metric that is usually quoted for the benchmark.
    """

    prompt: Callable[[VqaItem, VqaProtocol], str]
    prediction: Callable[[str], str]
    score: Callable[[str, VqaItem, VqaProtocol], float]
    metrics: Callable[[Sequence[AnswerRecord], VqaProtocol], Mapping[str, Metric]]
    guesses: tuple[str, ...] = ()
    headline: Callable[[VqaProtocol], str] = lambda protocol: ACCURACY


@dataclass(frozen=True)
class VqaOptions(Options):
    """How questions are asked and scored.

    Attributes:
        protocol: llava_official follows LLaVA-1.5's evaluation; partonomy_compat follows the Partonomy authors' code.
    """

    protocol: VqaProtocol = VqaProtocol.LLAVA_OFFICIAL

    @property
    def note(self) -> str:
        """A note that is printed after the protocol."""
        return ""


@dataclass(frozen=True)
class VqaTask(Task[VqaItem, str, AnswerRecord]):
    """Questions with short answers."""

    VERSION: ClassVar[str] = "vqa-1.0"
    RECORD: ClassVar[type[AnswerRecord]] = AnswerRecord
    WORDS: ClassVar[Words] = Words("question")

    benchmark: str
    split: str
    vqa_protocol: VqaProtocol
    functions: VqaFunctions
    items: Sequence[VqaItem] = ()
    note: str = ""

    @property
    def protocol(self) -> str:
        """The protocol and a note, for example that OCR tokens were not shown."""
        return f"{self.vqa_protocol.value}, {self.note}" if self.note else self.vqa_protocol.value

    @property
    def headline(self) -> str:
        """The metric that is usually quoted for the benchmark."""
        return self.functions.headline(self.vqa_protocol)

    def ask(self, item: VqaItem, marks: AnswerMarks) -> Asking[str]:
        """Ask for the model's own words."""
        best = max(item.answers, key=lambda answer: self.functions.score(answer, item, self.vqa_protocol))
        gold = Gold(best, guesses=tuple((guess, ()) for guess in self.functions.guesses))
        (reply,) = yield [ReplyRequest(0, (Turn(Role.USER, self._prompt(item)),), gold)]
        return str(reply)

    def score(self, item: VqaItem, answer: str) -> AnswerRecord:
        """Read and score the reply."""
        is_official = self.vqa_protocol is VqaProtocol.LLAVA_OFFICIAL
        return replace(
            self._record(item),
            reply=answer,
            prediction=(self.functions.prediction if is_official else process_answer)(answer),
            score=self.functions.score(answer, item, self.vqa_protocol),
        )

    def fail(self, item: VqaItem, reason: str) -> AnswerRecord:
        """Return a record without a reply."""
        return replace(self._record(item), status=Status.FAILED, reason=reason)

    def metrics(self, records: Sequence[AnswerRecord]) -> Mapping[str, Metric | None]:
        """Compute the benchmark's metrics."""
        return self.functions.metrics(records, self.vqa_protocol)

    def show(self, record: AnswerRecord, item: VqaItem | None) -> Case:
        """Show the image, the right answers and the reply.

        Args:
            record: The item's outcome.
            item: The item; None if the data are no longer available. The page then shows no image.
        """
        title = record.prompt.partition("\n")[0]
        return Case(title, (IMAGE,) if item is not None else (), texts=answer_texts(record))

    def content(self) -> Iterator[object]:
        """Generate prompts and answers."""
        for item in self.items:
            yield [item.item_id, item.image_path.name, self._prompt(item), list(item.answers)]

    def _prompt(self, item: VqaItem) -> str:
        return self.functions.prompt(item, self.vqa_protocol)

    def _record(self, item: VqaItem) -> AnswerRecord:
        return unanswered_record(item, self._prompt(item), item.answers)


def define_vqa(
    name: str,
    title: str,
    splits: str,
    functions: VqaFunctions,
    *,
    options: type[VqaOptionsT],
    read: Callable[[Source, VqaOptionsT], Sequence[VqaItem]],
    default_split: Callable[[VqaOptionsT], str],
    keep: Callable[[Sequence[VqaItem], int | None], Sequence[VqaItem]] = first_items,
) -> Benchmark:
    """Define a benchmark of questions with short answers; see `define_benchmark`."""

    def make_task(benchmark: str, split: str, chosen: VqaOptionsT, items: Sequence[VqaItem]) -> VqaTask:
        return VqaTask(benchmark, split, chosen.protocol, functions, items, chosen.note)

    return define_benchmark(
        name,
        title,
        splits,
        options=options,
        read_items=read,
        make_task=make_task,
        default_split=default_split,
        keep=keep,
        depends_on_marks=False,
    )
