"""A prediction for people: a table of spans in the terminal, an overlay picture, masks as COCO run-length codes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from partonomy.images import image_size, load_image
from partonomy.masks import encode_mask, rle_to_json
from partonomy.visualize import draw_overlay
from plum.predictor import Prediction


def read_image(path: Path) -> np.ndarray:
    """Read an image upright, uint8 RGB (H, W, 3)."""
    return load_image(path, *image_size(path))


def format_spans(prediction: Prediction) -> str:
    """One line per span: phrase, characters, tag and mask confidence, share of the image that its mask covers."""
    if not prediction.spans:
        return "(nothing to segment in this answer)"
    phrases = span_texts(prediction)
    width = max(len("phrase"), *map(len, phrases))
    lines = [f"{'phrase':<{width}}  characters  tag    mask   area"]
    for i, (phrase, span) in enumerate(zip(phrases, prediction.spans, strict=True)):
        characters = f"{span.start}-{span.end}"
        confidences = f"{prediction.tag_confidences[i]:.3f}  {prediction.mask_confidences[i]:.3f}"
        lines.append(f"{phrase:<{width}}  {characters:<10}  {confidences}  {prediction.masks[i].mean():.2%}")
    return "\n".join(lines)


def span_texts(prediction: Prediction) -> list[str]:
    """The phrases of a prediction."""
    return [prediction.text[span.start : span.end] for span in prediction.spans]


def write_prediction(prediction: Prediction, image: np.ndarray, folder: Path, stem: str) -> tuple[Path, Path]:
    """Write `{stem}.png` (masks over the image) and `{stem}.json` (text, spans, masks as COCO RLE).

    Returns:
        The two paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    phrases = span_texts(prediction)
    overlay, record = folder / f"{stem}.png", folder / f"{stem}.json"
    Image.fromarray(draw_overlay(image, prediction.masks, phrases)).save(overlay)
    spans = [
        {
            "phrase": phrase,
            "characters": [span.start, span.end],
            "tag_confidence": prediction.tag_confidences[i],
            "mask_confidence": prediction.mask_confidences[i],
            "segmentation": rle_to_json(encode_mask(prediction.masks[i])),
        }
        for i, (phrase, span) in enumerate(zip(phrases, prediction.spans, strict=True))
    ]
    record.write_text(json.dumps({"text": prediction.text, "spans": spans}, indent=2) + "\n", encoding="utf-8")
    return overlay, record
