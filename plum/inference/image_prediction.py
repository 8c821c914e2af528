"""A prediction together with its image: phrases, boxes, a picture, files, and a view in notebooks."""

import html
import io
import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from PIL import Image

from partonomy.files import open_atomically, write_text_atomically
from partonomy.masks import encode_masks, rle_area, rle_bbox, rle_to_json
from partonomy.visualize import encode_png_base64, part_colours
from plum.inference.folder_prediction import draw_prediction
from plum.inference.predictor import Prediction

OVERLAY_FILE = "overlay.png"
MASK_FOLDER = "masks"
JSON_FILE = "prediction.json"


@dataclass(frozen=True)
class ImagePrediction(Prediction):
    """What a model answers about one image, and what it segments there: S phrases, each with a mask.

    Attributes:
        text: the answer.
        spans: the S phrases as ranges of characters of `text`, in reading order.
        tag_confidences: per phrase, the mean probability of its tags, or the probability of its [SEG]; 0 to 1.
        masks: bool (S, H, W), in pixels of the image.
        mask_confidences: per phrase, the mean probability of the pixels inside its mask, 0 to 1.
        finish_reason: "stop" if the model ended its answer, "length" if the limit did; None for a given answer.
        num_tokens: number of tokens that the model wrote; None for a given answer.
        image: uint8 RGB (H, W, 3), upright.
    """

    image: np.ndarray = field(kw_only=True, repr=False)

    @classmethod
    def of(cls, image: np.ndarray, prediction: Prediction) -> "ImagePrediction":
        """Add the image to a prediction about it.

        Args:
            image: uint8 RGB (H, W, 3).
            prediction: with masks of that height and width.

        Raises:
            ValueError: the masks have another size.
        """
        if prediction.masks.shape[1:] != image.shape[:2]:
            raise ValueError(f"masks of shape {prediction.masks.shape} do not fit an image of shape {image.shape}")
        return cls(image=image, **{one.name: getattr(prediction, one.name) for one in fields(Prediction)})

    @property
    def phrases(self) -> tuple[str, ...]:
        """The S segmented phrases, as the answer writes them."""
        return tuple(self.text[span.start : span.end] for span in self.spans)

    @property
    def boxes(self) -> np.ndarray:
        """The tight boxes of the masks, int64 (S, 4): x1, y1, x2, y2 in pixels.

        Boxes are half-open: `mask[y1:y2, x1:x2]` holds the whole mask, and x2 - x1 is its width. The box of an empty
        mask is (0, 0, 0, 0).
        """
        boxes = [rle_bbox(rle) for rle in encode_masks(self.masks)]
        return np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=np.int64).reshape(-1, 4)

    def plot(self, *, has_legend: bool = True) -> Image.Image:
        """Draw the masks in colour on the image.

        Args:
            has_legend: whether to write the phrases below it.

        Returns:
            An RGB image. Small images are enlarged and large ones reduced, so that names and outlines stay readable.
        """
        return Image.fromarray(draw_prediction(self.image, self, has_legend))

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write the prediction to a folder: a picture, one file per mask, and the masks as COCO run-length codes.

        - `overlay.png`: what `plot` returns.
        - `masks/001.png`, `masks/002.png`, ...: one per phrase in reading order, 255 inside the mask, 0 outside.
        - `prediction.json`: `text`, `width`, `height` and `phrases`, each with `phrase`, `start`, `end`, `mask`
          (the PNG's path), `segmentation` (COCO's compressed run-length code), `bbox` (COCO's x, y, width, height),
          `area` (pixels), `tag_confidence` and `mask_confidence`.

        Args:
            folder: is created if it does not exist.
            overwrite: whether to replace the prediction that the folder holds.

        Returns:
            The folder.

        Raises:
            FileExistsError: the folder holds a prediction, and `overwrite` is false; or it is a file.
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        masks = folder / MASK_FOLDER
        if (folder / JSON_FILE).exists() and not overwrite:
            raise FileExistsError(f"{folder} holds a prediction; choose another folder, or pass overwrite=True")
        masks.mkdir(parents=True, exist_ok=True)
        (folder / JSON_FILE).unlink(
            missing_ok=True
        )  # it is written last, so it never names masks of another prediction
        for path in masks.glob("*.png"):
            if path.stem.isdigit():
                path.unlink()
        for number, mask in enumerate(self.masks, start=1):
            _write_png(masks / f"{number:03d}.png", Image.fromarray(mask.astype(np.uint8) * 255))
        _write_png(folder / OVERLAY_FILE, self.plot())
        write_text_atomically(folder / JSON_FILE, json.dumps(self._as_json(), indent=2, ensure_ascii=False) + "\n")
        return folder

    def _as_json(self) -> dict[str, object]:
        height, width = self.image.shape[:2]
        codes = encode_masks(self.masks)
        rows = zip(self.spans, self.phrases, codes, self.tag_confidences, self.mask_confidences, strict=True)
        return {
            "text": self.text,
            "width": width,
            "height": height,
            "phrases": [
                {
                    "phrase": phrase,
                    "start": span.start,
                    "end": span.end,
                    "mask": f"{MASK_FOLDER}/{number:03d}.png",
                    "segmentation": rle_to_json(code),
                    "bbox": list(rle_bbox(code)),
                    "area": rle_area(code),
                    "tag_confidence": tag_confidence,
                    "mask_confidence": mask_confidence,
                }
                for number, (span, phrase, code, tag_confidence, mask_confidence) in enumerate(rows, start=1)
            ],
        }

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture, and the answer with its phrases in the colours of their masks."""
        picture = encode_png_base64(np.asarray(self.plot(has_legend=False)))
        return (
            f'<figure style="margin:0"><img src="data:image/png;base64,{picture}" style="max-width:100%" '
            f'alt="{html.escape(", ".join(self.phrases))}"><figcaption>{self._marked_text()}</figcaption></figure>'
        )

    def _marked_text(self) -> str:
        """Return the answer as HTML; a phrase that overlaps an earlier one is not marked."""
        pieces, position = [], 0
        for span, (red, green, blue) in zip(self.spans, part_colours(len(self.spans)), strict=True):
            if span.start < position:
                continue
            pieces.append(html.escape(self.text[position : span.start]))
            words = html.escape(self.text[span.start : span.end])
            pieces.append(f'<mark style="background:rgba({red},{green},{blue},0.35);color:inherit">{words}</mark>')
            position = span.end
        return "".join([*pieces, html.escape(self.text[position:])])


def _write_png(path: Path, picture: Image.Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    with open_atomically(path) as file:
        file.write(buffer.getvalue())
