"""The functions that the exported YAML files call: they make prompts and images, score answers and aggregate scores.

The metrics are those of `partonomy.metrics`. An unusable answer scores 0. No function raises because of a model's
answer, since lmms-eval would retry the scoring again and again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from partonomy.benchmarks.partonomy.listwise import parse_reply
from partonomy.images import draw_box, load_image
from partonomy.masks import canonical_rle, rle_area, rle_from_coco
from partonomy.metrics.iou import PairStatistics, count_pixels, missing_prediction
from partonomy.metrics.part_text import PartTextStatistics, failed_statistics, part_text_statistics
from partonomy.structures import RLE

Doc = Mapping[str, Any]
"""One line of the exported data."""
Item = dict[str, float]
"""One document's contribution to a metric: image_id, numerator, denominator."""


def doc_to_visual(doc: Doc) -> list[Image.Image]:
    """Return the image in the annotation's frame, with the box that marks the object, if any."""
    image = load_image(Path(doc["image_path"]), int(doc["height"]), int(doc["width"]))
    if doc["box"]:
        x, y, width, height = (int(value) for value in doc["box"])
        image = draw_box(image, (x, y, width, height))
    return [Image.fromarray(image)]


def doc_to_text(doc: Doc) -> str:
    """Return the whole conversation as one text, for models that take no turns."""
    return str(doc["prompt"])


def doc_to_messages(doc: Doc) -> list[dict[str, Any]]:
    """Return the conversation as lmms-eval's chat messages, the image before the first question."""
    messages = [{"role": turn["role"], "content": [{"type": "text", "text": turn["text"]}]} for turn in doc["turns"]]
    messages[0]["content"][:0] = [{"type": "image", "url": image} for image in doc_to_visual(doc)]
    return messages


def doc_to_target(doc: Doc) -> str:
    """Return the letter of the correct choice."""
    return str(doc["answer"])


def doc_to_masks(doc: Doc) -> str:
    """Return the true masks in the form of an answer that scores 1."""
    return json.dumps({"masks": [dict(mask) for mask in doc["masks"]]})


def process_parts(doc: Doc, results: Sequence[str]) -> dict[str, Item]:
    """Score the choice of parts."""
    chosen = parse_reply(_first(results), doc["choices"]).position
    true = doc["choice_labels"][doc["correct_position"]]
    counts: PartTextStatistics = (
        failed_statistics(true) if chosen is None else part_text_statistics(doc["choice_labels"][chosen], true)
    )
    return {
        "parts_accuracy": _item(doc, chosen == doc["correct_position"], 1),
        "parts_precision": _item(doc, counts.num_matched, counts.num_predicted),
        "parts_recall": _item(doc, counts.num_matched, counts.num_true),
        "parts_f1": _item(doc, 2 * counts.num_matched, counts.num_predicted + counts.num_true),
        "unusable_replies": _item(doc, chosen is None, 1),
    }


def process_object(doc: Doc, results: Sequence[str]) -> dict[str, Item]:
    """Score the choice of the object."""
    chosen = parse_reply(_first(results), doc["choices"]).position
    return {
        "objects_accuracy": _item(doc, chosen == doc["correct_position"], 1),
        "unusable_replies": _item(doc, chosen is None, 1),
    }


def process_masks(doc: Doc, results: Sequence[str]) -> dict[str, Item]:
    """Score masks given as JSON, the k-th for the k-th phrase; missing and unreadable masks score 0."""
    height, width = int(doc["height"]), int(doc["width"])
    true = [canonical_rle(rle_from_coco(mask, height, width, str(doc["question_id"]))) for mask in doc["masks"]]
    predicted = read_masks(_first(results), height, width)
    pairs = [_pair(predicted[index] if index < len(predicted) else None, mask) for index, mask in enumerate(true)]
    num_missing = sum(not pair.is_predicted for pair in pairs)
    ious = sum(pair.iou for pair in pairs)
    return {
        "giou_micro_paired": _item(doc, ious, len(pairs)),
        "giou_macro_paired": _item(doc, ious, len(pairs)),
        "ciou_paired": _item(doc, sum(pair.intersection for pair in pairs), sum(pair.union for pair in pairs)),
        "missing_masks": _item(doc, num_missing, len(pairs)),
    }


def ratio(items: Sequence[Item]) -> float:
    """Return the sum of numerators over the sum of denominators, or 0 if there are no items."""
    total = sum(item["denominator"] for item in items)
    return sum(item["numerator"] for item in items) / total if total else 0.0


def mean_over_images(items: Sequence[Item]) -> float:
    """Return the mean of the images' ratios (macro), or 0 if there are no items."""
    by_image: dict[float, list[Item]] = {}
    for item in items:
        by_image.setdefault(item["image_id"], []).append(item)
    return sum(ratio(group) for group in by_image.values()) / len(by_image) if by_image else 0.0


def read_masks(text: str, height: int, width: int) -> list[RLE | None]:
    """Read a reply's masks from {"masks": [...]} or a list, possibly in a code block; None for a broken mask."""
    match = re.search(r"[{\[].*[}\]]", text, re.DOTALL)
    try:
        content = json.loads(match[0]) if match else None
    except (json.JSONDecodeError, RecursionError):
        return []
    masks = content.get("masks") if isinstance(content, dict) else content
    return [_read_mask(mask, height, width) for mask in masks] if isinstance(masks, list) else []


def _read_mask(mask: object, height: int, width: int) -> RLE | None:
    try:
        return canonical_rle(rle_from_coco(mask, height, width, "reply"))
    except (ValueError, TypeError, RecursionError):
        return None


def _pair(predicted: RLE | None, true: RLE) -> PairStatistics:
    if predicted is None:
        return missing_prediction(rle_area(true))
    return count_pixels([predicted], [true]).pair(0, 0)


def _first(results: Sequence[str]) -> str:
    return str(results[0]) if results else ""


def _item(doc: Doc, numerator: float, denominator: float) -> Item:
    return {"image_id": float(doc["image_id"]), "numerator": float(numerator), "denominator": float(denominator)}
