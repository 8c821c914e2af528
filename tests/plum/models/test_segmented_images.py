"""SAM reads only images in which something is segmented."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.structures import TEXT_ONLY
from plum.train_config import LossConfig
from plum.training.gradients import micro_batch_gradients
from plum.training.objective import Objective
from tests.plum.models.systems.sisters_world import make_sister, sister_config


@pytest.mark.parametrize("system", ["plum", "m2sa"])
def test_images_with_nothing_to_segment_do_not_reach_sam(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients are those of a batch whose every image SAM has read."""
    config = tiny_model_config(40, TINY_TOKENS)
    torch.manual_seed(0)
    if system == "plum":
        model = build_model(config)
    else:
        model = make_sister(sister_config("m2sa", lora=None))
        monkeypatch.setattr(model.llava, "_special_tokens", TINY_TOKENS)
    batch = tiny_batch(config, (0, 2, TEXT_ONLY, 0, 1), torch.Generator().manual_seed(0))
    rows = torch.tensor([1, 3])
    fewer = replace(batch, sam_pixels=batch.sam_pixels[rows], sam_rows=rows)
    none = replace(batch.without_sam(), masks=())
    asked: list[int] = []
    encode = model.sam.encode_images

    def count(pixels: Tensor) -> Tensor:
        asked.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(model.sam, "encode_images", count)
    objective = Objective(model, LossConfig(kl=0.0)).eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    results = []
    for one in (batch, fewer):
        total = objective(one).total
        results.append([total, *micro_batch_gradients(total, trained)])
    assert asked == [4, 2]
    for whole, part in zip(*results, strict=True):
        torch.testing.assert_close(whole, part, atol=1e-5, rtol=1e-5)
    micro_batch_gradients(objective(none).total, trained)
    assert asked == [4, 2]
