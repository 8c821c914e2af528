"""Makes implicit questions about objects and parts from annotations and a table of functions, without a model.

`functions.yaml` lists the functions of parts and objects.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from partonomy.datasets.sources.mmr import TARGET_MARK, Granularity, Kind, MmrQuestion
from partonomy.files import hash_json
from partonomy.names import OBJECT_PART_SEPARATOR
from partonomy.questions.mmr.pairs import MadePairs, Rejection, find_faults, reject
from partonomy.questions.mmr.scene import Scene, SceneTarget, read_scene, says_name, word_keys
from partonomy.structures import AnnotatedImage
from partonomy.yaml_files import read_yaml

DEFAULT_FUNCTIONS = Path(__file__).with_name("functions.yaml")
KINDS = ("parts", "objects")
GROUPS, UNASKED = "groups", "unasked"
ALTERNATIVES = "/"
MAX_TARGETS = 16
"""The largest number of targets of an answer in the published MMR (paper, section 3.3)."""
MAX_DRAWS = 12
"""Number of draws for a question before the image counts as exhausted."""
COUNTS = {
    Kind.OBJECT: ((1, 0), (1, 0), (2, 0)),
    Kind.PART: ((0, 1), (0, 1), (0, 2), (0, 3)),
    Kind.MIXED: ((1, 1), (1, 1), (1, 2)),
}
"""Numbers of object functions and part functions that a question of a kind asks for; drawn uniformly."""
OBJECT_OPENINGS = (
    "What in this picture would help to {purpose}",
    "Which whole thing or things here would one choose to {purpose}",
    "What is to be seen here that would be of use to {purpose}",
)
PART_OPENINGS = (
    "Which part or parts in this picture does it take to {purpose}",
    "What among all the parts to be seen here serves to {purpose}",
    "By means of which part or parts here is it possible to {purpose}",
)
FURTHER = {
    Granularity.OBJECT: "what would help to {purpose}",
    Granularity.PART: "which part or parts does it take to {purpose}",
}
ANSWERS = {Granularity.OBJECT: "one would choose {targets}", Granularity.PART: "it takes {targets}"}


@dataclass(frozen=True)
class FunctionTable:
    """Purposes ("sit down") of parts and objects.

    Attributes:
        parts: purposes by "object:part", and by part name for all objects that have no entry of their own.
        objects: purposes by object name.
        unasked: "object:part" of parts that serve none of the purposes of their name.
    """

    parts: Mapping[str, tuple[str, ...]]
    objects: Mapping[str, tuple[str, ...]]
    unasked: frozenset[str] = frozenset()

    @cached_property
    def _by_part_name(self) -> Mapping[str, frozenset[str]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for entry, purposes in self.parts.items():
            found[entry.rpartition(OBJECT_PART_SEPARATOR)[2]].update(purposes)
        return {name: frozenset(purposes) for name, purposes in found.items()}

    def find_suspected(self, object_name: str, part_name: str) -> frozenset[str]:
        """Return the purposes that a part without an entry may serve: those of its name in other objects."""
        is_known = f"{object_name}{OBJECT_PART_SEPARATOR}{part_name}" in self.unasked
        return frozenset() if is_known else self._by_part_name.get(part_name, frozenset())

    def find(self, object_name: str, part_name: str | None) -> tuple[str, ...]:
        """Return the purposes of a part, or of an object if `part_name` is None; both names are cleaned."""
        if part_name is None:
            return self.objects.get(object_name, ())
        own = f"{object_name}{OBJECT_PART_SEPARATOR}{part_name}"
        return self.parts.get(own, self.parts.get(part_name, ()))


def load_functions(path: Path = DEFAULT_FUNCTIONS) -> FunctionTable:
    """Read a table of functions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another form, or a purpose contains the name of one of its entries; the message names file
            and purpose, or group.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the file of functions does not exist; correct the path")
    content = read_yaml(path)
    if not isinstance(content, dict) or set(content) - {GROUPS, UNASKED} != set(KINDS):
        raise ValueError(
            f"{path}: the file of functions must have exactly the keys {', '.join(KINDS)} and, optionally, {GROUPS}, "
            f"{UNASKED}"
        )
    groups = _read_groups(content.get(GROUPS, {}), f"{path}, {GROUPS}")
    parts, objects = (_invert(content[kind], groups, f"{path}, {kind}") for kind in KINDS)
    unasked = _read_unasked(content.get(UNASKED), groups, f"{path}, {UNASKED}")
    if both := sorted(unasked & parts.keys()):
        raise ValueError(f"{path}, {UNASKED}: {both[0]!r} has a purpose in {KINDS[0]}")
    return FunctionTable(parts, objects, unasked)


def _read_unasked(listed: object, groups: Mapping[str, tuple[str, ...]], where: str) -> frozenset[str]:
    """Read the parts that serve no purpose of their name."""
    if listed is None:
        return frozenset()
    if not isinstance(listed, str) or not all(OBJECT_PART_SEPARATOR in entry for entry in listed.split(",")):
        raise ValueError(f"{where}: expected object:part, object:part, got {listed!r}")
    return frozenset(one for entry in listed.split(",") for one in _expand(entry.strip(), groups, is_part=True))


def _read_groups(groups: object, where: str) -> dict[str, tuple[str, ...]]:
    """Read the names that stand for several objects."""
    if not isinstance(groups, dict):
        raise ValueError(f"{where}: expected lines 'name: object, object', got {type(groups).__name__}")
    found = {}
    for name, listed in groups.items():
        members = tuple(one.strip() for one in listed.split(",")) if isinstance(listed, str) else ()
        if not isinstance(name, str) or not all(members) or not members or name in members:
            raise ValueError(f"{where}, {name!r}: expected other names with commas between, got {listed!r}")
        found[name] = members
    return found


def _expand(entry: str, groups: Mapping[str, tuple[str, ...]], is_part: bool) -> list[str]:
    """Write out an entry: groups, and alternatives as in "car/bus:door/step"."""
    sides = [[one.strip() for one in side.split(ALTERNATIVES)] for side in entry.split(OBJECT_PART_SEPARATOR)]
    if len(sides) > 1 or not is_part:
        sides[0] = [member for name in sides[0] for member in groups.get(name, (name,))]
    return [OBJECT_PART_SEPARATOR.join(names) for names in product(*sides)]


def _invert(purposes: object, groups: Mapping[str, tuple[str, ...]], where: str) -> dict[str, tuple[str, ...]]:
    """Turn purpose -> "car/bus:door, bicycle:saddle" into name -> purposes."""
    if not isinstance(purposes, dict):
        raise ValueError(f"{where}: expected lines 'purpose: name, name', got {type(purposes).__name__}")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for purpose, listed in purposes.items():
        if not isinstance(purpose, str) or not isinstance(listed, str):
            raise ValueError(f"{where}, {purpose!r}: expected a purpose and names with commas between, got {listed!r}")
        keys = word_keys(purpose)
        written = [entry.strip() for entry in listed.split(",")]
        for entry in (one for short in written for one in _expand(short, groups, where.endswith(KINDS[0]))):
            for name in entry.split(OBJECT_PART_SEPARATOR):
                if not name or says_name(keys, name):
                    raise ValueError(
                        f"{where}, {purpose!r}: the entry {entry!r} is empty or named by the purpose itself"
                    )
            if purpose not in found[entry]:
                found[entry].append(purpose)
    return {name: tuple(listed) for name, listed in found.items()}


@dataclass(frozen=True)
class Group:
    """A purpose and all targets in the image that serve it."""

    purpose: str
    granularity: Granularity
    targets: tuple[SceneTarget, ...]


@dataclass(frozen=True)
class Askable:
    """The groups of an image by granularity.

    Attributes:
        objects, parts: the groups.
        not_askable: categories that are not in the table, one entry per annotation.
        withheld: purposes that targets serve, but that are not asked for (see `group_targets`).
    """

    objects: tuple[Group, ...]
    parts: tuple[Group, ...]
    not_askable: tuple[str, ...]
    withheld: tuple[str, ...]


class TemplateMaker:
    """Makes pairs from templates; every image has its own random stream.

    Args:
        table: the table of functions.
        table_sha256: sha256 of the table's file.
        seed: seed of the draws.
        questions_per_image: number of pairs per image; fewer if the image offers no more.
    """

    def __init__(self, table: FunctionTable, table_sha256: str, seed: int, questions_per_image: int) -> None:
        if questions_per_image < 1:
            raise ValueError(f"questions_per_image must be at least 1, got {questions_per_image}")
        self._table = table
        self._seed = seed
        self._questions_per_image = questions_per_image
        self.settings: Mapping[str, object] = {
            "maker": "templates",
            "wording_sha256": hash_json([OBJECT_OPENINGS, PART_OPENINGS, FURTHER, ANSWERS, list(COUNTS.items())]),
            "functions_sha256": table_sha256,
            "seed": seed,
            "questions_per_image": questions_per_image,
        }

    def make(self, image: AnnotatedImage, kind: Kind | None) -> MadePairs:
        """Make the pairs of an image (see `PairMaker`); if `kind` is None, the kinds alternate."""
        kinds = list(Kind)
        number = len(kinds) if kind is None else kinds.index(kind)
        generator = np.random.default_rng((self._seed, image.image_id, number))
        scene = read_scene(image)
        askable = group_targets(scene, self._table)
        turns = [kinds[place] for place in generator.permutation(len(kinds))] if kind is None else [kind]
        questions: list[MmrQuestion] = []
        rejections: list[Rejection] = []
        asked: set[frozenset[str]] = set()
        for turn in range(self._questions_per_image):
            for _ in range(MAX_DRAWS):
                groups = draw_groups(askable, turns[turn % len(turns)], generator)
                purposes = frozenset(group.purpose for group in groups)
                if not groups or purposes in asked:
                    continue
                asked.add(purposes)
                question = word_question(f"{image.image_id}:{len(questions)}", groups, generator)
                faults = find_faults(question, scene)
                rejections += [reject(question.question, question.text_answer, fault) for fault in faults]
                if not faults:
                    questions.append(question)
                    break
        return MadePairs(tuple(questions), tuple(rejections), askable.not_askable, askable.withheld)


def group_targets(scene: Scene, table: FunctionTable) -> Askable:
    """Group an image's targets by purpose.

    A purpose is left out if its answer could lack a target: if an object that serves it has an instance without a mask,
    or if the image shows a part that serves it in other objects and whose own object is not in the table (the door of
    an unknown vehicle). So are purposes that more than `MAX_TARGETS` targets serve.
    """
    groups: dict[Granularity, defaultdict[str, list[SceneTarget]]] = {one: defaultdict(list) for one in Granularity}
    not_askable = []
    incomplete = {
        Granularity.OBJECT: {purpose for name in scene.unmasked for purpose in table.find(name, None)},
        Granularity.PART: set[str](),
    }
    for target in scene.targets:
        purposes = table.find(target.object_name, target.part_name)
        for purpose in purposes:
            groups[target.target.granularity][purpose].append(target)
        if not purposes:
            not_askable.append(target.target.category_name)
            if target.part_name is not None:
                incomplete[Granularity.PART] |= table.find_suspected(target.object_name, target.part_name)
    withheld = [
        purpose
        for kind, found in groups.items()
        for purpose, targets in sorted(found.items())
        if purpose in incomplete[kind] or len(targets) > MAX_TARGETS
    ]
    return Askable(
        _sorted_groups(groups[Granularity.OBJECT], Granularity.OBJECT, withheld),
        _sorted_groups(groups[Granularity.PART], Granularity.PART, withheld),
        tuple(not_askable),
        tuple(withheld),
    )


def draw_groups(askable: Askable, kind: Kind, generator: np.random.Generator) -> tuple[Group, ...]:
    """Draw the purposes of one question without a target in common; empty if the draw fails."""
    num_objects, num_parts = COUNTS[kind][int(generator.integers(len(COUNTS[kind])))]
    chosen = [*_draw_disjoint(askable.objects, num_objects, generator)]
    chosen += _draw_disjoint(askable.parts, num_parts, generator)
    num_targets = sum(len(group.targets) for group in chosen)
    return tuple(chosen) if len(chosen) == num_objects + num_parts and num_targets <= MAX_TARGETS else ()


def word_question(question_id: str, groups: Sequence[Group], generator: np.random.Generator) -> MmrQuestion:
    """Ask for one or more groups in one sentence, and answer in the same order."""
    openings = OBJECT_OPENINGS if groups[0].granularity is Granularity.OBJECT else PART_OPENINGS
    clauses = [openings[int(generator.integers(len(openings)))].format(purpose=groups[0].purpose)]
    clauses += [FURTHER[group.granularity].format(purpose=group.purpose) for group in groups[1:]]
    answer = "; ".join(ANSWERS[group.granularity].format(targets=_list_targets(group.targets)) for group in groups)
    targets = tuple(one.target for group in groups for one in group.targets)
    text_answer = f"{answer[0].upper()}{answer[1:]}."
    return MmrQuestion(question_id, f"{', and '.join(clauses)}?", targets, text_answer)


def _sorted_groups(
    found: Mapping[str, Iterable[SceneTarget]], granularity: Granularity, withheld: Collection[str]
) -> tuple[Group, ...]:
    return tuple(
        Group(purpose, granularity, tuple(sorted(targets, key=lambda one: (one.target.category_name, one.box))))
        for purpose, targets in sorted(found.items())
        if purpose not in withheld
    )


def _draw_disjoint(groups: Sequence[Group], count: int, generator: np.random.Generator) -> list[Group]:
    """Draw up to `count` groups in random order that share no target."""
    chosen: list[Group] = []
    taken: set[str] = set()
    for place in generator.permutation(len(groups)) if count else ():
        group = groups[int(place)]
        names = {one.numbered for one in group.targets}
        if len(chosen) < count and not names & taken:
            chosen.append(group)
            taken |= names
    return chosen


def _list_targets(targets: Sequence[SceneTarget]) -> str:
    """List targets with their marks: 'the car's front wheel {seg} and the car's rear wheel {seg}'."""
    named = [f"the {one.phrase} {TARGET_MARK}" for one in targets]
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]
