"""Regression check of a model: its answer to one question about one image, compared with the answer recorded before.

Answers are kept in the user's JSON file, keyed by weights, image, question and dtype. A base without PLUM's heads is
only asked for its text.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from partonomy.files import write_text_atomically
from partonomy.images import hash_image
from partonomy.masks import decode_mask, encode_mask
from partonomy.models.contract import Role, Turn
from partonomy.structures import RLE, CharSpan
from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.store import has_heads, load_pretrained
from plum.inference.predictor import Predictor
from plum.inputs.tokenizer import load_model_tokenizer
from plum.models.systems.special_tokens import with_special_tokens
from plum.training.initialise import Placement, build_from

MAX_NEW_TOKENS = 64
SMALLEST_IOU = 0.95
LARGEST_AREA_CHANGE = 0.05
"""Share of the recorded area that another GPU or kernel may change at a mask's border."""


class Verdict(Enum):
    """Outcome of a check."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown weights"


@dataclass(frozen=True)
class KnownAnswer:
    """A model's answer.

    Attributes:
        weights: hash of all weight files, see `plum.doctor.folders`.
        image: SHA-256 of the image's size and pixels.
        question: the question.
        dtype: dtype in which the model computed.
        text: its answer.
        spans: tagged phrases.
        masks: one per phrase, original-image pixels.
    """

    weights: str
    image: str
    question: str
    dtype: str
    text: str
    spans: tuple[CharSpan, ...]
    masks: tuple[RLE, ...]


@dataclass(frozen=True)
class Comparison:
    """Outcome of a check, with one line per item compared."""

    verdict: Verdict
    lines: tuple[str, ...]


_ADAPTER = TypeAdapter(tuple[KnownAnswer, ...])


def ask(folder: Path, weights: str, image: np.ndarray, question: str, placement: Placement) -> KnownAnswer:
    """Ask a saved model, or a converted base.

    Args:
        folder: the saved model.
        weights: its hash.
        image: uint8 RGB (H, W, 3).
        question: the question about the image.
        placement: dtype and device to compute in.
    """
    turns = [Turn(Role.USER, question)]
    common = (weights, hash_image(image), question, str(placement.dtype).removeprefix("torch."))
    if not has_heads(folder):
        text = _load_base(folder, placement).generate_text(image, turns, MAX_NEW_TOKENS)
        return KnownAnswer(*common, text, (), ())
    loaded = load_pretrained(folder, placement.device, placement.dtype)
    found = Predictor(loaded.model, loaded.tokenizer, loaded.config).generate(image, turns, MAX_NEW_TOKENS)
    return KnownAnswer(*common, found.text, found.spans, tuple(encode_mask(mask) for mask in found.masks))


def compare(known: Sequence[KnownAnswer], answer: KnownAnswer) -> Comparison:
    """Compare an answer with the one recorded for its weights, image, question and dtype."""
    same = [one for one in known if _key(one) == _key(answer)]
    if not same:
        return Comparison(Verdict.UNKNOWN, (f"weights {answer.weights[:12]}: no answer is recorded for them",))
    expected = same[-1]
    lines = [f"text: {answer.text!r}"]
    is_same = answer.text == expected.text
    if not is_same:
        lines.append(f"  recorded: {expected.text!r}")
    if answer.spans != expected.spans or len(answer.masks) != len(expected.masks):
        lines.append(f"phrases: {len(answer.spans)}, recorded {len(expected.spans)}, or at other positions")
        return Comparison(Verdict.FAIL, tuple(lines))
    for index, (mask, recorded) in enumerate(zip(answer.masks, expected.masks, strict=True)):
        is_close, line = _compare_masks(decode_mask(mask), decode_mask(recorded))
        lines.append(f"mask {index}: {line}")
        is_same = is_same and is_close
    return Comparison(Verdict.PASS if is_same else Verdict.FAIL, tuple(lines))


def _compare_masks(mask: np.ndarray, recorded: np.ndarray) -> tuple[bool, str]:
    """Return whether two masks agree within the tolerances, and a line about their difference."""
    if mask.shape != recorded.shape:
        return False, f"{mask.shape} pixels, recorded {recorded.shape}"
    union = int((mask | recorded).sum())
    iou = 1.0 if union == 0 else int((mask & recorded).sum()) / union
    area, before = int(mask.sum()), int(recorded.sum())
    is_close = iou >= SMALLEST_IOU and abs(area - before) <= LARGEST_AREA_CHANGE * before
    return is_close, f"area {area}, recorded {before}, IoU {iou:.4f}"


def read_answers(path: Path) -> tuple[KnownAnswer, ...]:
    """Read the recorded answers; none if there is no file.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    if not path.is_file():
        return ()
    try:
        return _ADAPTER.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; delete the file to record again"
        ) from error


def record_answer(path: Path, answer: KnownAnswer) -> None:
    """Add an answer to a file; it replaces an earlier one with the same weights, image, question and dtype."""
    kept = [one for one in read_answers(path) if _key(one) != _key(answer)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps([asdict(one) for one in (*kept, answer)], indent=1) + "\n")


def standard_image() -> np.ndarray:
    """Return a cart on a meadow, uint8 RGB (480, 640, 3), drawn in integers, so that all machines get the same."""
    rows, columns = np.mgrid[:480, :640]
    image = np.stack([120 + rows // 8, 170 + rows // 10, 235 - rows // 12], axis=-1)
    image[rows > 340] = (86, 140, 60)
    image[(rows > 190) & (rows < 330) & (columns > 140) & (columns < 500)] = (178, 44, 38)
    image[(rows > 215) & (rows < 235) & (columns > 40) & (columns < 150)] = (120, 84, 50)
    for centre in (220, 420):
        squared = (rows - 345) ** 2 + (columns - centre) ** 2
        image[squared < 62**2] = (38, 38, 42)
        image[squared < 18**2] = (190, 190, 196)
    return image.astype(np.uint8)


def _key(answer: KnownAnswer) -> tuple[str, str, str, str]:
    return answer.weights, answer.image, answer.question, answer.dtype


def _load_base(folder: Path, placement: Placement) -> Predictor:
    """Load a converted base with fresh heads, which are never used."""
    saved = read_model_config(folder)
    tokenizer = load_model_tokenizer(folder, saved)
    config = with_special_tokens(saved, tokenizer)
    torch.manual_seed(0)
    model = build_from(config, str(folder), placement).model
    return Predictor(model.to(placement.device), tokenizer, config)
