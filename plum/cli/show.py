"""Show a prediction: a table of spans for the terminal, an overlay picture, masks as COCO run-length codes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from partonomy.visualize import Colour
from plum.inference.folder_prediction import (
    cut_mark,
    draw_prediction,
    phrase_colours,
    prediction_to_json,
    span_texts,
)
from plum.inference.predictor import Prediction
from plum.inputs.conversation import image_name


def format_answer(prediction: Prediction, max_new_tokens: int) -> str:
    """Return the answer's text; if a limit ended it, with a mark that names the limit."""
    mark = cut_mark(prediction.finish_reason, prediction.num_tokens)
    if mark:
        is_flag = prediction.num_tokens == max_new_tokens
        advice = "--max_new_tokens is the limit" if is_flag else "the conversation fills the model's context"
        mark = f"{mark[:-1]}: {advice}]"
    return "\n".join(filter(None, (prediction.text, mark)))


def format_spans(prediction: Prediction) -> str:
    """Return one line per span: phrase, characters, tag and mask confidence, share of the image covered by its mask."""
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


def describe_answer(
    predictions: Sequence[Prediction],
    images: Sequence[np.ndarray],
    max_new_tokens: int,
    folder: Path | None,
    stems: Sequence[str],
) -> str:
    """Write an answer's overlays and masks, and return the text to show.

    Args:
        predictions: one per image; see `plum.inference.highlight.answer_about`.
        images: the images.
        max_new_tokens: the limit on the answer.
        folder: folder for the files; None: nothing is written.
        stems: names of each image's files, without suffix.
    """
    lines = [format_answer(predictions[0], max_new_tokens) or "(no answer)"]
    colours = phrase_colours(predictions)
    for number, (prediction, image) in enumerate(zip(predictions, images, strict=True)):
        if len(predictions) > 1:
            lines.append(image_name(number))
        lines.append(format_spans(prediction))
        if folder is not None:
            overlay, record = write_prediction(prediction, image, folder, stems[number], colours[number])
            lines.append(f"overlay: {overlay}\nmasks:   {record}")
    return "\n".join(lines)


def write_prediction(
    prediction: Prediction, image: np.ndarray, folder: Path, stem: str, colours: Sequence[Colour] | None = None
) -> tuple[Path, Path]:
    """Write `{stem}.png` (masks over the image) and `{stem}.json` (text, spans, masks as COCO RLE).

    Args:
        prediction: the prediction.
        image: uint8 RGB (H, W, 3).
        folder: made if it is missing.
        stem: name of the files.
        colours: one per span; None: in the order of the spans.

    Returns:
        The two paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overlay, record = folder / f"{stem}.png", folder / f"{stem}.json"
    Image.fromarray(draw_prediction(image, prediction, colours=colours)).save(overlay)
    record.write_text(json.dumps(prediction_to_json(prediction), indent=2) + "\n", encoding="utf-8")
    return overlay, record
