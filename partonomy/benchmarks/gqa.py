"""GQA: compositional questions about scenes with one short answer each (balanced questions of val or testdev)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partonomy.benchmarks.records import AnswerRecord, mean_score
from partonomy.benchmarks.task import Source
from partonomy.benchmarks.vqa import (
    VqaFunctions,
    VqaItem,
    VqaOptions,
    VqaProtocol,
    check_unique,
    compat_score,
    define_vqa,
    find_file,
    find_folder,
    short_answer_prompt,
)
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, read_json
from partonomy.metrics.bootstrap import ImageRatio

NUM_COMPAT_QUESTIONS = 5000
OPEN, BINARY = "open", "binary"


def read_gqa(root: Path, split: str, protocol: VqaProtocol) -> tuple[VqaItem, ...]:
    """Read `<split>_balanced_questions.json` (in `root` or `root/questions`), images from `root/images`.

    The compatible protocol reads only the first 5,000 questions and also accepts the full answer.

    Raises:
        FileNotFoundError: The file or the image folder is missing.
        ValueError: A record is malformed; the message names the file and the question.
    """
    name = f"{split}_balanced_questions.json"
    path = find_file(root, (name, f"questions/{name}"))
    folder = find_folder(root, ("images",))
    records = list(read_json(path).items())
    if protocol is VqaProtocol.PARTONOMY_COMPAT:
        records = records[:NUM_COMPAT_QUESTIONS]
    items = []
    for question_id, record in records:
        try:
            items.append(_read_record(question_id, record, folder, protocol))
        except RECORD_ERRORS as error:
            raise ValueError(
                f"{path}, question {question_id!r}: not a question of GQA ({type(error).__name__}: {error})"
            ) from error
    return check_unique(items, path)


def gqa_prompt(item: VqaItem, protocol: VqaProtocol) -> str:
    """Return the question with its instruction."""
    return short_answer_prompt(item.question, protocol)


def gqa_prediction(reply: str) -> str:
    """Convert a reply as LLaVA does for the official script: strip final periods and lower-case it."""
    return reply.rstrip(".").lower()


def gqa_score(reply: str, item: VqaItem, protocol: VqaProtocol) -> float:
    """Score the exact match; the compatible protocol takes the soft score of two answers or, if 0, containment."""
    if protocol is VqaProtocol.PARTONOMY_COMPAT:
        return compat_score(reply, item.answers)
    return float(gqa_prediction(reply) == item.answers[0])


def gqa_ratios(records: Sequence[AnswerRecord], protocol: VqaProtocol) -> dict[str, ImageRatio]:
    """Return accuracy overall and, if the file marks them, on open and on binary (yes/no or choice) questions."""
    groups = {record.group for record in records} & {OPEN, BINARY}
    return {"accuracy": mean_score(records)} | {
        f"accuracy_{group}": mean_score(records, group) for group in sorted(groups)
    }


def _read_record(question_id: str, record: Mapping[str, Any], folder: Path, protocol: VqaProtocol) -> VqaItem:
    image_id = check_relative_path(record["imageId"], "imageId")
    answers = [check_text(record["answer"], "answer")]
    if protocol is VqaProtocol.PARTONOMY_COMPAT:
        answers.append(check_text(record["fullAnswer"], "fullAnswer"))
    structure = record["types"].get("structural") if isinstance(record.get("types"), Mapping) else None
    return VqaItem(
        item_id=check_text(question_id, "the question's id"),
        image_id=image_id,
        image_path=folder / f"{image_id}.jpg",
        question=check_text(record["question"], "question"),
        answers=tuple(answers),
        # the official script's rule
        group="" if structure is None else OPEN if structure == "query" else BINARY,
    )


FUNCTIONS = VqaFunctions(gqa_prompt, gqa_prediction, gqa_score, gqa_ratios)


def _read(source: Source, options: VqaOptions) -> Sequence[VqaItem]:
    return read_gqa(source.root, str(source.split), options.protocol)


BENCHMARK = define_vqa(
    "gqa",
    "Compositional questions about scenes",
    "testdev, val; default val under partonomy_compat, else testdev",
    FUNCTIONS,
    options=VqaOptions,
    read=_read,
    default_split=lambda options: "val" if options.protocol is VqaProtocol.PARTONOMY_COMPAT else "testdev",
)
