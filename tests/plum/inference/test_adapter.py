from pathlib import Path

import numpy as np
import pytest

from partonomy.models.contract import GroundedModel
from plum.checkpoints.store import save_pretrained
from plum.inference.partonomy_adapter import load_grounded_model
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import ANSWER, HISTORY, SPANS, make_image, make_model, make_predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GroundedModel:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_pretrained(make_model(), byte_level(), folder, "A random model.")
    return load_grounded_model(str(folder), device="cpu")


def test_a_loaded_model_answers_as_the_one_in_memory(model: GroundedModel) -> None:
    predictor, image = make_predictor(), make_image()
    assert model.name == "plum:tiny"
    assert model.score_choices(image, HISTORY, ["a wheel", ANSWER]) == predictor.score_choices(
        image, HISTORY, ["a wheel", ANSWER]
    )
    masks = model.segment(image, HISTORY, ANSWER, SPANS)
    assert masks.shape == (3, *image.shape[:2])
    assert masks.dtype == bool
    assert np.array_equal(masks, predictor.segment(image, HISTORY, ANSWER, SPANS).masks)


def test_generation_has_one_mask_and_confidence_per_span(model: GroundedModel) -> None:
    generation = model.generate(make_image(), HISTORY)
    assert len(generation.spans) == len(generation.masks) == len(generation.confidences)
    assert all(0.0 <= confidence <= 1.0 for confidence in generation.confidences)
    assert list(generation.spans) == sorted(generation.spans, key=lambda span: span.start)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_grounded_model(str(tmp_path / "nothing"), device="cpu")
