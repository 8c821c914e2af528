"""Predictions for a folder of images: records and overlays, written image by image, and one HTML page at the end.

A killed run can be resumed. Unreadable images are reported, never skipped silently.
"""

import csv
import gc
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from partonomy.files import convert_json, files_below, open_atomically, read_json_as, write_text_atomically
from partonomy.line_checksums import add_checksum, require_checksum
from partonomy.locks import has_other_files, lock_folder
from partonomy.machine_faults import InputFiles, end_run_on_machine_fault, is_out_of_memory
from partonomy.masks import encode_mask, rle_to_json
from partonomy.models.contract import Role, Turn
from partonomy.progress import progress
from partonomy.visualize import Colour, draw_overlay, part_colours, resize
from plum.inference.highlight import NOTHING, Highlight, answer_about, parse_char_range
from plum.inference.predictor import MAX_NEW_TOKENS, Prediction, Predictor, default_new_tokens
from plum.inference.read_images import read_image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
COLUMNS = ("image", "images", "question", "phrases", "char_ranges", "answer")
PAGE_FILE = "index.html"
RECORDS_FILE = "predictions.jsonl"
FAILURES_FILE = "failures.jsonl"
SETTINGS_FILE = "settings.json"
OVERLAYS, THUMBNAILS = "overlays", "thumbnails"
THUMBNAIL_SIDE = 320
"""Longest side of a thumbnail, pixels."""
MAX_SIDE = 1600
"""Longest side in pixels, to which larger images are reduced so that the legend stays readable."""
NO_MEMORY = "the memory does not suffice for this image: reduce it, or ask it again with --resume where there is more"
Json = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuestionRequest:
    """One question and what to segment in its answer."""

    question: str
    highlight: Highlight = NOTHING


@dataclass(frozen=True)
class ImageRequest:
    """Questions about one image, or about several that a conversation shows together.

    names: the images' paths relative to the given folders
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    questions: tuple[QuestionRequest, ...]

    @property
    def name(self) -> str:
        """Name of the request, unique in a folder of predictions."""
        return " + ".join(self.names)

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return the questions as plain values."""
        return [asdict(question) for question in self.questions]


@dataclass(frozen=True)
class QuestionRow:
    """One record of a question file: a question about `images` together, or about every image if there is none."""

    images: tuple[str, ...]
    request: QuestionRequest


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Find image files by name: given files, and every image below a given folder, sorted by name.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
        PermissionError: a folder may not be read.
        ValueError: two images have the same name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in files_below(path) if file.suffix.lower() in IMAGE_SUFFIXES)
            if not files:
                raise FileNotFoundError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
            named = {file.relative_to(path).as_posix(): file for file in files}
        elif path.exists():
            named = {path.name: path}
        else:
            raise FileNotFoundError(f"{path}: no such image or folder")
        if twice := sorted(found.keys() & named.keys()):
            raise ValueError(
                f"two images are named {twice[0]}: {found[twice[0]]} and {named[twice[0]]}; predict them apart"
            )
        found |= named
    return found


def build_requests(
    images: Mapping[str, Path], questions: Sequence[QuestionRequest], question_file: Path | None
) -> tuple[ImageRequest, ...]:
    """Collect the questions of every image: the given ones, then those of the file for all images and for this one.

    Questions about several images together follow.

    Raises:
        FileNotFoundError: there is no such question file.
        ValueError: the file is invalid or names an unknown image, or an image has no question or the same question
            twice.
    """
    rows = [] if question_file is None else read_question_file(question_file)
    unknown = [name for row in rows for name in row.images if name not in images]
    if unknown:
        raise ValueError(
            f"{question_file}: no image is named {unknown[0]!r} ({len(unknown)} such names); correct the key `image` "
            "or `images`"
        )
    together = list(dict.fromkeys(row.images for row in rows if len(row.images) > 1))
    in_several = {name for names in together for name in names}
    requests = []
    for names in [*((name,) for name in images), *together]:
        own = [row.request for row in rows if row.images == names or (len(names) == 1 and not row.images)]
        asked = (*(questions if len(names) == 1 else ()), *own)
        if not asked:
            if names[0] in in_several:
                continue
            raise ValueError(f"{names[0]} has no question: give --question, or a record for it in {question_file}")
        request = ImageRequest(tuple(images[name] for name in names), names, asked)
        if double := [one for one, count in Counter(asked).items() if count > 1]:
            raise ValueError(f"{request.name} is asked the same twice: {double[0].question!r}")
        requests.append(request)
    return tuple(requests)


def read_question_file(path: Path) -> list[QuestionRow]:
    """Read a JSON list of objects, or CSV with a header, with the keys of COLUMNS; only `question` is required.

    In CSV, phrases, ranges and images are separated by commas ("left wing, tail", "10:19, 24:29"); in JSON, they are
    lists or such texts. `images` are shown together in one conversation, in which texts call them (IMAGE1), (IMAGE2).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a record is invalid; the message names file and record.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such question file; correct the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason}); write a JSON or CSV file") from error
    if path.suffix.lower() == ".csv":
        records: Any = list(csv.DictReader(text.splitlines()))
    else:
        try:
            records = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is neither CSV by its name nor JSON: {error}") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f'{path} holds no list of records, such as [{{"question": "What parts does it have?"}}]')
    return [_read_record(record, f"{path}, record {number}") for number, record in enumerate(records, start=1)]


def _read_record(record: object, where: str) -> QuestionRow:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {record!r} is not an object with the keys {', '.join(COLUMNS)}")
    if unknown := sorted(str(key) for key in record if key not in COLUMNS):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(COLUMNS)}")
    texts = {key: record.get(key) or "" for key in ("image", "question", "answer")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}: {key} is {value!r}, not a text")
    if not texts["question"].strip():
        raise ValueError(f"{where}: there is no question")
    try:
        ranges = tuple(parse_char_range(one) for one in _list_of_texts(record.get("char_ranges"), "char_ranges"))
        phrases = _list_of_texts(record.get("phrases"), "phrases")
        images = _list_of_texts(record.get("images"), "images")
        highlight = Highlight(phrases, ranges, texts["answer"] or None)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if images and texts["image"].strip():
        raise ValueError(f"{where}: give `image` for one image, or `images` for several together, not both")
    if len(set(images)) < len(images):
        raise ValueError(f"{where}: `images` names an image twice: {', '.join(images)}")
    shown = images or tuple(filter(None, (texts["image"].strip(),)))
    return QuestionRow(shown, QuestionRequest(texts["question"].strip(), highlight))


def _list_of_texts(value: object, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"{key} is {value!r}, not a list of texts")
    return tuple(item.strip() for item in items if item.strip())


def span_texts(prediction: Prediction) -> list[str]:
    """Return the phrases of a prediction."""
    return [prediction.text[span.start : span.end] for span in prediction.spans]


def prediction_to_json(prediction: Prediction) -> Json:
    """Convert to JSON: the text, and for each span phrase, characters, confidences and mask (COCO compressed RLE).

    "finish_reason" is "stop", "length" (the limit on new tokens ended the answer), or null for a given answer.
    """
    codes = [encode_mask(mask) for mask in prediction.masks]  # one at a time: encoding copies
    return {
        "text": prediction.text,
        "finish_reason": prediction.finish_reason,
        "num_tokens": prediction.num_tokens,
        "spans": [
            {
                "phrase": phrase,
                "characters": [span.start, span.end],
                "tag_confidence": prediction.tag_confidences[i],
                "mask_confidence": prediction.mask_confidences[i],
                "segmentation": rle_to_json(codes[i]),
            }
            for i, (phrase, span) in enumerate(zip(span_texts(prediction), prediction.spans, strict=True))
        ],
    }


def cut_mark(finish_reason: str | None, num_tokens: int | None) -> str:
    """Return the mark of an answer that a limit ended, e.g. "[cut at 256 tokens]"; empty for any other answer."""
    return f"[cut at {num_tokens} tokens]" if finish_reason == "length" else ""


def append_line(path: Path, record: Json) -> None:
    """Append a record as one line with its checksum."""
    with path.open("a", encoding="utf-8") as file:
        file.write(add_checksum(json.dumps(record, ensure_ascii=False)) + "\n")


class _StoredSpan(msgspec.Struct):
    """What the page shows of a segmented phrase."""

    phrase: str
    mask_confidence: float


class _StoredAnswer(msgspec.Struct):
    """What the page shows of an answer."""

    question: str
    text: str
    overlay: str
    thumbnail: str
    spans: list[_StoredSpan]


class _StoredImage(msgspec.Struct):
    """What the page shows of an image."""

    image: str
    answers: list[_StoredAnswer]


def read_lines(path: Path) -> Iterator[Json]:
    """Yield the records of a file, one at a time.

    Raises:
        ValueError: a line is not the prediction of an image, or was changed since it was written; the message names it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                require_checksum(line)
                record = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}); delete the line") from error
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}; delete the line") from error
            convert_json(record, _StoredImage, f"{path}, line {number}", "delete the line")
            yield record


def drop_half_line(path: Path) -> None:
    """Truncate a file after its last complete line; a killed process may have left part of another."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        size = file.seek(0, 2)
        step, end = 2**16, size
        while end > 0:
            start = max(0, end - step)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)


def phrase_colours(predictions: Sequence[Prediction]) -> list[tuple[Colour, ...]]:
    """Return the colours of each prediction's spans; a phrase has one colour in all images of an answer."""
    spans = [span for prediction in predictions for span in prediction.spans]
    if len(predictions) > 1:
        spans = sorted(set(spans), key=lambda span: (span.start, span.end))
    palette = part_colours(len(spans))
    if len(predictions) == 1:
        return [palette]
    colour_of = dict(zip(spans, palette, strict=True))
    return [tuple(colour_of[span] for span in prediction.spans) for prediction in predictions]


def draw_prediction(
    image: np.ndarray, prediction: Prediction, has_legend: bool = True, colours: Sequence[Colour] | None = None
) -> np.ndarray:
    """Draw a prediction over its image.

    Args:
        image: uint8 RGB (H, W, 3).
        prediction: with masks of that size.
        has_legend: whether to write the phrases below.
        colours: one per span; None: in the order of the spans.

    Returns:
        uint8 RGB.
    """
    masks, scale = prediction.masks, MAX_SIDE / max(image.shape[:2])
    if scale < 1:
        image, masks = resize(image, masks, scale)
    return draw_overlay(image, masks, span_texts(prediction), has_legend, colours)


@dataclass(frozen=True)
class Phrase:
    """A segmented phrase: its colour in the overlay as CSS writes it, and its mask's confidence."""

    text: str
    colour: str
    confidence: float


@dataclass(frozen=True)
class Card:
    """One answer; `overlay` and `thumbnail` are links."""

    image: str
    question: str
    answer: str
    overlay: str
    thumbnail: str
    phrases: tuple[Phrase, ...]


def write_page(output: Path, model_name: str, records: Iterable[Json], failures: Sequence[tuple[str, str]]) -> Path:
    """Write the page.

    Args:
        output: folder of the predictions; links are relative to it.
        model_name: name shown on the page.
        records: records of predictions.
        failures: images that failed, with reasons.

    Returns:
        Path of the page.
    """
    environment = Environment(
        loader=PackageLoader("plum.inference", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = [card for record in records for card in _cards(record)]
    page = environment.get_template("page.html.j2").stream(model_name=model_name, cards=cards, failures=failures)
    with open_atomically(output / PAGE_FILE) as file:
        page.dump(file, encoding="utf-8")
    return output / PAGE_FILE


def _cards(record: Json) -> list[Card]:
    return [
        Card(
            answer.get("image", record["image"]),
            answer["question"],
            " ".join(filter(None, (answer["text"], cut_mark(answer.get("finish_reason"), answer.get("num_tokens"))))),
            quote(answer["overlay"]),
            quote(answer["thumbnail"]),
            tuple(
                Phrase(span["phrase"], "rgb({}, {}, {})".format(*colour), span["mask_confidence"])
                for span, colour in zip(
                    answer["spans"], answer.get("colours", part_colours(len(answer["spans"]))), strict=True
                )
            ),
        )
        for answer in record["answers"]
    ]


@dataclass(frozen=True)
class FolderResult:
    """Numbers of images predicted now and before, failed images with reasons, and the path of the page.

    num_answers, num_cut: numbers of all answers, and of those that the limit on new tokens ended
    """

    num_done: int
    num_before: int
    num_answers: int
    num_cut: int
    failures: tuple[tuple[str, str], ...]
    page: Path


def predict_folder(
    predictor: Predictor,
    requests: Sequence[ImageRequest],
    output: Path,
    model_name: str,
    *,
    resume: bool,
    max_new_tokens: int | None = None,
) -> FolderResult:
    """Answer all questions about all images.

    An unreadable image, a phrase that an answer lacks, or an image for which the memory does not suffice fails only
    that image. Any other fault of the machine ends the command (`partonomy.machine_faults`). With `resume`, finished
    images are kept and failed ones are retried.

    Args:
        predictor: the model.
        requests: images and questions.
        output: output folder; must be new unless `resume`.
        model_name: checkpoint and its fingerprint; recorded, and compared on resuming.
        resume: continue in `output`.
        max_new_tokens: maximum length of an answer; None: `default_new_tokens` of the largest number of images that a
            question is about. Recorded, and compared on resuming.

    Raises:
        FileExistsError: `output` exists and `resume` is off.
        BlockingIOError: another process writes to `output`.
        ValueError: `output` belongs to another model, to other questions or to another limit on answers.
        OSError: a file cannot be written.
        MachineFault: the machine fails in another way, such as an unmounted folder of images.
        ModelUnavailable: the model's logits are NaN or infinite.
    """
    if max_new_tokens is None:
        max_new_tokens = default_new_tokens(max((len(request.paths) for request in requests), default=1))
    with lock_folder(output):
        _start(output, requests, model_name, resume, max_new_tokens)
        return _predict_held(predictor, requests, output, model_name, max_new_tokens)


def _predict_held(
    predictor: Predictor, requests: Sequence[ImageRequest], output: Path, model_name: str, max_new_tokens: int
) -> FolderResult:
    """Answer all questions in a folder that this process holds and that belongs to them."""
    records = output / RECORDS_FILE
    drop_half_line(records)
    done = {str(record["image"]) for record in read_lines(records)} if records.is_file() else set()
    waiting = [request for request in requests if request.name not in done]
    failures: list[tuple[str, str]] = []
    files = InputFiles(lambda: (path for request in requests for path in request.paths))
    (output / FAILURES_FILE).unlink(missing_ok=True)
    with progress(len(requests), "predict", "image", initial=len(requests) - len(waiting)) as shown:
        for request in waiting:
            outcome = _try_image(predictor, request, output, files, max_new_tokens)
            if isinstance(outcome, str):
                failures.append((request.name, outcome))
                append_line(output / FAILURES_FILE, {"image": request.name, "reason": outcome})
                logger.warning("%s failed: %s", request.name, outcome)
            else:
                append_line(records, outcome)
            shown.update()
    page = write_page(output, model_name, read_lines(records) if records.is_file() else [], failures)
    num_answers = num_cut = 0
    for record in read_lines(records) if records.is_file() else ():
        num_answers += len(record["answers"])
        num_cut += sum(answer.get("finish_reason") == "length" for answer in record["answers"])
    num_before = len(requests) - len(waiting)
    return FolderResult(len(waiting) - len(failures), num_before, num_answers, num_cut, tuple(failures), page)


class _StoredSettings(msgspec.Struct):
    """The content of the settings file: the model, the limit on answers, and each image's questions."""

    model: str
    questions: dict[str, Any]
    max_new_tokens: int = MAX_NEW_TOKENS  # earlier versions had no other limit


def _start(output: Path, requests: Sequence[ImageRequest], model_name: str, resume: bool, max_new_tokens: int) -> None:
    """Create the folder, or check that it belongs to the same model, limit and questions."""
    asked = {request.name: request.fingerprint() for request in requests}
    settings = json.loads(json.dumps({"model": model_name, "max_new_tokens": max_new_tokens, "questions": asked}))
    path = output / SETTINGS_FILE
    if path.is_file():
        if not resume:
            raise FileExistsError(f"{output} holds predictions: continue with --resume, or choose another folder")
        earlier = read_json_as(path, _StoredSettings, "choose another folder")
        if earlier.model != settings["model"]:
            raise ValueError(
                f"{output} holds predictions of {earlier.model}, not of {model_name}; choose another folder"
            )
        if earlier.max_new_tokens != max_new_tokens:
            raise ValueError(
                f"{output} holds answers of up to {earlier.max_new_tokens} tokens, not {max_new_tokens}: resume with "
                f"--max_new_tokens {earlier.max_new_tokens}, or choose another folder"
            )
        changed = [name for name in earlier.questions if asked.get(name) is None]
        changed += [name for name, one in settings["questions"].items() if earlier.questions.get(name, one) != one]
        if changed:
            raise ValueError(
                f"{output} holds predictions for other questions or images, such as {changed[0]}; choose another folder"
            )
    elif has_other_files(output):
        raise FileExistsError(f"{output} is not empty and holds no predictions: choose another folder")
    write_text_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _try_image(
    predictor: Predictor, request: ImageRequest, output: Path, files: InputFiles, max_new_tokens: int
) -> Json | str:
    """Return the record of an image, or the reason why this image alone has none.

    Raises:
        OSError, MachineFault: the fault is not the image's.
        ModelUnavailable: the model's logits are NaN or infinite.
    """
    images = []
    for path in request.paths:
        try:
            images.append(read_image(path))
        except (OSError, ValueError, MemoryError) as error:
            if is_out_of_memory(error):
                return NO_MEMORY
            end_run_on_machine_fault(error, of_input=True)
            if isinstance(error, FileNotFoundError):
                files.end_run_if_folder_is_missing(path)
            return str(error)
    try:
        return _predict_images(predictor, request, images, output, max_new_tokens)
    except Exception as error:
        if not is_out_of_memory(error):
            end_run_on_machine_fault(error)
            if isinstance(error, ValueError):
                return str(error)
            raise
    # Only now: until its handler ends, the error keeps what the failed work had allocated.
    predictor.images.keep(())
    _release_memory()
    return NO_MEMORY


def _release_memory() -> None:
    """Free what failed work has left; call it when no error or frame refers to that work any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _predict_images(
    predictor: Predictor, request: ImageRequest, images: Sequence[np.ndarray], output: Path, max_new_tokens: int
) -> Json:
    """Return the record of a request; an answer about several images has an entry for each."""
    answers: list[Json] = []
    for number, asked in enumerate(request.questions, start=1):
        turns = (Turn(Role.USER, asked.question),)
        try:
            predictions = answer_about(predictor, images, turns, asked.highlight, max_new_tokens)
        except ValueError as error:
            raise ValueError(f"question {number} ({asked.question!r}): {error}") from error
        drawn = zip(images, request.names, predictions, phrase_colours(predictions), strict=True)
        for image, name, prediction, colours in drawn:
            stem = f"{name}.{number}" if len(images) == 1 else f"{request.name}/{name}.{number}"
            overlay, thumbnail = _draw(image, prediction, colours, stem, output)
            record = {"question": asked.question, **prediction_to_json(prediction)}
            if len(images) > 1:
                record |= {"image": name, "height": image.shape[0], "width": image.shape[1]}
                record["colours"] = [list(colour) for colour in colours]
            answers.append({**record, "overlay": overlay, "thumbnail": thumbnail})
    if len(images) > 1:
        return {"image": request.name, "images": list(request.names), "answers": answers}
    height, width = images[0].shape[:2]
    return {"image": request.name, "height": height, "width": width, "answers": answers}


def _draw(
    image: np.ndarray, prediction: Prediction, colours: Sequence[Colour], name: str, output: Path
) -> tuple[str, str]:
    """Write overlay and thumbnail; return their paths below `output`."""
    overlay, thumbnail = f"{OVERLAYS}/{name}.png", f"{THUMBNAILS}/{name}.jpg"
    for path in (overlay, thumbnail):
        (output / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_prediction(image, prediction, colours=colours)).save(output / overlay)
    small = Image.fromarray(draw_prediction(image, prediction, has_legend=False, colours=colours))
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small.save(output / thumbnail, quality=85)
    return overlay, thumbnail
