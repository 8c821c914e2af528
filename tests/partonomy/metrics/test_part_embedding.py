from pathlib import Path

import numpy as np
import pytest

from partonomy.metrics.part_embedding import (
    DEFAULT_EMBEDDING_MODEL,
    FALLBACK_EMBEDDING_MODEL,
    NameMatcher,
    build_matcher,
)
from partonomy.metrics.part_text import PartTextStatistics


def vector(degrees: float) -> np.ndarray:
    """A unit vector of the plane; the cosine of two is that of their difference."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


MATCHER = NameMatcher(
    "by hand", 0.75, {"clip": vector(0), "clamp": vector(30), "grip": vector(60), "hull": vector(120)}
)


def test_close_names_match_one_to_one_golden() -> None:
    # cos 30 = .87 is close, cos 60 = .5 is not: clip-clamp and clamp-grip are pairs, clip-grip is none.
    assert MATCHER.count(["clip"], ["clamp", "hull"]) == PartTextStatistics(1, 1, 2)
    assert MATCHER.count(["Clip ", "hull"], ["grip"]) == PartTextStatistics(0, 2, 1)
    assert MATCHER.count(["clip", "grip"], ["clamp"]) == PartTextStatistics(1, 2, 1)  # clamp is taken once


def test_the_largest_number_of_pairs_is_found() -> None:
    # clamp-clamp has the highest cosine (1) but leaves clip without a partner: clip-clamp, clamp-grip are two pairs.
    assert MATCHER.count(["clip", "clamp"], ["clamp", "grip"]) == PartTextStatistics(2, 2, 2)


def test_limits() -> None:
    assert MATCHER.count([], ["clip"]) == PartTextStatistics(0, 0, 1)
    assert MATCHER.count(["clip", "CLIP"], ["clip"]) == PartTextStatistics(1, 1, 1)
    strict = NameMatcher("by hand", 1.0, MATCHER.vectors)
    assert strict.count(["clip", "clamp", "hull"], ["hull", "grip", "clip"]) == PartTextStatistics(2, 3, 3)


def test_names_are_embedded_without_a_download() -> None:
    matcher = build_matcher(("front wheel", "front wheels", "mast"), FALLBACK_EMBEDDING_MODEL, 0.75)
    assert matcher.count(["front wheel"], ["front wheels"]).num_matched == 1
    assert matcher.count(["front wheel"], ["mast"]).num_matched == 0
    assert build_matcher((), FALLBACK_EMBEDDING_MODEL, 0.75).count([], []) == PartTextStatistics(0, 0, 0)


def test_packaged_model_tells_synonyms_from_other_parts() -> None:
    pytest.importorskip("sentence_transformers")
    matcher = build_matcher(("wheel", "wheels", "tail fin", "window"), DEFAULT_EMBEDDING_MODEL, 0.75)
    assert matcher.count(["wheels"], ["wheel"]).num_matched == 1
    assert matcher.count(["window"], ["tail fin"]).num_matched == 0


def test_a_missing_model_or_a_wrong_threshold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded"):
        build_matcher(("wheel",), str(tmp_path), 0.75)
    with pytest.raises(ValueError, match=r"\(0, 1\], got 75"):
        build_matcher(("wheel",), FALLBACK_EMBEDDING_MODEL, 75)
