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


def report_on_questions(name: str, questions: Iterable[Question]) -> BlindReport:
    """Compute the blind baselines on the questions of a data set.

    Raises:
        ValueError: There are no questions.
    """
    asked: dict[tuple[Subject, str], list[BlindQuestion]] = {}
    for question in questions:
        kind = question.question_type.value
        asked.setdefault((Subject.PARTS, kind), []).append(
            BlindQuestion(
                question.image_id,
                tuple(choice.text for choice in question.choices),
                tuple(choice.parts for choice in question.choices),
                [choice.is_correct for choice in question.choices].index(True),
            )
        )
        if question.object_question is not None:
            choices = question.object_question.choices
            asked.setdefault((Subject.OBJECT, kind), []).append(
                BlindQuestion(
                    question.image_id,
                    tuple(choice.text for choice in choices),
                    tuple(tuple(choice.label.split()) for choice in choices),
                    [choice.is_correct for choice in choices].index(True),
                )
            )
    if not asked:
        raise ValueError(f"{name}: there are no questions to guess")
    return _report(name, asked)


def report_on_run(run: QuestionRun) -> BlindReport | None:
    """Compute the blind baselines from the choices in a run's records; None if the run asked for no choices."""
    asked: dict[tuple[Subject, str], list[BlindQuestion]] = {}
    for record in run.records:
        if record.question_type is None:
            continue
        for subject, choice in ((Subject.PARTS, record.parts_choice), (Subject.OBJECT, record.object_choice)):
            if choice is not None:
                is_object = subject is Subject.OBJECT
                labels = tuple(tuple(" ".join(row).split()) if is_object else row for row in choice.labels)
                asked.setdefault((subject, record.question_type.value), []).append(
                    BlindQuestion(int(record.image_id), choice.texts, labels, choice.correct_index)
                )
    return _report(run.name, asked) if asked else None


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
    num_rules = len(reports[0].results[0].scores) - 1
    return Table("Blind baselines", (ColumnGroup("", headings),), tuple(rows), NOTE.format(num_rules=num_rules))


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
    num_rules = len(report.results[0].scores) - 1
    return Table(
        "What a blind guess reaches", (ColumnGroup("", headings),), tuple(rows), NOTE.format(num_rules=num_rules)
    )


def _report(name: str, asked: dict[tuple[Subject, str], list[BlindQuestion]]) -> BlindReport:
    results = []
    for subject in Subject:
        types = [kind.value for kind in QuestionType if (subject, kind.value) in asked]
        guesses: list[BlindGuesses] = [guess_blindly(kind, subject, asked[subject, kind]) for kind in types]
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
