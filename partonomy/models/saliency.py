"""An example of an open-vocabulary segmenter: it segments the region that differs in colour from the image's border.

Words such as "left" in a phrase select a half of the region. The model does not understand part names: "wing" and
"wheel" get the same mask. It demonstrates the three methods without any download, and shows how much of a score comes
from finding the object alone.
"""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

BORDER_SHARE: Final = 0.05
"""Width of the border that counts as background, as a fraction of the image's shorter side."""
BLUR_SHARE: Final = 0.02
LEFT, RIGHT, TOP, BOTTOM = "left", "right", "top", "bottom"
PLACES: Final = {
    "left": LEFT,
    "right": RIGHT,
    "top": TOP,
    "upper": TOP,
    "bottom": BOTTOM,
    "lower": BOTTOM,
}
"""Words of a phrase that name a half of the object from the viewer's side."""


class SaliencySegmenter:
    """Colour contrast with the border, thresholded by Otsu's method."""

    def __init__(self) -> None:
        self._object = np.zeros((0, 0), dtype=bool)

    def load(self, device: str) -> None:
        """Do nothing; there is nothing to load."""

    def set_image(self, image: np.ndarray) -> None:
        """Find the salient region."""
        self._object = salient_region(image)

    def segment_phrases(self, phrases: Sequence[str]) -> np.ndarray:
        """Return, per phrase, the salient region or the half of it that the phrase names."""
        return np.stack([_cut(self._object, phrase) for phrase in phrases])


def salient_region(image: np.ndarray) -> np.ndarray:
    """Return the pixels whose colour is far from the border's.

    Args:
        image: uint8 RGB (H, W, 3).

    Returns:
        bool (H, W); empty for an image of one colour.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    blur = 2 * round(BLUR_SHARE * shorter) + 1
    colours = cv2.cvtColor(cv2.GaussianBlur(image, (blur, blur), 0), cv2.COLOR_RGB2LAB).astype(np.float64)
    line = max(1, round(BORDER_SHARE * shorter))
    is_border = np.ones((height, width), dtype=bool)
    is_border[line : height - line, line : width - line] = False
    border = colours[is_border]
    distance = np.linalg.norm((colours - border.mean(0)) / (border.std(0) + 1.0), axis=-1)  # [H, W]
    if distance.max() == distance.min():
        return np.zeros((height, width), dtype=bool)
    levels = np.rint(255 * (distance - distance.min()) / (distance.max() - distance.min())).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    region: np.ndarray = levels > threshold
    return region


def _cut(region: np.ndarray, phrase: str) -> np.ndarray:
    """Cut the region to the halves of its box that the phrase's words name."""
    kept = region.copy()
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return kept
    middle_row = (int(rows[0]) + int(rows[-1]) + 1) // 2
    middle_column = (int(columns[0]) + int(columns[-1]) + 1) // 2
    for place in {PLACES[word] for word in phrase.lower().split() if word in PLACES}:
        if place == LEFT:
            kept[:, middle_column:] = False
        elif place == RIGHT:
            kept[:, :middle_column] = False
        elif place == TOP:
            kept[middle_row:] = False
        else:
            kept[:middle_row] = False
    return kept
