"""Two drawn pictures are learnt over a stock model; a fault in gradients or positions keeps it from learning them."""

from pathlib import Path

import pytest
from torch import Tensor

from plum.models.heads.query_projection import QueryProjection
from plum.structures import SpanBounds
from scripts.bench.learn_families import Learned, learn

UPDATES = 60
MIN_GAIN = 0.15
"""Of mean IoU, after half of the script's updates."""


def has_learned(found: Learned) -> bool:
    return found.after.right_tags >= 0.99 and found.after.mean_iou >= found.before.mean_iou + MIN_GAIN


@pytest.mark.slow
def test_qwen3_vl_with_sam_2_learns_masks_and_tags(tmp_path: Path) -> None:
    found = learn(tmp_path, "qwen3_vl", "sam2", UPDATES)
    assert has_learned(found), found


@pytest.mark.slow
def test_queries_without_gradient_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = QueryProjection.forward

    def cut(self: QueryProjection, hidden_states: Tensor, spans: SpanBounds) -> Tensor:
        return project(self, hidden_states, spans).detach()

    monkeypatch.setattr(QueryProjection, "forward", cut)
    found = learn(tmp_path, "qwen3_vl", "sam2", UPDATES)
    assert not has_learned(found), found
