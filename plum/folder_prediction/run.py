"""Predictions for many images: records, overlays and thumbnails written as they come, broken images listed."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from partonomy.files import write_text_atomically
from partonomy.models.contract import Role, Turn
from plum.api import read_image
from plum.folder_prediction.drawing import draw_prediction
from plum.folder_prediction.page import write_page
from plum.folder_prediction.records import (
    Json,
    append_line,
    drop_half_line,
    prediction_to_json,
    read_lines,
)
from plum.folder_prediction.requests import ImageRequest
from plum.highlight import answer_question
from plum.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

RECORDS_FILE = "predictions.jsonl"
FAILURES_FILE = "failures.jsonl"
SETTINGS_FILE = "settings.json"
OVERLAYS, THUMBNAILS = "overlays", "thumbnails"
THUMBNAIL_SIDE = 320
"""Longest side of a thumbnail, pixels."""


@dataclass(frozen=True)
class FolderResult:
    """How many images were done now and before, which failed and why, and where the page is."""

    num_done: int
    num_before: int
    failures: tuple[tuple[str, str], ...]
    page: Path


def predict_folder(
    predictor: Predictor, requests: Sequence[ImageRequest], output: Path, model_name: str, *, resume: bool
) -> FolderResult:
    """Answer all questions about all images.

    A broken image, or a phrase that an answer lacks, fails that image alone. With `resume` images that are done are
    kept and failed ones tried again.

    Args:
        predictor: the model.
        requests: images and questions.
        output: folder; new, unless `resume`.
        model_name: recorded, and compared on resuming: the checkpoint and its fingerprint.
        resume: go on in `output`.

    Raises:
        FileExistsError: `output` exists and `resume` is off.
        ValueError: `output` is of another model or of other questions.
    """
    _start(output, requests, model_name, resume)
    records = output / RECORDS_FILE
    drop_half_line(records)
    done = {str(record["image"]) for record in read_lines(records)} if records.is_file() else set()
    waiting = [request for request in requests if request.name not in done]
    failures: list[tuple[str, str]] = []
    (output / FAILURES_FILE).unlink(missing_ok=True)
    for request in tqdm(waiting, desc="predict", unit="image"):
        try:
            record = _predict_image(predictor, request, output)
        except (FileNotFoundError, ValueError) as error:
            failures.append((request.name, str(error)))
            append_line(output / FAILURES_FILE, {"image": request.name, "reason": str(error)})
            logger.warning("%s failed: %s", request.name, error)
            continue
        append_line(records, record)
    page = write_page(output, model_name, read_lines(records) if records.is_file() else [], failures)
    return FolderResult(len(waiting) - len(failures), len(requests) - len(waiting), tuple(failures), page)


def _start(output: Path, requests: Sequence[ImageRequest], model_name: str, resume: bool) -> None:
    """Make the folder, or check that it is of the same model and questions."""
    asked = {request.name: request.fingerprint() for request in requests}
    settings = json.loads(json.dumps({"model": model_name, "questions": asked}))
    path = output / SETTINGS_FILE
    if path.is_file():
        if not resume:
            raise FileExistsError(f"{output} holds predictions: go on with --resume, or choose another folder")
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["model"] != settings["model"]:
            raise ValueError(f"{output} holds predictions of {earlier['model']}, not of {model_name}")
        changed = [name for name, questions in earlier["questions"].items() if asked.get(name) is None]
        changed += [name for name, one in settings["questions"].items() if earlier["questions"].get(name, one) != one]
        if changed:
            raise ValueError(f"{output} holds predictions for other questions or images, such as {changed[0]}")
    elif output.is_dir() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty and holds no predictions: choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _predict_image(predictor: Predictor, request: ImageRequest, output: Path) -> Json:
    image = read_image(request.path)
    answers: list[Json] = []
    for number, asked in enumerate(request.questions, start=1):
        turns = (Turn(Role.USER, asked.question),)
        try:
            prediction = answer_question(predictor, image, turns, asked.highlight)
        except ValueError as error:
            raise ValueError(f"question {number} ({asked.question!r}): {error}") from error
        overlay, thumbnail = _draw(image, prediction, f"{request.name}.{number}", output)
        answers.append(
            {
                "question": asked.question,
                **prediction_to_json(prediction),
                "overlay": overlay,
                "thumbnail": thumbnail,
            }
        )
    return {"image": request.name, "height": image.shape[0], "width": image.shape[1], "answers": answers}


def _draw(image: np.ndarray, prediction: Prediction, name: str, output: Path) -> tuple[str, str]:
    """Write overlay and thumbnail; return their paths below `output`."""
    overlay, thumbnail = f"{OVERLAYS}/{name}.png", f"{THUMBNAILS}/{name}.jpg"
    for path in (overlay, thumbnail):
        (output / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_prediction(image, prediction)).save(output / overlay)
    small = Image.fromarray(draw_prediction(image, prediction, has_legend=False))
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small.save(output / thumbnail, quality=85)
    return overlay, thumbnail
