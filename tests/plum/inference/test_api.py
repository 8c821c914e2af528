import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import plum
from plum.checkpoints.store import save_pretrained
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
def test_the_three_lines_of_the_readme() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) == 3
    names: dict[str, object] = {}
    exec(block, names)
    (prediction,) = (value for value in names.values() if isinstance(value, Prediction))
    assert prediction.masks.shape == (2, 20, 28)
    assert prediction.masks.dtype == np.bool_
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
