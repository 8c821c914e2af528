"""Conversations as prefix trees of token ids: what several of them have in common from the start on stands there once.

All conversations of a forest begin with the same ids, its trunk (system prompt and image patches), which every picture
has once. What follows grows as one prefix tree per branch, a caller's group of conversations such as those that answer
one question. Sharing is decided on ids alone: a tokenizer may merge letters across the edges of question and answer.

Paper: Partonomy scores five choices per question, each with a forward of its own; here: the same numbers from one.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

NO_NODE = -1
"""Parent of a first token, and `patches` of a text token."""


@dataclass(frozen=True)
class ForestRow:
    """A conversation: its picture's number, the branch it belongs to, its ids with `<image>` expanded.

    image_start: position of the first image patch; None without an image.
    """

    picture: int
    branch: Hashable
    ids: tuple[int, ...]
    image_start: int | None


@dataclass(frozen=True)
class AttentionBlock:
    """Attention of R sets of new nodes among nodes of the forest.

    queries: [R, q] numbers among the new nodes; keys: [R, k] numbers in the forest. Both are padded.
    is_visible: [R, q, k], which key each query sees; None: query i sees the keys up to the i-th.
    """

    queries: np.ndarray
    keys: np.ndarray
    is_visible: np.ndarray | None


@dataclass(frozen=True)
class NewNodes:
    """Nodes that have not been computed; all arrays [n], in the order of their numbers.

    patches: number of the image patch, NO_NODE for text
    blocks: who attends to whom; places: each node's place in the blocks' queries, one block after the other
    """

    token_ids: np.ndarray
    depths: np.ndarray
    pictures: np.ndarray
    patches: np.ndarray
    blocks: tuple[AttentionBlock, ...]
    places: np.ndarray


@dataclass
class _Branch:
    """A prefix tree below the trunk: its nodes' numbers, what each sees of the tree, what each sees of the trunk."""

    picture: int
    nodes: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)  # (parent, token id) -> place in `nodes`
    ancestors: list[np.ndarray] = field(default_factory=list)  # per node: places it sees, its own last
    num_trunk_seen: list[int] = field(default_factory=list)
    num_done: int = 0


class PrefixForest:
    """Prefix trees of conversations about several pictures; it can grow after it has been computed.

    Args:
        num_pictures: B.
        num_patches: image patches of one picture.
    """

    def __init__(self, num_pictures: int, num_patches: int) -> None:
        self.num_pictures = num_pictures
        self.num_patches = num_patches
        self.trunk: tuple[int, ...] = ()
        self.token_ids: list[int] = []
        self.depths: list[int] = []
        self.parents: list[int] = []
        self.pictures: list[int] = []
        self.patches: list[int] = []
        self._branches: dict[Hashable, _Branch] = {}
        self._num_done = 0

    def __len__(self) -> int:
        return len(self.token_ids)

    def add(self, rows: Sequence[ForestRow]) -> list[np.ndarray]:
        """Add conversations; the first call decides the trunk.

        Returns:
            Per row the number of the node of each of its tokens, int64 [T].
        """
        if not self.trunk and rows:
            self._plant(rows)
        return [self._add_row(row) for row in rows]

    def take_new(self) -> NewNodes:
        """Return the nodes added since the last call, to be computed now."""
        first = self._num_done
        blocks, places = [], []
        num_trunk_nodes = len(self.trunk) * self.num_pictures
        num_before = 0
        if first == 0 and num_trunk_nodes:
            trunk = np.arange(num_trunk_nodes).reshape(self.num_pictures, -1)
            blocks.append(AttentionBlock(trunk, trunk, None))
            places.append(np.stack([trunk.ravel(), trunk.ravel()]))
            num_before = num_trunk_nodes
        grown = [branch for branch in self._branches.values() if branch.num_done < len(branch.nodes)]
        if grown:
            block = self._branch_block(grown, first)
            blocks.append(block)
            for row, branch in enumerate(grown):
                nodes = np.asarray(branch.nodes[branch.num_done :])
                at = num_before + row * block.queries.shape[1] + np.arange(len(nodes))
                places.append(np.stack([nodes - first, at]))
                branch.num_done = len(branch.nodes)
        new = slice(first, len(self))
        self._num_done = len(self)
        place_of_node = np.zeros(len(self) - first, dtype=np.int64)
        for nodes, at in places:
            place_of_node[nodes] = at
        columns = (self.token_ids, self.depths, self.pictures, self.patches)
        token_ids, depths, pictures, patches = (np.asarray(column[new], dtype=np.int64) for column in columns)
        return NewNodes(token_ids, depths, pictures, patches, tuple(blocks), place_of_node)

    def _plant(self, rows: Sequence[ForestRow]) -> None:
        """Make the common beginning of all rows the trunk of every picture; each row keeps a token of its own."""
        common = min(len(row.ids) for row in rows) - 1
        for row in rows[1:]:
            common = _num_common(rows[0].ids[:common], row.ids)
        self.trunk = rows[0].ids[:common]
        for picture in range(self.num_pictures):
            for depth, token in enumerate(self.trunk):
                parent = NO_NODE if depth == 0 else len(self) - 1
                self._new_node(token, depth, parent, picture, rows[0].image_start)

    def _add_row(self, row: ForestRow) -> np.ndarray:
        num_shared = _num_common(self.trunk, row.ids)
        start = row.picture * len(self.trunk)
        path = list(range(start, start + num_shared))
        branch = self._branches.setdefault(row.branch, _Branch(row.picture))
        assert branch.picture == row.picture, "a branch belongs to one picture"
        seen: list[int] = []  # places in the branch
        for depth in range(num_shared, len(row.ids)):
            token, parent = row.ids[depth], path[-1] if path else NO_NODE
            place = branch.children.get((parent, token))
            if place is None:
                place = len(branch.nodes)
                branch.children[parent, token] = place
                branch.nodes.append(len(self))
                branch.num_trunk_seen.append(num_shared)
                branch.ancestors.append(np.asarray([*seen, place]))
                self._new_node(token, depth, parent, row.picture, row.image_start)
            seen.append(place)
            path.append(branch.nodes[place])
        return np.asarray(path, dtype=np.int64)

    def _new_node(self, token: int, depth: int, parent: int, picture: int, image_start: int | None) -> None:
        patch = NO_NODE if image_start is None else depth - image_start
        self.token_ids.append(token)
        self.depths.append(depth)
        self.parents.append(parent)
        self.pictures.append(picture)
        self.patches.append(patch if 0 <= patch < self.num_patches else NO_NODE)

    def _branch_block(self, branches: Sequence[_Branch], first: int) -> AttentionBlock:
        """Attention of branches' new nodes to their picture's trunk and their own tree."""
        num_trunk = len(self.trunk)
        num_queries = max(len(branch.nodes) - branch.num_done for branch in branches)
        num_keys = num_trunk + max(len(branch.nodes) for branch in branches)
        queries = np.zeros((len(branches), num_queries), dtype=np.int64)
        keys = np.zeros((len(branches), num_keys), dtype=np.int64)
        is_visible = np.zeros((len(branches), num_queries, num_keys), dtype=bool)
        for row, branch in enumerate(branches):
            keys[row, :num_trunk] = branch.picture * num_trunk + np.arange(num_trunk)
            keys[row, num_trunk : num_trunk + len(branch.nodes)] = branch.nodes
            num_new = len(branch.nodes) - branch.num_done
            queries[row, :num_new] = np.asarray(branch.nodes[branch.num_done :]) - first
            is_visible[row, num_new:, 0] = True  # padding has to see something: a softmax over nothing is not a number
            for place, (ancestors, num_seen) in enumerate(
                zip(branch.ancestors[branch.num_done :], branch.num_trunk_seen[branch.num_done :], strict=True)
            ):
                is_visible[row, place, :num_seen] = True
                is_visible[row, place, num_trunk + ancestors] = True
        return AttentionBlock(queries, keys, is_visible)


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    for position, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return position
    return min(len(first), len(second))
