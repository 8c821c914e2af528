"""Records to JSON lines and back."""

import dataclasses
import json
from typing import Any

from partonomy.evaluation.model_api import ChoiceScore
from partonomy.evaluation.records import (
    Capability,
    ChoiceRecord,
    GenerationRecord,
    MaskRecord,
    Record,
    Status,
    TruePart,
)
from partonomy.metrics.iou import PairStatistics
from partonomy.metrics.multiple_choice import ChoiceSelection
from partonomy.questions.question_types import QuestionType
from partonomy.structures import RLE, CharSpan

Json = dict[str, Any]


def record_to_line(record: Record) -> str:
    """One line of JSON without its newline; field names are those of the dataclasses."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, allow_nan=False)


def record_from_line(line: str) -> Record:
    """Read what `record_to_line` wrote.

    Raises:
        ValueError: The line is not JSON, or its fields are not a record's.
    """
    try:
        data = json.loads(line)
        return _record(data)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a record of an evaluation: {line[:120]!r} ({error!r})") from error


def _record(data: Json) -> Record:
    question_type = data["question_type"]
    return Record(
        question_id=data["question_id"],
        question_type=None if question_type is None else QuestionType(question_type),
        image_id=data["image_id"],
        image_path=data["image_path"],
        instance_id=data["instance_id"],
        object_label=data["object_label"],
        question=data["question"],
        status=Status(data["status"]),
        reason=data["reason"],
        requested=tuple(Capability(name) for name in data["requested"]),
        unsupported=tuple(Capability(name) for name in data["unsupported"]),
        true_parts=tuple(TruePart(part["label"], part["area"]) for part in data["true_parts"]),
        true_union_area=data["true_union_area"],
        parts_choice=_choice(data["parts_choice"]),
        object_choice=_choice(data["object_choice"]),
        segmentation=None if data["segmentation"] is None else _masks(data["segmentation"]),
        generation=_generation(data["generation"]),
        seconds=data["seconds"],
    )


def _choice(data: Json | None) -> ChoiceRecord | None:
    if data is None:
        return None
    scores, selection = data["scores"], data["selection"]
    return ChoiceRecord(
        texts=tuple(data["texts"]),
        labels=tuple(tuple(labels) for labels in data["labels"]),
        correct_index=data["correct_index"],
        scores=None
        if scores is None
        else tuple(
            ChoiceScore(
                score["answer_log_prob"],
                score["answer_tokens"],
                score["conversation_log_prob"],
                score["conversation_tokens"],
            )
            for score in scores
        ),
        selection=None
        if selection is None
        else ChoiceSelection(selection["sequence"], selection["answer_mean"], selection["conversation_mean"]),
    )


def _pairs(data: list[Json]) -> tuple[PairStatistics, ...]:
    return tuple(PairStatistics(pair["intersection"], pair["union"], pair["is_predicted"]) for pair in data)


def _masks(data: Json) -> MaskRecord:
    return MaskRecord(
        masks=tuple(RLE(mask["height"], mask["width"], mask["counts"]) for mask in data["masks"]),
        paired=_pairs(data["paired"]),
        hungarian=_pairs(data["hungarian"]),
        greedy=_pairs(data["greedy"]),
        union=_pairs(data["union"]),
    )


def _generation(data: Json | None) -> GenerationRecord | None:
    if data is None:
        return None
    return GenerationRecord(
        text=data["text"],
        spans=tuple(CharSpan(span["start"], span["end"]) for span in data["spans"]),
        confidences=tuple(data["confidences"]),
        masks=_masks(data["masks"]),
    )
