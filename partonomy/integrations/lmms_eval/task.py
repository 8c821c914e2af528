"""Writes questions as a task folder of lmms-eval: YAML tasks, utils.py, and JSON lines with masks as run-length codes.

    lmms-eval --include_path FOLDER --tasks partonomy_choices --model ...

The export does not need lmms-eval, but lmms-eval's environment needs this package (`pip install --no-deps .` and
`pip install msgspec`; lmms-eval brings the rest). `partonomy_choices` shows all choices at once (`listwise`), because
lmms-eval's own multiple choice returns a mean loss, divided once more by the number of characters. `partonomy_masks`
asks for masks as JSON and suits models that can write them.

lmms-eval's chat models get a conversation with an earlier question and answer as turns (`doc_to_messages`): what
`validate_partonomy.py --choice_protocol listwise` sends. Its simple models (`--force_simple`) get one text that joins
the turns. `scripts/bench/lmms_eval_run.py` runs an export in lmms-eval and compares replies and scores.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from partonomy.benchmarks.partonomy.listwise import LETTERS, listwise_turns, order_key, shuffled_order
from partonomy.benchmarks.partonomy.steps import VERSION, Step, question_steps, step_turns
from partonomy.benchmarks.partonomy.task import PartonomyTask
from partonomy.datasets.record_exchange import count_kept_values
from partonomy.datasets.store import load_questions
from partonomy.files import write_text_atomically
from partonomy.locks import has_other_files, lock_folder
from partonomy.masks import rle_to_json
from partonomy.models.contract import Role, Turn
from partonomy.structures import Question, QuestionSet, Subject

Row = Mapping[str, object]

MASK_INSTRUCTION = (
    "Segment these parts of the object, in this order: {phrases}. Answer with JSON alone: "
    '{{"masks": [{{"size": [{height}, {width}], "counts": "..."}}, ...]}}, one COCO compressed run-length code a part.'
)


def choice_rows(question: Question, seed: int) -> Iterator[tuple[Subject, Row]]:
    """Yield one row per multiple-choice step with all choices at once; the second step follows the correct answer.

    Args:
        question: The question.
        seed: Seed of the order of the choices, as for validate_partonomy.py.
    """
    steps = question_steps(question)
    correct = [step.choices[step.correct_index] for step in steps]
    for index, step in enumerate(steps):
        order = shuffled_order(order_key(seed, question.question_id, step.subject), len(step.choices))
        shown = [step.choices[choice] for choice in order]
        labels = _labels(question, step)
        position = order.index(step.correct_index)
        row = _common(question) | {
            **_asked(listwise_turns(step_turns(steps, index, correct), shown)),
            "choices": shown,
            "choice_labels": [list(labels[choice]) for choice in order],
            "correct_position": position,
            "answer": LETTERS[position],
        }
        yield step.subject, row


def mask_row(question: Question) -> Row:
    """Return the row with the question, its correct answer and the phrases to segment."""
    steps = question_steps(question)
    correct = [step.choices[step.correct_index] for step in steps]
    parts_index = next(index for index, step in enumerate(steps) if step.subject is Subject.PARTS)
    choice = question.correct_choice
    phrases = [choice.text[span.start : span.end] for span in choice.part_spans]
    wanted = MASK_INSTRUCTION.format(phrases=", ".join(phrases), height=question.height, width=question.width)
    turns = (
        *step_turns(steps, parts_index, correct),
        Turn(Role.ASSISTANT, choice.text),
        Turn(Role.USER, wanted),
    )
    return _common(question) | {
        **_asked(turns),
        "phrases": phrases,
        "masks": [rle_to_json(part.mask) for part in question.masks],
    }


def as_text(turns: Sequence[Turn]) -> str:
    """Join a conversation into one message for models that take only one; a single turn is unchanged."""
    if len(turns) == 1:
        return turns[0].text
    names = {Role.USER: "Question", Role.ASSISTANT: "Answer"}
    return "\n".join(f"{names[turn.role]}: {turn.text}" for turn in turns)


def _asked(turns: Sequence[Turn]) -> dict[str, object]:
    return {"prompt": as_text(turns), "turns": [{"role": turn.role.value, "text": turn.text} for turn in turns]}


def _common(question: Question) -> dict[str, object]:
    return {
        "question_id": question.question_id,
        "question_type": question.question_type.value,
        "image_id": question.image_id,
        "image_path": str(question.image_path),
        "height": question.height,
        "width": question.width,
        "box": [] if question.box is None else list(question.box),
    }


def _labels(question: Question, step: Step) -> list[tuple[str, ...]]:
    if step.subject is Subject.PARTS:
        return [choice.parts for choice in question.choices]
    assert question.object_question is not None  # question_steps has checked it
    return [(choice.label,) for choice in question.object_question.choices]


OWN_FILES: Final = ("partonomy_*.yaml", "_partonomy_*_yaml", "utils.py", "data/partonomy_*.jsonl")
PARTS, OBJECT, MASKS = "parts", "object", "masks"
_UTILS: Final = '''"""Functions of the Partonomy tasks beside this file; they live in the partonomy package."""

from partonomy.integrations.lmms_eval.task_functions import (  # noqa: F401
    doc_to_masks,
    doc_to_messages,
    doc_to_target,
    doc_to_text,
    doc_to_visual,
    mean_over_images,
    process_masks,
    process_object,
    process_parts,
    ratio,
)
'''
_RATIOS: Final = {
    PARTS: ("parts_accuracy", "parts_precision", "parts_recall", "parts_f1"),
    OBJECT: ("objects_accuracy",),
    MASKS: ("giou_micro_paired", "ciou_paired"),
}
_FAULTS: Final = {PARTS: "unusable_replies", OBJECT: "unusable_replies", MASKS: "missing_masks"}
_TARGETS: Final = {PARTS: "doc_to_target", OBJECT: "doc_to_target", MASKS: "doc_to_masks"}
_NEW_TOKENS: Final = {
    PARTS: PartonomyTask.MAX_NEW_TOKENS,
    OBJECT: PartonomyTask.MAX_NEW_TOKENS,
    MASKS: 8192,
}


@dataclass(frozen=True)
class LmmsEvalSummary:
    """The number of documents of each task written, the number of unreadable records, and what no document contains."""

    num_documents: dict[str, int]
    num_unreadable: int
    not_written: tuple[str, ...] = ()


def export_lmms_eval_tasks(questions: Path, output: Path, seed: int, overwrite: bool) -> LmmsEvalSummary:
    """Write the task folder.

    Images and data are referenced by absolute paths; export again after moving either.

    Args:
        questions: Data set folder or published record file.
        output: Folder to write.
        seed: Seed of the order in which choices are shown.
        overwrite: Replace an earlier export in the same folder.

    Raises:
        FileExistsError: The folder holds files and `overwrite` is off.
        BlockingIOError: Another process writes to the folder.
        ValueError: There are no questions.
    """
    question_set = load_questions(questions, invalid="collect")
    if not question_set.questions:
        raise ValueError(f"{questions} contains no usable questions; see python -m partonomy check")
    with lock_folder(output):
        if has_other_files(output):
            if not overwrite:
                raise FileExistsError(f"{output} is not empty; pass --overwrite or another --output")
            for pattern in OWN_FILES:
                for path in sorted(output.glob(pattern)):
                    path.unlink()
        writer = _write_tasks(question_set, output, seed)
    return LmmsEvalSummary(
        dict(writer.num_documents), len(question_set.invalid), count_kept_values(questions).describe()
    )


def _write_tasks(question_set: QuestionSet, output: Path, seed: int) -> "_Writer":
    """Write all files of an export."""
    data = (output / "data").resolve()
    data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writer = _Writer(data, stack)
        for question in question_set.questions:
            for subject, row in choice_rows(question, seed):
                writer.write(question.question_type.value, OBJECT if subject is Subject.OBJECT else PARTS, row)
            writer.write(question.question_type.value, MASKS, mask_row(question))
    write_text_atomically(output / "utils.py", _UTILS)
    for kind in _RATIOS:
        write_text_atomically(output / _template_name(kind), _template(kind))
    for task, kind in writer.kinds.items():
        write_text_atomically(output / f"{task}.yaml", _task_yaml(task, kind, data))
    choices = sorted(task for task, kind in writer.kinds.items() if kind != MASKS)
    masks = sorted(task for task, kind in writer.kinds.items() if kind == MASKS)
    for group, members in (
        ("partonomy_choices", choices),
        ("partonomy_masks", masks),
        ("partonomy", ["partonomy_choices", "partonomy_masks"]),
    ):
        write_text_atomically(output / f"{group}.yaml", _group_yaml(group, members))
    return writer


class _Writer:
    """Appends rows to the file of their task."""

    def __init__(self, data: Path, stack: ExitStack) -> None:
        self._data = data
        self._stack = stack
        self._files: dict[str, TextIO] = {}
        self.kinds: dict[str, str] = {}
        self.num_documents: Counter[str] = Counter()

    def write(self, question_type: str, kind: str, row: Row) -> None:
        task = f"partonomy_{question_type}" if kind == PARTS else f"partonomy_{question_type}_{kind}"
        if task not in self._files:
            file = (self._data / f"{task}.jsonl").open("w", encoding="utf-8")
            self._files[task] = self._stack.enter_context(file)
            self.kinds[task] = kind
        self._files[task].write(json.dumps(row, ensure_ascii=False) + "\n")
        self.num_documents[task] += 1


def _template_name(kind: str) -> str:
    """Return the template's name, without .yaml so that lmms-eval does not take the template for a task."""
    return f"_partonomy_{kind}_yaml"


def _template(kind: str) -> str:
    metrics = [_metric(name, "ratio", True) for name in _RATIOS[kind]]
    if kind == MASKS:
        metrics.insert(1, _metric("giou_macro_paired", "mean_over_images", True))
    metrics.append(_metric(_FAULTS[kind], "ratio", False))
    return f"""dataset_path: json
output_type: generate_until
test_split: test
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_messages: !function utils.doc_to_messages
doc_to_target: !function utils.{_TARGETS[kind]}
process_results: !function utils.process_{kind}
generation_kwargs:
  max_new_tokens: {_NEW_TOKENS[kind]}
  temperature: 0
  do_sample: false
metric_list:
{"".join(metrics)}metadata:
  version: {VERSION}
"""


def _metric(name: str, aggregation: str, higher_is_better: bool) -> str:
    return (
        f"  - metric: {name}\n    aggregation: !function utils.{aggregation}\n"
        f"    higher_is_better: {str(higher_is_better).lower()}\n"
    )


def _task_yaml(task: str, kind: str, data: Path) -> str:
    path = json.dumps(str(data / f"{task}.jsonl"))  # a JSON string is a valid YAML string for any path
    return f"task: {task}\ninclude: {_template_name(kind)}\ndataset_kwargs:\n  data_files:\n    test: {path}\n"


def _group_yaml(group: str, members: Sequence[str]) -> str:
    return f"group: {group}\ntask:\n" + "".join(f"  - {member}\n" for member in members)
