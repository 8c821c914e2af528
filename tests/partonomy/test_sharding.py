"""Shards as they are written, and the items they get."""

import pytest

from partonomy.sharding import Shard, all_shards, parse_shard


def test_form() -> None:
    assert parse_shard("2/8") == Shard(1, 8)
    assert (str(Shard(1, 8)), Shard(1, 8).file_stem) == ("2/8", "2-of-8")


@pytest.mark.parametrize("text", ["", "2", "0/8", "9/8", "2/0", "-1/8", "2/8/9", "a/b", "2 / 8", "٢/٨"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give NUMBER/COUNT with 1 <= NUMBER <= COUNT"):
        parse_shard(text)


def test_a_shard_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="shard 8 does not lie in"):
        Shard(8, 8)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("num_items", [0, 1, 7, 24])
def test_every_item_is_in_one_shard_and_shards_are_even(num_items: int, count: int) -> None:
    spans = [list(shard.span(num_items)) for shard in all_shards(count)]
    assert sum(spans, []) == list(range(num_items))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1
