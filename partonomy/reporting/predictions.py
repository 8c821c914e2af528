"""A run's answers and masks in the published record's schema, for tools that read the authors' files.

Each entry is the question's published record and, beside it, `question_id`, `status`, `reason`, `predicted_answer` and
`predicted_object_answer` (the choices of the default selector), `predicted_segmentations` {part: [RLE]} (phrases
given), `generated_text` and `generated_segmentations` {tagged phrase: [RLE]}; null where the model did not answer.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.benchmarks.partonomy.records import ChoiceRecord, QuestionRecord
from partonomy.datasets.published_records import question_to_record, read_records
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.files import hash_files
from partonomy.masks import rle_to_json
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR
from partonomy.reporting.loaded_run import LoadedRun
from partonomy.structures import RLE, ObjectInstance, Question


@dataclass(frozen=True)
class PredictionSummary:
    """How many entries were written, and which records have none since their question could not be read."""

    num_written: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class _Asked:
    question: Question
    instance: ObjectInstance


def write_predictions(run: LoadedRun, output: Path) -> PredictionSummary:
    """Write the JSON list, one entry per question of the run, in the order of its records.

    Args:
        run: a finished run; its questions must still be where they were.
        output: file to write; image paths in it are relative to its folder.

    Raises:
        FileNotFoundError: the questions are gone.
        ValueError: the questions have changed since the run.
    """
    asked = _load_asked(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.parent.resolve()
    temporary = output.with_name(f".{output.name}.tmp")
    num_written = 0
    with temporary.open("w", encoding="utf-8") as file:
        file.write("[\n")
        for record in run.records:
            if record.item_id in asked:
                entry = _entry(asked[record.item_id], record, folder)
                file.write((",\n" if num_written else "") + json.dumps(entry, ensure_ascii=False))
                num_written += 1
        file.write("\n]\n")
    os.replace(temporary, output)
    unreadable = tuple(record.item_id for record in run.records if record.item_id not in asked)
    return PredictionSummary(num_written, unreadable)


def _load_asked(run: LoadedRun) -> Mapping[str, _Asked]:
    path = Path(str(run.summary.config["root"]))
    if path.is_file():
        content_hash, asked = hash_files([path]), _from_record_file(path)
    else:
        question_set = load_questions(path, invalid="collect")
        content_hash, asked = question_set.content_hash, _from_folder(path, question_set.questions)
    if content_hash != run.dataset_hash:
        raise ValueError(f"{path} has changed since the run {run.path}; validate again")
    return {entry.question.question_id: entry for entry in asked}


def _from_record_file(path: Path) -> Iterator[_Asked]:
    for record in read_records(path, "collect")[0]:
        question = record.question
        yield _Asked(question, ObjectInstance(-1, question.object_label, "", record.parts))


def _from_folder(path: Path, questions: Iterable[Question]) -> Iterator[_Asked]:
    instances = {instance.instance_id: instance for image in load_dataset(path).images for instance in image.objects}
    for question in questions:
        yield _Asked(question, instances[question.instance_id])


def _entry(asked: _Asked, record: QuestionRecord, folder: Path) -> dict[str, object]:
    masks, generation = record.segmentation, record.generation
    labels = [part.label for part in record.true_parts]
    return question_to_record(asked.question, asked.instance, folder) | {
        "question_id": record.item_id,
        "status": record.status.value,
        "reason": record.reason,
        "predicted_answer": _chosen(record.parts_choice),
        "predicted_object_answer": _chosen(record.object_choice),
        "predicted_segmentations": None if masks is None else _masks_by_label(labels, masks.masks),
        "generated_text": None if generation is None else generation.text,
        "generated_segmentations": (
            None if generation is None else _masks_by_label(generation.span_texts, generation.masks.masks)
        ),
    }


def _chosen(choice: ChoiceRecord | None) -> str | None:
    if choice is None or choice.selection is None:
        return None
    return choice.texts[choice.selection.index(DEFAULT_SELECTOR)]


def _masks_by_label(labels: Sequence[str], masks: Sequence[RLE]) -> dict[str, list[dict[str, object]]]:
    """Masks in reading order; the last labels go without where the model made fewer masks than there are phrases."""
    by_label: dict[str, list[dict[str, object]]] = {}
    for label, mask in zip(labels, masks, strict=False):
        by_label.setdefault(label, []).append(rle_to_json(mask))
    return by_label
