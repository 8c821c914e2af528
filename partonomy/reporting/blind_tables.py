"""Tables of blind baselines (guesses without image and question) on a question set or for comparison with a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.metrics.blind import (
    CENTRAL,
    LEARNED,
    SIZE_GROUPS,
    BlindGuesses,
    BlindQuestion,
    BlindResult,
    BlindScore,
    ClassVocabularies,
    estimate_guesses,
    guess_blindly,
    pool_guesses,
)
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.paper_tables.partonomy_tables import QuestionRun
from partonomy.reporting.tables import format_estimate
from partonomy.structures import Question, QuestionType, Subject
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent

ALL_TYPES = "all types"
SEED = 0
NOTE = (
    "Accuracy (%) of guesses that see the choices alone, with 95% intervals of a bootstrap over images; ties count by "
    "share. Best rule: the highest of {num_rules} fixed rules on these questions, by luck a little above what it is "
    "worth. Learned: a logistic regression on all features, fitted on other images."
)
MAX_BLIND_EXCESS = 0.05
"""Above chance: a question set whose best rule exceeds it says so wherever it is built, counted or asked."""
MAX_QUESTIONS_OF_LINE = 20_000
RUN_METRICS = {Subject.PARTS: "parts_accuracy", Subject.OBJECT: "objects_accuracy"}


@dataclass(frozen=True)
class BlindReport:
    """Every blind baseline on a set of questions, per subject and type, and over all types if there are several."""

    name: str
    results: tuple[BlindResult, ...]

    def central_choice(self, question_type: str, metric: str) -> Estimate | None:
        """Return the accuracy of the most central choice for an accuracy metric; None for any other metric."""
        for result in self.results:
            if (result.question_type, RUN_METRICS[result.subject]) == (question_type, metric):
                score = result.find(CENTRAL)
                return None if score is None else score.accuracy
        return None

    def of_subject(self, subject: Subject) -> tuple[BlindResult, ...]:
        """Return the results of part or object questions, by type."""
        return tuple(result for result in self.results if result.subject is subject)


class _Once:
    """Keeps one copy of texts that many questions repeat: part names, answers and their lists."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._items: dict[tuple[str, ...], tuple[str, ...]] = {}

    def text(self, text: str) -> str:
        """Return the kept copy of a text."""
        return self._texts.setdefault(text, text)

    def texts(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Return the kept copies of texts."""
        return tuple(map(self.text, texts))

    def items(self, rows: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        """Return the kept copies of lists."""
        texts = map(self.texts, rows)
        return tuple(self._items.setdefault(row, row) for row in texts)


def report_on_questions(name: str, questions: Iterable[Question], *, is_learned: bool = True) -> BlindReport:
    """Compute the blind baselines on the questions of a data set.

    Raises:
        ValueError: There are no questions.
    """
    asked: dict[tuple[Subject, str], list[BlindQuestion]] = {}
    once = _Once()
    for question in questions:
        kind = question.question_type.value
        asked.setdefault((Subject.PARTS, kind), []).append(
            BlindQuestion(
                question.image_id,
                once.texts(choice.text for choice in question.choices),
                once.items(choice.parts for choice in question.choices),
                [choice.is_correct for choice in question.choices].index(True),
                once.text(question.object_label),
            )
        )
        if question.object_question is not None:
            choices = question.object_question.choices
            asked.setdefault((Subject.OBJECT, kind), []).append(
                BlindQuestion(
                    question.image_id,
                    once.texts(choice.text for choice in choices),
                    once.items(choice.label.split() for choice in choices),
                    [choice.is_correct for choice in choices].index(True),
                )
            )
    if not asked:
        raise ValueError(f"{name}: there are no questions to guess")
    return _report(name, asked, is_learned=is_learned)


def report_on_run(run: QuestionRun, *, is_learned: bool = True) -> BlindReport | None:
    """Compute the blind baselines from the choices in a run's records; None if the run asked for no choices."""
    asked: dict[tuple[Subject, str], list[BlindQuestion]] = {}
    once = _Once()
    for record in run.records:
        if record.question_type is None:
            continue
        for subject, choice in ((Subject.PARTS, record.parts_choice), (Subject.OBJECT, record.object_choice)):
            if choice is not None:
                is_object = subject is Subject.OBJECT
                labels = (" ".join(row).split() if is_object else row for row in choice.labels)
                asked.setdefault((subject, record.question_type.value), []).append(
                    BlindQuestion(
                        int(record.image_id),
                        once.texts(choice.texts),
                        once.items(labels),
                        choice.correct_index,
                        "" if is_object else once.text(record.object_label),
                    )
                )
    return _report(run.name, asked, is_learned=is_learned) if asked else None


def overview_table(reports: Sequence[BlindReport]) -> Table:
    """Make one row per question set, subject and type: chance, central choice, best rule, learned baseline."""
    rows = [
        TableRow(
            (
                _label(result),
                str(result.num_questions),
                format_percent(result.chance.accuracy.value),
                _cell(result.find(CENTRAL)),
                _cell(result.best_fixed),
                result.best_fixed.rule,
                _cell(result.find(LEARNED)),
            ),
            report.name,
        )
        for report in reports
        for result in report.results
    ]
    headings = ("Question type", "Questions", "Chance", "Central choice", "Best rule", "which", "Learned")
    note = "\n".join([_note(reports[0]), *filter(None, map(constant_note, reports))])
    return Table("Blind baselines", (ColumnGroup("", headings),), tuple(rows), note)


def rule_table(report: BlindReport, subject: Subject) -> Table:
    """Tabulate every rule on every type of a question set, with intervals for all types together."""
    results = report.of_subject(subject)
    rules = list(dict.fromkeys(score.rule for result in results for score in result.scores))
    rows = [TableRow(("chance", *(format_percent(result.chance.accuracy.value) for result in results)))]
    for rule in rules:
        scores = [(result, result.find(rule)) for result in results]
        cells = [_cell(score) if result.question_type == ALL_TYPES else _short_cell(score) for result, score in scores]
        rows.append(TableRow((rule, *cells)))
    names = tuple(result.question_type for result in results)
    return Table(
        f"{report.name}: {subject} questions, every rule (%)", (ColumnGroup("", ("Rule", *names)),), tuple(rows)
    )


def size_table(report: BlindReport) -> Table:
    """Tabulate part questions by answer length: central choice, the type's best rule, learned baseline."""
    rows = []
    for result in report.of_subject(Subject.PARTS):
        chosen = (result.find(CENTRAL), result.best_fixed, result.find(LEARNED))
        cells: list[str] = []
        for group, chance in enumerate(result.chance.by_size):
            cells += [str(chance.count), format_percent(chance.value)]
            cells += ["-" if score is None else format_percent(score.by_size[group].value) for score in chosen]
        rows.append(TableRow((result.question_type, *cells)))
    columns = ("n", "chance", "central", "best", "learned")
    groups = tuple(ColumnGroup(f"{size} part{'' if size == '1' else 's'}", columns) for size in SIZE_GROUPS)
    return Table(
        f"{report.name}: by number of parts in the right answer (%)", (ColumnGroup("", ("Type",)), *groups), tuple(rows)
    )


def run_table(run: QuestionRun, report: BlindReport) -> Table:
    """Tabulate the run's accuracy and the blind baselines on the same questions."""
    rows = []
    for result in report.results:
        entry = run.summary.groups.get(result.question_type)
        own = None if entry is None else entry.metrics.get(RUN_METRICS[result.subject])
        best = result.best_fixed
        cells = (format_estimate(own), format_percent(result.chance.accuracy.value), _cell(result.find(CENTRAL)))
        rows.append(TableRow((_label(result), *cells, f"{_cell(best)}, {best.rule}", _cell(result.find(LEARNED)))))
    headings = ("Question type", "This run", "Chance", "Central choice", "Best rule", "Learned")
    note = "\n".join(filter(None, [_note(report), constant_note(report)]))
    return Table("What a blind guess reaches", (ColumnGroup("", headings),), tuple(rows), note)


def constant_note(report: BlindReport) -> str:
    """Say once where the right answers always are; "" if they have no such place."""
    places: dict[str, list[str]] = {}
    for result in report.results:
        for words in result.constant if result.question_type != ALL_TYPES else ():
            places.setdefault(words, []).append(_label(result))
    return "\n".join(
        f"{report.name}: the right answer is always {words} ({', '.join(names)}). That is the order of the file, so no "
        "rule uses it; models that see all choices at once must get them shuffled."
        for words, names in places.items()
    )


def blind_line(report: BlindReport) -> str:
    """Return one line with the best blind rule, if it is more than 5 points above chance; else ""."""
    found = []
    for subject in Subject:
        results = report.of_subject(subject)
        if not results:
            continue
        pooled = results[-1]  # all types, if there are several
        best, chance = pooled.best_fixed, pooled.chance.accuracy.value or 0.0
        if (best.accuracy.value or 0.0) > chance + MAX_BLIND_EXCESS:
            found.append(
                f"{format_estimate(best.accuracy)}% of {pooled.num_questions} questions about "
                f"{'parts' if subject is Subject.PARTS else 'objects'} ({best.rule}; chance {format_percent(chance)}%)"
            )
    return f"a guess that sees the choices alone is right in {', and in '.join(found)}" if found else ""


def line_on_questions(name: str, questions: Sequence[Question], image_ids: Sequence[int] | None = None) -> str:
    """Return `blind_line` of a question set; of a large one, from images spread evenly over it; "" if it is empty.

    Args:
        name: Name of the set.
        questions: The questions; of those that are read on access, only the chosen ones are read.
        image_ids: Image of each question; None reads them from the questions.
    """
    if not questions:
        return ""
    step = -(-len(questions) // MAX_QUESTIONS_OF_LINE)
    image_ids = [question.image_id for question in questions] if image_ids is None else image_ids
    kept = set(list(dict.fromkeys(image_ids))[::step])
    chosen = (questions[place] for place, image_id in enumerate(image_ids) if image_id in kept)
    return blind_line(report_on_questions(name, chosen, is_learned=False))


def _note(report: BlindReport) -> str:
    return NOTE.format(num_rules=max(sum(score.rule != LEARNED for score in one.scores) for one in report.results))


def _report(
    name: str, asked: dict[tuple[Subject, str], list[BlindQuestion]], *, is_learned: bool = True
) -> BlindReport:
    results = []
    for subject in Subject:
        types = [kind.value for kind in QuestionType if (subject, kind.value) in asked]
        if not types:
            continue
        vocabularies = ClassVocabularies.of([one for kind in types for one in asked[subject, kind]])
        guesses: list[BlindGuesses] = [
            guess_blindly(kind, subject, asked[subject, kind], vocabularies, is_learned=is_learned) for kind in types
        ]
        if len(guesses) > 1:
            guesses.append(pool_guesses(ALL_TYPES, guesses))
        results += [estimate_guesses(one, np.random.default_rng(SEED)) for one in guesses]
    return BlindReport(name, tuple(results))


def _label(result: BlindResult) -> str:
    return result.question_type + (" (object)" if result.subject is Subject.OBJECT else "")


def _cell(score: BlindScore | None) -> str:
    return format_estimate(None if score is None else score.accuracy)


def _short_cell(score: BlindScore | None) -> str:
    return format_percent(None if score is None else score.accuracy.value)
