"""A prediction with its image: phrases, boxes, picture, files and the view in notebooks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import plum
from partonomy.masks import decode_mask, rle_from_coco
from partonomy.structures import CharSpan
from partonomy.visualize import part_colours
from plum.checkpoints.store import save_pretrained
from plum.inference.image_prediction import ImagePrediction
from plum.inference.predictor import Prediction
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_image, make_model

TEXT = "A <b>wheel & a front door"


def made() -> ImagePrediction:
    masks = np.zeros((3, 40, 60), dtype=bool)
    masks[0, 5:9, 10:30] = True
    masks[1, 39, 59] = True
    spans = (CharSpan(5, 10), CharSpan(15, 25), CharSpan(21, 25))
    prediction = Prediction(TEXT, spans, (0.5, 0.25, 0.75), masks, (0.9, 0.8, 0.7), "stop", 9)
    return ImagePrediction.of(make_image(0, 40, 60), prediction)


def test_phrases_and_boxes_follow_the_spans_and_masks() -> None:
    prediction = made()
    assert prediction.phrases == ("wheel", "front door", "door")
    assert prediction.boxes.tolist() == [[10, 5, 30, 9], [59, 39, 60, 40], [0, 0, 0, 0]]
    x1, y1, x2, y2 = prediction.boxes[0]
    assert prediction.masks[0, y1:y2, x1:x2].all()
    assert prediction.masks[0].sum() == (x2 - x1) * (y2 - y1)


def test_an_answer_without_phrases_has_no_boxes_and_a_picture(tmp_path: Path) -> None:
    nothing = Prediction("Nothing.", (), (), np.zeros((0, 40, 60), dtype=bool), ())
    prediction = ImagePrediction.of(make_image(0, 40, 60), nothing)
    assert prediction.boxes.shape == (0, 4)
    assert prediction.plot().mode == "RGB"
    assert json.loads((prediction.save(tmp_path) / "prediction.json").read_text())["phrases"] == []
    assert "Nothing." in prediction._repr_html_()


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit an image"):
        ImagePrediction.of(make_image(0, 60, 40), made())


def test_the_plot_colours_the_masks_and_the_legend_is_below() -> None:
    prediction = made()
    bare, full = prediction.plot(has_legend=False), prediction.plot()
    assert bare.size[0] == full.size[0]
    assert bare.size[1] < full.size[1]
    scale = bare.size[0] / 60
    inside = np.asarray(bare)[round(7 * scale), round(20 * scale)].astype(float)
    expected = (prediction.image[7, 20].astype(float) + part_colours(3)[0]) / 2
    assert np.abs(inside - expected).max() < 60  # half the colour, half the (enlarged) image
    away = [abs(inside - (prediction.image[7, 20].astype(float) + colour) / 2).sum() for colour in part_colours(3)[1:]]
    assert np.abs(inside - expected).sum() < min(away)


def test_saved_files_hold_the_prediction(tmp_path: Path) -> None:
    prediction = made()
    folder = prediction.save(tmp_path / "new" / "out")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "masks/001.png",
        "masks/002.png",
        "masks/003.png",
        "overlay.png",
        "prediction.json",
    ]
    assert Image.open(folder / "overlay.png").size == prediction.plot().size
    content = json.loads((folder / "prediction.json").read_text())
    assert (content["text"], content["width"], content["height"]) == (TEXT, 60, 40)
    assert [one["phrase"] for one in content["phrases"]] == list(prediction.phrases)
    assert [one["bbox"] for one in content["phrases"]] == [[10, 5, 20, 4], [59, 39, 1, 1], [0, 0, 0, 0]]
    assert [one["area"] for one in content["phrases"]] == [80, 1, 0]
    assert [(one["tag_confidence"], one["mask_confidence"]) for one in content["phrases"]] == [
        (0.5, 0.9),
        (0.25, 0.8),
        (0.75, 0.7),
    ]
    for mask, one in zip(prediction.masks, content["phrases"], strict=True):
        assert TEXT[one["start"] : one["end"]] == one["phrase"]
        np.testing.assert_array_equal(np.asarray(Image.open(folder / one["mask"])), mask * 255)
        np.testing.assert_array_equal(decode_mask(rle_from_coco(one["segmentation"], 40, 60, "saved")), mask)


def test_a_saved_prediction_is_replaced_only_on_request(tmp_path: Path) -> None:
    prediction = made()
    prediction.save(tmp_path)
    (tmp_path / "masks" / "mine.png").write_text("kept")
    one = replace(prediction, spans=prediction.spans[:1], masks=prediction.masks[:1])
    one = replace(one, tag_confidences=(0.5,), mask_confidences=(0.9,))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        one.save(tmp_path)
    assert len(list((tmp_path / "masks").iterdir())) == 4
    one.save(tmp_path, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["001.png", "mine.png"]


def test_the_view_in_a_notebook_escapes_the_text_and_colours_the_phrases() -> None:
    shown = made()._repr_html_()
    first, second, _ = part_colours(3)
    assert f'rgba({first[0]},{first[1]},{first[2]},0.35);color:inherit">wheel</mark> &amp; a ' in shown
    assert f'rgba({second[0]},{second[1]},{second[2]},0.35);color:inherit">front door</mark></figcaption>' in shown
    assert "A &lt;b&gt;<mark" in shown
    assert "data:image/png;base64,iVBOR" in shown


def test_what_a_model_predicts_has_its_image(tmp_path: Path) -> None:
    save_pretrained(make_model(), byte_level(), tmp_path / "model", "")
    model = plum.load(tmp_path / "model", device="cpu")
    pixels = make_image()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    for image in (pixels, Image.fromarray(pixels), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        prediction = model.highlight(image, "It has a wheel.", ["wheel"])
        np.testing.assert_array_equal(prediction.image, pixels)
        assert prediction.phrases == ("wheel",)
        assert prediction.boxes.shape == (1, 4)
    assert isinstance(model.ask(pixels, "What parts?"), ImagePrediction)
