"""Two drawn pictures are learnt over a stock model; masks that do not follow their phrases are noticed."""

from pathlib import Path

import pytest
from torch import Tensor

from plum.models.heads.query_projection import QueryProjection
from plum.structures import SpanBounds
from scripts.bench.learn_families import learn

UPDATES = 160


@pytest.mark.slow
def test_qwen3_vl_learns_masks_and_tags(tmp_path: Path) -> None:
    found = learn(tmp_path, "qwen3_vl", "sam", UPDATES)
    assert found.has_learned, found


@pytest.mark.slow
def test_queries_without_gradient_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = QueryProjection.forward

    def cut(self: QueryProjection, hidden_states: Tensor, spans: SpanBounds) -> Tensor:
        return project(self, hidden_states, spans).detach()

    monkeypatch.setattr(QueryProjection, "forward", cut)
    found = learn(tmp_path, "qwen3_vl", "sam", UPDATES)
    assert found.after.right_tags >= 0.99, found
    assert not found.has_learned, found
