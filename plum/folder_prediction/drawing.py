"""A prediction as a picture: masks in colour over the image, phrases below it."""

import numpy as np

from partonomy.visualize import draw_overlay, resize
from plum.folder_prediction.records import span_texts
from plum.predictor import Prediction

MAX_SIDE = 1600
"""Larger images are reduced to this longest side, pixels: the legend stays readable beside them."""


def draw_prediction(image: np.ndarray, prediction: Prediction, has_legend: bool = True) -> np.ndarray:
    """Draw a prediction over its image.

    Args:
        image: uint8 RGB (H, W, 3).
        prediction: with masks of that size.
        has_legend: whether to write the phrases below.

    Returns:
        uint8 RGB.
    """
    masks, scale = prediction.masks, MAX_SIDE / max(image.shape[:2])
    if scale < 1:
        image, masks = resize(image, masks, scale)
    return draw_overlay(image, masks, span_texts(prediction), has_legend)
