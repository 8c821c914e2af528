"""What a source says about a sample's length is what the sample has, and asking changes nothing."""

import numpy as np
import pytest

from plum.data.build import build_mixture
from plum.data.sources.base import Source, longest_text
from plum.data.sources.semantic import SemanticSource
from plum.structures import Exchange
from plum.train_config import DataConfig, SourceConfig
from tests.plum.data.miniature_world import miniature
from tests.plum.data.part_world import write_world
from tests.plum.data.sources.test_download_sources import make_sources

KINDS = ("explanatory", "part_referring", "part_semantic", "part_vqa", "part_status")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    data = DataConfig(tuple(SourceConfig(kind, str(folder)) for kind in KINDS), conversations_per_image=2)
    return [*build_mixture(data, seed=0).sources, *make_sources(miniature())]


def test_lengths_are_the_samples_own(sources: list[Source]) -> None:
    seen = set()
    for source in sources:
        for index in range(len(source)):
            for seed in range(3):
                length = source.text_length(index, np.random.default_rng(seed))
                sample = source.sample(index, np.random.default_rng(seed))
                if not isinstance(source, SemanticSource):
                    assert length == longest_text(sample.conversations), (source.name, index, seed)
                seen.add((source.name, length))
    assert len({name for name, _ in seen}) == 9
    assert len(seen) > 30


def test_label_maps_are_not_read_for_a_length(sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(one for one in sources if isinstance(one, SemanticSource))
    found = [longest_text(source.sample(i, np.random.default_rng(i)).conversations) for i in range(len(source))]
    monkeypatch.setattr(source.maps, "read", pytest.fail)
    usual = source.text_length(0, np.random.default_rng(0))
    assert min(found) / 2 < usual < 2 * max(found)


def test_the_longest_conversation_counts() -> None:
    short, long = Exchange("ab", "cde"), Exchange("a" * 4, "b")
    assert longest_text([[short], [long]]) == 5
    assert longest_text([[short, long], [long]]) == 10
