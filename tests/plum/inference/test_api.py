import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import plum
from plum.checkpoints.store import save_pretrained
from plum.inference.api import read_image
from plum.inference.partonomy_adapter import resolve_device
from plum.inference.predictor import Prediction
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import QUESTION, make_image, make_model, make_predictor
from tests.readme_commands import ROOT


@pytest.fixture
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what the README's example refers to."""
    save_pretrained(make_model(), byte_level(), tmp_path / "runs" / "quickstart" / "model", "")
    Image.fromarray(make_image()).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_example_of_a_page(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    prediction = names["prediction"]
    assert isinstance(prediction, Prediction)
    assert prediction.masks.shape == (2, 20, 28)
    assert prediction.masks.dtype == np.bool_
    if page == "README.md":
        answer = names["answer"]
        assert isinstance(answer, Prediction)
        assert capsys.readouterr().out == f"{answer.text} {answer.phrases} {answer.masks.shape}\n"
        assert Path("out").is_dir()
    phrases = [prediction.text[span.start : span.end] for span in prediction.spans]
    assert all(f'"{phrase}"' in block for phrase in phrases)


@pytest.mark.usefixtures("_place")
def test_files_and_arrays_give_what_the_predictor_gives(tmp_path: Path) -> None:
    model = plum.load(tmp_path / "runs" / "quickstart" / "model", device="cpu")
    image = np.asarray(Image.open("photo.jpg"))
    from_file, from_array = (model.ask(one, QUESTION[0].text) for one in ("photo.jpg", image))
    expected = make_predictor().generate(image, QUESTION)
    for found in (from_file, from_array):
        assert found.text == expected.text
        np.testing.assert_array_equal(found.masks, expected.masks)
    highlighted = model.highlight(image, "It has a wheel.", char_ranges=["9:14"])
    np.testing.assert_array_equal(highlighted.masks, model.highlight(image, "It has a wheel.", ["wheel"]).masks)
    with pytest.raises(ValueError, match="'door' is not in the answer"):
        model.highlight(image, "It has a wheel.", ["door"])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "CMYK", "LA"])
def test_pil_images_and_bytes_are_read_as_files(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(make_image()[..., 0].astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(make_image()).convert(mode)
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    picture.save(path)
    expected = read_image(path)
    np.testing.assert_array_equal(read_image(path.read_bytes()), expected)
    np.testing.assert_array_equal(read_image(picture), expected)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(read_image(opened), expected)


def test_the_orientation_of_a_pil_image_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(make_image()).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        assert read_image(opened).shape == (28, 20, 3)
    assert read_image((tmp_path / "turned.png").read_bytes()).shape == (28, 20, 3)


def test_arrays_of_grey_and_alpha_are_read_and_others_refused() -> None:
    image = make_image()
    grey = image[..., 0]
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(read_image(array), np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(read_image(np.dstack([image, grey])), image)
    for wrong in (image / 255.0, image[None], image[..., :2], image[:0]):
        with pytest.raises(ValueError, match="an array must be uint8 RGB"):
            read_image(wrong)


def test_what_is_no_image_is_explained() -> None:
    with pytest.raises(ValueError, match="the 4 bytes given as an image: not a readable image file"):
        read_image(b"nope")
    with pytest.raises(ValueError, match="got builtins.int"):
        read_image(5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_place")
def test_segment_is_the_command_of_that_name(tmp_path: Path) -> None:
    model = plum.load(tmp_path / "runs" / "quickstart" / "model", device="cpu", dtype="bfloat16")
    assert next(model.predictor.model.parameters()).dtype == torch.bfloat16
    forced = model.segment(image=Image.open("photo.jpg"), phrases=["wheel"], force=True)
    assert (forced.text, len(forced.masks), forced.finish_reason) == ("It is the wheel.", 1, None)
    own = model.segment("photo.jpg", max_new_tokens=2)
    assert (own.finish_reason, own.num_tokens) == ("length", 2)
    with pytest.raises(ValueError, match="dtype 'int3' is none of auto, float32"):
        plum.load(tmp_path / "runs" / "quickstart" / "model", dtype="int3")


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:99", "torch sees"), ("cuda:0,1", "none of auto, cpu"), ("meta", "none of auto, cpu"), ("gpu", "none of")],
)
def test_devices_that_do_not_exist_are_explained(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_device(device)
