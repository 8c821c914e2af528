"""Conversations as prefix trees of token ids, with their common prefix stored and computed once.

`ForestStates` keeps the keys and values of every node, so that each node of the forest passes through the language
model once.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from plum.models.backbones.backbone import AddedFeatures, Backbone, Injection
from plum.structures import ImageTokens

NO_NODE = -1
"""Parent of a first token, and `patches` and `images` of a text token."""
MAX_LOGIT_ROWS = 1024
"""Maximum number of positions whose next-token logits are held at a time."""


@dataclass(frozen=True)
class ForestRow:
    """A conversation, its ids with image placeholders expanded.

    picture: what must be equal for rows to share the states of their images: the images, and in a guided model the
        first prompt
    branch: rows of one branch share what their ids have in common
    images: indices of the images shown; patches: positions of each one's image tokens, in order
    prompt_end: position of the first prompt's last token; only guided models need it
    positions: int64 [axes, T], for the language model; None: a token's position is its index

    Raises:
        ValueError: the row shows another number of images than it names.
    """

    picture: Hashable
    branch: Hashable
    ids: tuple[int, ...]
    images: tuple[int, ...]
    patches: tuple[tuple[int, ...], ...]
    prompt_end: int | None = None
    positions: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.patches):
            raise ValueError(
                f"the conversation shows {len(self.patches)} images, and {len(self.images)} are named: a batch of "
                "questions is about one image each; ask about several images with Predictor.generate_about"
            )

    @property
    def opening(self) -> tuple[int, ...]:
        """The ids up to the last image token."""
        return self.ids[: max((patches[-1] + 1 for patches in self.patches if patches), default=0)]

    def patch_at(self) -> dict[int, tuple[int, int]]:
        """Return the image and the number of the image token at each position that has one."""
        return {
            position: (image, number)
            for image, patches in zip(self.images, self.patches, strict=True)
            for number, position in enumerate(patches)
        }

    def position(self, depth: int) -> tuple[int, ...]:
        """Return a token's position on each axis."""
        return (depth,) if self.positions is None else tuple(self.positions[:, depth].tolist())


@dataclass(frozen=True)
class AttentionBlock:
    """Attention of R sets of new nodes, each to its own nodes of the forest.

    queries: [R, q] indices among the new nodes; keys: [R, k] indices in the forest. Both are padded.
    is_visible: [R, q, k], which keys each query attends to; None: causal, query i attends to the keys up to the i-th.
    """

    queries: np.ndarray
    keys: np.ndarray
    is_visible: np.ndarray | None


@dataclass(frozen=True)
class NewNodes:
    """Nodes that have not been computed; all arrays are [n], in the order of node indices.

    positions: [axes, n], for the language model
    images, patches: image of an image patch, and its number in the image; NO_NODE for text
    blocks: which nodes attend to which; places: each node's index in the concatenated queries of the blocks
    """

    token_ids: np.ndarray
    positions: np.ndarray
    images: np.ndarray
    patches: np.ndarray
    blocks: tuple[AttentionBlock, ...]
    places: np.ndarray


@dataclass(frozen=True)
class _Trunk:
    """The beginning of all rows of a picture: its ids, the index of its first node, and that of the planting."""

    ids: tuple[int, ...]
    first: int
    planting: int

    @property
    def nodes(self) -> np.ndarray:
        """Indices of its nodes."""
        return self.first + np.arange(len(self.ids))


@dataclass
class _Branch:
    """A prefix tree below the trunk: the indices of its nodes, and what each attends to in the tree and the trunk."""

    picture: Hashable
    nodes: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)  # (parent, token id) -> place in `nodes`
    ancestors: list[np.ndarray] = field(default_factory=list)  # per node: places it sees, its own last
    num_trunk_seen: list[int] = field(default_factory=list)
    num_done: int = 0


class PrefixForest:
    """Prefix trees of conversations about several pictures; the forest can grow after it has been computed.

    A picture's trunk is planted with its first rows. Pictures planted together have equal trunks, which are computed as
    one block; pictures whose images have different numbers of tokens are planted apart.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.positions: list[tuple[int, ...]] = []
        self.parents: list[int] = []
        self.images: list[int] = []
        self.patches: list[int] = []
        self._trunks: dict[Hashable, _Trunk] = {}
        self._branches: dict[Hashable, _Branch] = {}
        self._num_plantings = 0
        self._num_done = 0

    def __len__(self) -> int:
        return len(self.token_ids)

    def trunk(self, picture: Hashable) -> tuple[int, ...]:
        """Return the ids of the trunk of a picture that has rows."""
        return self._trunks[picture].ids

    def add(self, rows: Sequence[ForestRow]) -> list[np.ndarray]:
        """Add conversations; what the rows of new pictures have in common becomes the trunk of each of these.

        Returns:
            For each row, the node index of each of its tokens, int64 [T].
        """
        new: dict[tuple[int, ...], list[ForestRow]] = {}
        for row in rows:
            if row.picture not in self._trunks:
                new.setdefault(row.opening, []).append(row)
        for alike in new.values():
            self._plant(alike)
        return [self._add_row(row) for row in rows]

    def take_new(self) -> NewNodes:
        """Return the nodes added since the last call, to be computed now."""
        first = self._num_done
        blocks, places = [], []
        num_before = 0
        for trunks in self._new_trunks():
            block = AttentionBlock(trunks - first, trunks, None)
            blocks.append(block)
            places.append(np.stack([block.queries.ravel(), num_before + np.arange(trunks.size)]))
            num_before += trunks.size
        groups = self._grown_groups()
        if groups:
            block = self._branch_block(groups, first)
            blocks.append(block)
            for row, group in enumerate(groups):
                nodes = np.concatenate([branch.nodes[branch.num_done :] for branch in group])
                at = num_before + row * block.queries.shape[1] + np.arange(len(nodes))
                places.append(np.stack([nodes - first, at]))
                for branch in group:
                    branch.num_done = len(branch.nodes)
        new = slice(first, len(self))
        self._num_done = len(self)
        place_of_node = np.zeros(len(self) - first, dtype=np.int64)
        for nodes, at in places:
            place_of_node[nodes] = at
        columns = (self.token_ids, self.images, self.patches)
        token_ids, images, patches = (np.asarray(column[new], dtype=np.int64) for column in columns)
        positions = np.asarray(self.positions[new], dtype=np.int64).T
        return NewNodes(token_ids, positions, images, patches, tuple(blocks), place_of_node)

    def _new_trunks(self) -> list[np.ndarray]:
        """Return the nodes [pictures, trunk] of each planting since the last call, empty trunks left out."""
        plantings: dict[int, list[np.ndarray]] = {}
        for trunk in self._trunks.values():
            if trunk.first >= self._num_done and trunk.ids:
                plantings.setdefault(trunk.planting, []).append(trunk.nodes)
        return [np.stack(trunks) for trunks in plantings.values()]

    def _plant(self, rows: Sequence[ForestRow]) -> None:
        """Make the common prefix of all rows the trunk of each of their pictures; a row keeps a token of its own."""
        common = min(len(row.ids) for row in rows) - 1
        for row in rows[1:]:
            common = _num_common(rows[0].ids[:common], row.ids)
        ids = rows[0].ids[:common]
        for row in rows:
            if row.picture in self._trunks:
                continue
            self._trunks[row.picture] = _Trunk(ids, len(self), self._num_plantings)
            patch_at = row.patch_at()
            for depth, token in enumerate(ids):
                parent = NO_NODE if depth == 0 else len(self) - 1
                self._new_node(token, row.position(depth), parent, patch_at.get(depth))
        self._num_plantings += 1

    def _add_row(self, row: ForestRow) -> np.ndarray:
        trunk = self._trunks[row.picture]
        num_shared = _num_common(trunk.ids, row.ids)
        path = trunk.nodes[:num_shared].tolist()
        branch = self._branches.setdefault(row.branch, _Branch(row.picture))
        assert branch.picture == row.picture, "a branch belongs to one picture"
        seen: list[int] = []  # places in the branch
        patch_at = row.patch_at()
        for depth in range(num_shared, len(row.ids)):
            token, parent = row.ids[depth], path[-1] if path else NO_NODE
            place = branch.children.get((parent, token))
            if place is None:
                place = len(branch.nodes)
                branch.children[parent, token] = place
                branch.nodes.append(len(self))
                branch.num_trunk_seen.append(num_shared)
                branch.ancestors.append(np.asarray([*seen, place]))
                self._new_node(token, row.position(depth), parent, patch_at.get(depth))
            seen.append(place)
            path.append(branch.nodes[place])
        return np.asarray(path, dtype=np.int64)

    def _new_node(self, token: int, position: tuple[int, ...], parent: int, shown: tuple[int, int] | None) -> None:
        image, patch = shown or (NO_NODE, NO_NODE)
        self.token_ids.append(token)
        self.positions.append(position)
        self.parents.append(parent)
        self.images.append(image)
        self.patches.append(patch)

    def _grown_groups(self) -> list[list[_Branch]]:
        """Return the branches with new nodes, in groups whose attention is computed as one set.

        A set holds a copy of its trunk's keys and values, so branches of one picture share a set. Keys of the other
        branches in a set are computed and masked; sets are no larger than the trunk, so this costs less than it saves.
        """
        groups: list[list[_Branch]] = []
        last_of_picture: dict[Hashable, list[_Branch]] = {}
        for branch in self._branches.values():
            if branch.num_done == len(branch.nodes):
                continue
            group = last_of_picture.get(branch.picture, [])
            longest = len(self._trunks[branch.picture].ids)
            if not group or sum(len(one.nodes) for one in (*group, branch)) > longest:
                group = last_of_picture[branch.picture] = []
                groups.append(group)
            group.append(branch)
        return groups

    def _branch_block(self, groups: Sequence[Sequence[_Branch]], first: int) -> AttentionBlock:
        """Return the attention of new nodes to their picture's trunk and their own tree; one set per group."""
        trunks = [self._trunks[group[0].picture].nodes for group in groups]
        num_queries = max(sum(len(branch.nodes) - branch.num_done for branch in group) for group in groups)
        num_keys = max(
            len(trunk) + sum(len(branch.nodes) for branch in group) for trunk, group in zip(trunks, groups, strict=True)
        )
        queries = np.zeros((len(groups), num_queries), dtype=np.int64)
        keys = np.zeros((len(groups), num_keys), dtype=np.int64)
        is_visible = np.zeros((len(groups), num_queries, num_keys), dtype=bool)
        for row, (trunk, group) in enumerate(zip(trunks, groups, strict=True)):
            keys[row, : len(trunk)] = trunk
            query, key = 0, len(trunk)
            for branch in group:
                keys[row, key : key + len(branch.nodes)] = branch.nodes
                for place in range(branch.num_done, len(branch.nodes)):
                    queries[row, query] = branch.nodes[place] - first
                    is_visible[row, query, : branch.num_trunk_seen[place]] = True
                    is_visible[row, query, key + branch.ancestors[place]] = True
                    query += 1
                key += len(branch.nodes)
            is_visible[row, query:, 0] = True  # padding must attend to something: a softmax over nothing is NaN
        return AttentionBlock(queries, keys, is_visible)


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    for position, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return position
    return min(len(first), len(second))


class ForestStates:
    """States of conversations about some images; grows with every `add`.

    Args:
        backbone: the language model.
        image_tokens: of the images.
    """

    def __init__(self, backbone: Backbone, image_tokens: ImageTokens) -> None:
        self.backbone = backbone
        self.forest = PrefixForest()
        self._image_tokens = image_tokens
        self._keys: list[Tensor] = []  # per layer [nodes, key-value heads, d]
        self._values: list[Tensor] = []
        self._states = image_tokens.values.new_zeros(0, image_tokens.values.shape[-1])
        self._log_probs = np.zeros(0)  # per node
        self._has_log_prob = np.zeros(0, dtype=bool)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one node's keys and values in all layers; 0 while the forest is empty."""
        kept = [tensor[0] for tensor in (*self._keys, *self._values)]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def add(self, rows: Sequence[ForestRow]) -> list[np.ndarray]:
        """Add conversations and compute the new nodes.

        Returns:
            For each row, the node index of each of its tokens, int64 [T].
        """
        paths = self.forest.add(rows)
        new = self.forest.take_new()
        if len(new.token_ids):
            injection = self._find_injection(rows, paths, len(new.token_ids))
            self._states = torch.cat([self._states, self._compute(new, injection)])
            self._log_probs = np.concatenate([self._log_probs, np.zeros(len(new.token_ids))])
            self._has_log_prob = np.concatenate([self._has_log_prob, np.zeros(len(new.token_ids), dtype=bool)])
        return paths

    def gather(self, paths: Sequence[np.ndarray]) -> Tensor:
        """Return the states [N, T, D] of rows, padded on the right with meaningless states."""
        nodes = np.zeros((len(paths), max(map(len, paths))), dtype=np.int64)
        for row, path in enumerate(paths):
            nodes[row, : len(path)] = path
        return self._states[self._index(nodes)]

    def log_probs(self, paths: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return log-probabilities of the rows' text tokens given the tokens before them.

        Returns:
            For each row float64 [T], in nats; 0 for image patches and the first token, which are not predicted.
        """
        parents = np.asarray(self.forest.parents)
        is_text = np.asarray(self.forest.patches) == NO_NODE
        nodes = np.unique(np.concatenate(paths))
        nodes = nodes[is_text[nodes] & (parents[nodes] != NO_NODE) & ~self._has_log_prob[nodes]]
        nodes = nodes[np.argsort(parents[nodes], kind="stable")]  # children of one state share its logits
        for chunk in _chunks_by_parent(nodes, parents[nodes], MAX_LOGIT_ROWS):
            self._log_probs[chunk] = self._log_probs_of(chunk, parents[chunk])
            self._has_log_prob[chunk] = True
        return [self._log_probs[path] for path in paths]

    def continue_greedily(self, paths: Sequence[np.ndarray], max_new_tokens: int) -> Tensor:
        """Continue prompts of the forest greedily; keys and values are copied, the forest is unchanged.

        Args:
            paths: the N prompts' paths, from `add`.
            max_new_tokens: maximum length of the continuation.

        Returns:
            Token ids [N, up to max_new_tokens], the end token included, padding after it.
        """
        length = max(map(len, paths))
        nodes = np.zeros((len(paths), length), dtype=np.int64)  # padded on the left
        is_token = np.zeros(nodes.shape, dtype=np.int64)
        for row, path in enumerate(paths):
            nodes[row, length - len(path) :] = path
            is_token[row, length - len(path) :] = 1
        known = self._index(nodes[:, :-1])
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            cache.update(keys[known].transpose(1, 2), values[known].transpose(1, 2), layer)  # [N, heads, length - 1, d]
        last = nodes[:, -1]
        return self.backbone.generate_from(
            self._index(np.asarray(self.forest.token_ids)[last]),
            self._index(is_token),
            self._index(_axes(np.asarray(self.forest.positions)[last].T)),
            cache,
            max_new_tokens,
        )

    def _log_probs_of(self, nodes: np.ndarray, parents: np.ndarray) -> np.ndarray:
        unique, row_of_node = np.unique(parents, return_inverse=True)
        logits = self.backbone.token_logits(self._states[self._index(unique)]).float()  # [parents, V]
        tokens = self._index(np.asarray(self.forest.token_ids)[nodes])
        rows = self._index(row_of_node)
        return (logits[rows, tokens] - logits.logsumexp(-1)[rows]).cpu().double().numpy()  # MPS has no float64

    def _find_injection(self, rows: Sequence[ForestRow], paths: Sequence[np.ndarray], num_new: int) -> Injection | None:
        """Return where layers read images again among the new nodes: at images that no earlier row has introduced.

        Rows that share an image's first node share all its nodes, because the ids of an image are all the same.
        """
        if not self.backbone.reads_images_again:
            return None
        details = self._image_tokens.details
        assert details is not None, "a model that reads images again encodes what it reads"
        first = len(self.forest) - num_new
        pairs: dict[int, tuple[np.ndarray, int, int]] = {}  # by an image's first node: its nodes, image and guide
        for row, path in zip(rows, paths, strict=True):
            assert row.prompt_end is not None or not self.backbone.is_guided, (
                "a guided model's rows say where prompts end"
            )
            guide = NO_NODE if row.prompt_end is None else int(path[row.prompt_end]) - first
            for image, patches in zip(row.images, row.patches, strict=True):
                nodes = path[list(patches)] - first
                if nodes[0] >= 0:
                    pairs.setdefault(int(nodes[0]), (nodes, image, guide))
        if not pairs:
            return None
        places, images, guides = (np.asarray(column) for column in zip(*pairs.values(), strict=True))
        is_guided = self.backbone.is_guided
        return Injection(
            self._index(guides) if is_guided else None, self._index(places), details[self._index(images)], num_new
        )

    def _compute(self, new: NewNodes, injection: Injection | None) -> Tensor:
        """Return the states [n, D] of new nodes; their keys and values are appended."""
        blocks = [_BlockOnDevice(block, self._device) for block in new.blocks]
        places = self._index(new.places)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            if layer == len(self._keys):
                self._keys.append(keys)
                self._values.append(values)
            else:
                self._keys[layer] = torch.cat([self._keys[layer], keys])
                self._values[layer] = torch.cat([self._values[layer], values])
            attended = [block.attend(queries, self._keys[layer], self._values[layer]) for block in blocks]
            return torch.cat(attended)[places]

        positions = self._index(_axes(new.positions))
        return self.backbone.run_layers(self._embed(new), positions, attend, injection, self._added(new))

    def _added(self, new: NewNodes) -> AddedFeatures | None:
        """Return what the first layers add to the image tokens among the new nodes."""
        layers, is_image = self._image_tokens.layers, new.patches != NO_NODE
        if layers is None or not is_image.any():
            return None
        features = layers[self._index(new.images[is_image]), self._index(new.patches[is_image])]
        return AddedFeatures(self._index(is_image), features)

    def _embed(self, new: NewNodes) -> Tensor:
        embeddings = self.backbone.embed_text(self._index(new.token_ids))
        at = np.flatnonzero(new.patches != NO_NODE)
        if len(at):
            patches = self._image_tokens.values[self._index(new.images[at]), self._index(new.patches[at])]
            embeddings[self._index(at)] = patches.to(embeddings.dtype)
        return embeddings

    def _index(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self._image_tokens.values.device


def _axes(positions: np.ndarray) -> np.ndarray:
    """Return positions [axes, n] as a language model takes them: [n] if there is one axis."""
    return positions[0] if len(positions) == 1 else positions


class _BlockOnDevice:
    """An attention block with its index tables on the device."""

    def __init__(self, block: AttentionBlock, device: torch.device) -> None:
        self.queries = torch.from_numpy(block.queries).to(device)
        self.keys = torch.from_numpy(block.keys).to(device)
        visible = block.is_visible
        self.mask = None if visible is None else torch.from_numpy(visible[:, None]).to(device)  # [R, 1, q, k]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from new nodes [n, heads, d] to all nodes [nodes, key-value heads, d]; returns [R * q, heads, d]."""
        attended = functional.scaled_dot_product_attention(
            queries[self.queries].transpose(1, 2),
            keys[self.keys].transpose(1, 2),
            values[self.keys].transpose(1, 2),
            attn_mask=self.mask,
            is_causal=self.mask is None,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        return attended.transpose(1, 2).flatten(0, 1)


def _chunks_by_parent(nodes: np.ndarray, parents: np.ndarray, size: int) -> list[np.ndarray]:
    """Split nodes, sorted by parent, into runs of at most `size` parents."""
    if not len(nodes):
        return []
    number = np.unique(parents, return_inverse=True)[1]
    return np.split(nodes, np.searchsorted(number, np.arange(size, int(number[-1]) + 1, size)))
