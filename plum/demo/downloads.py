"""Files of an answer to download: overlays as PNG, masks as COCO run-length codes in JSON."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from plum.demo.session import Answer, Photo
from plum.inference.folder_prediction import draw_prediction, phrase_colours, prediction_to_json

MASKS_FILE = "masks.json"


def write_downloads(photos: Sequence[Photo], answer: Answer, folder: Path) -> tuple[Path, Path]:
    """Write an answer's overlay and masks.

    Args:
        photos: photos of the conversation.
        answer: with a prediction per photo.
        folder: made if it is missing; files of an earlier answer in it are replaced.

    Returns:
        The overlay, `overlay.png`, or `overlays.zip` with a picture per photo if there are several; and `masks.json`:
        question, source of the phrases, and per photo its name, its size and what `plum segment` writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    colours = phrase_colours(answer.predictions)
    records, overlays = [], []
    for number, (photo, prediction) in enumerate(zip(photos, answer.predictions, strict=True), start=1):
        overlay = folder / ("overlay.png" if len(photos) == 1 else f"overlay_image{number}.png")
        Image.fromarray(draw_prediction(photo.pixels, prediction, colours=colours[number - 1])).save(overlay)
        overlays.append(overlay)
        height, width = photo.pixels.shape[:2]
        records.append({"name": photo.name, "height": height, "width": width, **prediction_to_json(prediction)})
    content = {"question": answer.question, "source": str(answer.source), "images": records}
    masks = folder / MASKS_FILE
    masks.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return _join(overlays, folder), masks


def _join(overlays: Sequence[Path], folder: Path) -> Path:
    """Return the only overlay, or an archive of several, which replaces them."""
    if len(overlays) == 1:
        return overlays[0]
    archive = folder / "overlays.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:  # PNG is compressed already
        for overlay in overlays:
            file.write(overlay, overlay.name)
            overlay.unlink()
    return archive
