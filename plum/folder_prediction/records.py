"""Predictions as JSON: one line per image, appended as they come, continued after a kill."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from partonomy.masks import encode_masks, rle_to_json
from plum.predictor import Prediction

Json = dict[str, Any]


def span_texts(prediction: Prediction) -> list[str]:
    """The phrases of a prediction."""
    return [prediction.text[span.start : span.end] for span in prediction.spans]


def prediction_to_json(prediction: Prediction) -> Json:
    """Text, and per span phrase, characters, confidences and its mask as COCO compressed RLE with the image's size."""
    codes = encode_masks(prediction.masks)
    return {
        "text": prediction.text,
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


def append_line(path: Path, record: Json) -> None:
    """Append a record as one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> Iterator[Json]:
    """Yield the records of a file, one at a time.

    Raises:
        ValueError: a line is no JSON object; names it.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}); delete the line") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object; delete the line")
            yield record


def drop_half_line(path: Path) -> None:
    """Cut off what a killed process left after the last whole line."""
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
