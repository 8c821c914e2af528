import numpy as np
import pytest

from plum.inference.prefix_forest import NO_NODE, ForestRow, NewNodes, PrefixForest

IMAGE = 9


def row(picture: int, branch: str, *ids: int) -> ForestRow:
    patches = tuple(place for place, token in enumerate(ids) if token == IMAGE)
    return (
        ForestRow(picture, branch, ids, (picture,), (patches,)) if patches else ForestRow(picture, branch, ids, (), ())
    )


def conversation(forest: PrefixForest, node: int) -> tuple[int, ...]:
    """Ids from the root to a node."""
    ids: list[int] = []
    while node != NO_NODE:
        ids.append(forest.token_ids[node])
        node = forest.parents[node]
    return tuple(reversed(ids))


def test_what_rows_have_in_common_stands_there_once() -> None:
    # Trunk 1 I I per picture (2 x 3 nodes); branch a: 2 3, then 4 5 or 6; b: 7; c, of picture 1: 2 3.
    forest = PrefixForest()
    rows = [
        row(0, "a", 1, IMAGE, IMAGE, 2, 3, 4, 5),
        row(0, "a", 1, IMAGE, IMAGE, 2, 3, 6),
        row(0, "b", 1, IMAGE, IMAGE, 7),
        row(1, "c", 1, IMAGE, IMAGE, 2, 3),
    ]
    paths = forest.add(rows)
    assert forest.trunk(0) == (1, IMAGE, IMAGE)
    assert len(forest) == 2 * 3 + 5 + 1 + 2
    for given, path in zip(rows, paths, strict=True):
        assert conversation(forest, int(path[-1])) == given.ids
        assert [forest.positions[node] for node in path] == [(depth,) for depth in range(len(given.ids))]
        assert {forest.images[node] for node in path} == {given.picture, NO_NODE}
        assert [forest.patches[node] for node in path[:3]] == [NO_NODE, 0, 1]


def test_sharing_ends_where_ids_differ_and_not_where_words_do() -> None:
    # A tokenizer that merges the last letter of a question with the answer: equal words, other ids from there on.
    forest = PrefixForest()
    first, second = forest.add([row(0, "q", IMAGE, 5, 6, 7), row(0, "q", IMAGE, 5, 8)])
    assert forest.trunk(0) == (IMAGE, 5)
    assert list(first[:2]) == list(second[:2])
    assert first[2] != second[2]


def test_equal_rows_need_no_node_of_their_own() -> None:
    forest = PrefixForest()
    first, second = forest.add([row(0, "q", IMAGE, 5, 6), row(0, "q", IMAGE, 5, 6)])
    assert np.array_equal(first, second)
    assert len(forest) == 3
    assert forest.trunk(0) == (IMAGE, 5)  # the last token is not the trunk's: every row has a node of its branch


def test_every_node_sees_what_precedes_it_and_nothing_else() -> None:
    forest = PrefixForest()
    forest.add([row(0, "a", 1, IMAGE, 2, 3, 4), row(0, "a", 1, IMAGE, 2, 5), row(1, "b", 1, IMAGE, 6)])
    assert seen_by_every_node(forest) == {node: ancestors(forest, node) for node in range(len(forest))}


def test_a_grown_forest_computes_only_what_is_new() -> None:
    forest = PrefixForest()
    forest.add([row(0, "a", 1, IMAGE, 2, 3)])
    forest.take_new()
    before = len(forest)
    follow_up, other_start, new_branch = forest.add(
        [row(0, "a", 1, IMAGE, 2, 3, 4, 5), row(0, "a", 1, 8), row(0, "z", 1, IMAGE, 6)]
    )
    assert [int(node) >= before for node in follow_up] == [False] * 4 + [True] * 2
    assert [int(node) >= before for node in other_start] == [False, True]  # leaves the trunk before its end
    assert [int(node) >= before for node in new_branch] == [False, False, True]
    seen = seen_by_every_node(forest, first=before)
    assert seen == {node: ancestors(forest, node) for node in range(before, len(forest))}
    assert len(forest.take_new().token_ids) == 0


def test_branches_of_a_picture_share_a_copy_of_its_trunk_while_they_are_smaller_than_it() -> None:
    forest = PrefixForest()
    trunk = (1, IMAGE, IMAGE, IMAGE)
    tails = {"a": (2, 3), "b": (4, 5), "c": (6,), "d": (7, 8)}  # a and b fill a set of four nodes, c and d are another
    forest.add([row(0, name, *trunk, *tail) for name, tail in tails.items()] + [row(1, "e", *trunk, 2)])
    new = forest.take_new()
    assert read_seen(new, 0) == {node: ancestors(forest, node) for node in range(len(forest))}
    own = new.blocks[1]
    assert own.queries.shape == (3, 4)
    assert own.keys.shape == (3, len(trunk) + 4)
    assert [set(keys[: len(trunk)]) for keys in own.keys] == [{0, 1, 2, 3}, {0, 1, 2, 3}, {4, 5, 6, 7}]
    forest.add([row(0, "a", *trunk, 2, 3, 4), row(0, "b", *trunk, 4, 5, 6)])
    assert len(forest.take_new().blocks[0].queries) == 2  # what stood there before counts: each has three nodes now


@pytest.mark.parametrize("seed", range(5))
def test_random_conversations(seed: int) -> None:
    generator = np.random.default_rng(seed)
    forest = PrefixForest()
    beginning = (1, IMAGE, IMAGE, *range(20, 20 + 10 * (seed % 3)))  # long ones let branches share a set
    taken: dict[int, set[int]] = {}
    for _ in range(3):
        rows = []
        for _ in range(12):
            picture = int(generator.integers(3))
            tail = generator.integers(10, 13, size=int(generator.integers(1, 7))).tolist()
            rows.append(row(picture, f"{picture}-{generator.integers(4)}", *beginning, *tail))
        first = len(forest)
        for given, path in zip(rows, forest.add(rows), strict=True):
            assert conversation(forest, int(path[-1])) == given.ids
        taken |= seen_by_every_node(forest, first)
    assert taken == {node: ancestors(forest, node) for node in range(len(forest))}


def ancestors(forest: PrefixForest, node: int) -> set[int]:
    """A node and all before it."""
    return {node} | (ancestors(forest, forest.parents[node]) if forest.parents[node] != NO_NODE else set())


def seen_by_every_node(forest: PrefixForest, first: int = 0) -> dict[int, set[int]]:
    """What each new node attends to, read from the blocks."""
    new = forest.take_new()
    assert len(new.token_ids) == len(forest) - first
    return read_seen(new, first)


def read_seen(new: NewNodes, first: int) -> dict[int, set[int]]:
    """The same of nodes that have been taken."""
    slots = []
    for block in new.blocks:
        for queries, keys, number in zip(block.queries, block.keys, range(len(block.queries)), strict=True):
            for place, query in enumerate(queries):
                visible = np.arange(len(keys)) <= place if block.is_visible is None else block.is_visible[number, place]
                slots.append((int(query) + first, set(keys[visible].tolist())))
    found = {}
    for node, place in enumerate(new.places, start=first):
        assert slots[place][0] == node
        found[node] = slots[place][1]
    return found
